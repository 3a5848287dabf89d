//! `yue new`: every template is a program that starts and passes its own test; what cannot be created is refused.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn yue(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    command.env_remove("YUE_LOG").env("YUE_WATCHDOG", "0");
    command.output().expect("the yue command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The paths of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inner = path.strip_prefix(folder).expect("it is below");
                found.push(inner.display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn check_template(name: &str) {
    let place = tempfile::tempdir().expect("a folder");
    let made = yue(place.path(), &["new", "demo", "--template", name]);
    let (stdout, stderr) = (text(&made.stdout), text(&made.stderr));
    assert_eq!((made.status.code(), &*stderr), (Some(0), ""), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines.len() == 4 && lines[1].contains("cd demo"), "{stdout}");
    // It is not installed, so its name alone would start another one, or nothing.
    let start = format!("{} dev", env!("CARGO_BIN_EXE_yue"));
    assert!(lines[2].contains(&start), "{stdout}");

    let folder = place.path().join("demo");
    let files = files(&folder);
    for path in [
        ".gitignore",
        ".luarc.json",
        ".yue/yue.lua",
        "README.md",
        "page/index.html",
        "page/yue.js",
        "server.lua",
    ] {
        assert!(
            files.iter().any(|file| file == path),
            "{path} is missing: {files:?}"
        );
    }
    // What the server needs is there, and not only in the repository.
    let tested = yue(&folder, &["test.lua"]);
    let output = format!("{}{}", text(&tested.stdout), text(&tested.stderr));
    assert_eq!(tested.status.code(), Some(0), "{output}");
    assert!(
        tested.stderr.is_empty(),
        "a test that passes logs nothing: {output}"
    );
}

#[test]
fn the_chat_passes_its_test() {
    check_template("chat");
}

#[test]
fn the_arena_passes_its_test() {
    check_template("arena");
}

#[test]
fn the_description_for_editors_is_whole() {
    let place = tempfile::tempdir().expect("a folder");
    assert!(yue(place.path(), &["new", "demo"]).status.success());
    let stubs = files(&place.path().join("demo/.yue"));
    let originals = Path::new(env!("CARGO_MANIFEST_DIR")).join("../yue/lua/meta");
    assert_eq!(stubs, files(&originals));
}

/// The command with a limit on the size of its files, which it meets like a disk that is full.
fn yue_on_a_full_disk(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    let limit = libc::rlimit {
        rlim_cur: 8000,
        rlim_max: 8000,
    };
    // SAFETY: the closure makes two system calls, which are allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // Otherwise the signal ends the command at the limit.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command.output().expect("the yue command runs")
}

#[test]
fn a_project_that_cannot_be_written_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a folder");
    let here = place.path();
    fs::create_dir(here.join("empty")).expect("a folder");
    for name in ["demo", "empty"] {
        let refused = yue_on_a_full_disk(here, &["new", name]);
        let stderr = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        let start = format!("yue: cannot write {name}/");
        assert!(stderr.starts_with(&start), "{stderr}");
        assert!(
            stderr.ends_with("; the files created so far were removed\n"),
            "{stderr}"
        );
        assert!(refused.stdout.is_empty());
    }
    assert!(!here.join("demo").exists());
    let left: Vec<_> = fs::read_dir(here.join("empty"))
        .expect("it stays")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_folder_is_created_even_if_its_path_ends_with_a_dot() {
    let place = tempfile::tempdir().expect("a folder");
    for name in ["demo4/.", "demo5/"] {
        let made = yue(place.path(), &["new", name]);
        let plain = name.trim_end_matches(['/', '.']);
        let stdout = text(&made.stdout);
        assert!(made.status.success(), "{}", text(&made.stderr));
        assert!(
            stdout.starts_with(&format!("created {plain} from ")),
            "{stdout}"
        );
        assert!(place.path().join(plain).join("server.lua").exists());
    }
    let refused = yue(place.path(), &["new", "missing/demo/."]);
    let stderr = text(&refused.stderr);
    assert!(
        stderr.contains("there is no folder missing to create missing/demo in"),
        "{stderr}"
    );
}

#[test]
fn a_folder_that_is_empty_is_filled_and_others_are_refused() {
    let place = tempfile::tempdir().expect("a folder");
    let here = place.path();
    fs::create_dir(here.join("empty")).expect("a folder");
    assert!(yue(here, &["new", "empty"]).status.success());

    fs::write(here.join("file"), "mine").expect("a file");
    for (arguments, code, message) in [
        (
            &["new", "empty"][..],
            1,
            "empty exists and is not empty; choose another name",
        ),
        (
            &["new", "file"],
            1,
            "file exists and is not a folder; choose another name",
        ),
        (
            &["new", "missing/demo"],
            1,
            "there is no folder missing to create missing/demo in",
        ),
        (&["new", "a b"], 2, "'a b' is not a name for a program"),
        (&["new", ""], 2, "a value is required for '<NAME>'"),
        (
            &["new", "x", "-t", "chess"],
            2,
            "invalid value 'chess' for '--template <TEMPLATE>' [possible values: arena, chat]",
        ),
        (
            &["new", "/proc/demo"],
            1,
            "there is no folder /proc to create",
        ),
        (&["new"], 2, "<NAME>"),
    ] {
        let refused = yue(here, arguments);
        let stderr = text(&refused.stderr);
        // The folder of processes refuses in its own way.
        let message = if message.contains("/proc") {
            "/proc/demo"
        } else {
            message
        };
        assert!(
            refused.status.code() == Some(code) && stderr.contains(message),
            "{arguments:?}: {stderr}"
        );
        assert!(refused.stdout.is_empty());
    }
    assert_eq!(
        fs::read_to_string(here.join("file")).expect("it is there"),
        "mine"
    );
    assert!(
        !here.join("x").exists(),
        "nothing is created for a wrong template"
    );
}

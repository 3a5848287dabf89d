//! The Lua API, tested by Lua programs: each script in `yue/tests/lua/` is about one behaviour. The `yue` command runs
//! it once on each driver (with `YUE_IO`, on that one alone).
//!
//! A script checks with `lib/check.lua` and ends with `check.done()`, whose last line is looked for: a script that
//! ends early has failed. Lines at its top say what else is expected of it:
//!
//! ```text
//!   --! options: -c 3           options of the command
//!   --! args: a b=c             arguments of the script
//!   --! exit: 1                 its exit code, 0 by default; the last line is not looked for if it is another
//!   --! stdout: some text       is among what it prints (may be given more than once)
//!   --! stderr: some text       is among its complaints; without such a line it must have none
//! ```

mod common;

use common::{Ended, certificates, drivers, run_to_end};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The expectations that the top of a script states.
#[derive(Default)]
struct Expected {
    options: Vec<String>,
    args: Vec<String>,
    exit: i32,
    stdout: Vec<String>,
    stderr: Vec<String>,
    /// The script itself names the folder of certificates.
    uses_certificates: bool,
}

impl Expected {
    fn of(source: &str) -> Expected {
        let mut expected = Expected {
            uses_certificates: source.contains("YUE_CERTIFICATES"),
            ..Expected::default()
        };
        for line in source.lines().map_while(|line| line.strip_prefix("--! ")) {
            let (key, value) = line.split_once(": ").expect("`--! key: value`");
            let words = || value.split_whitespace().map(str::to_owned).collect();
            match key {
                "options" => expected.options = words(),
                "args" => expected.args = words(),
                "exit" => expected.exit = value.parse().expect("an exit code"),
                "stdout" => expected.stdout.push(value.to_owned()),
                "stderr" => expected.stderr.push(value.to_owned()),
                _ => panic!("the line `{line}` says nothing that is known"),
            }
        }
        expected
    }
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../yue/tests/lua");
    folder.canonicalize().expect("the scripts of the crate yue")
}

/// The files of the editor stubs, with `:` between them.
fn stub_files(folder: &Path) -> String {
    let files = std::fs::read_dir(folder.join("../../lua/meta")).expect("the folder of stubs");
    let mut paths: Vec<_> = files
        .map(|file| file.expect("a file of stubs").path().display().to_string())
        .collect();
    paths.sort();
    paths.join(":")
}

fn run(script: &Path, expected: &Expected, driver: &str) -> Ended {
    let folder = folder();
    // Only for the scripts that use them: making them takes a while.
    let certificates = expected.uses_certificates.then(certificates);
    let place = certificates.as_ref().map_or(&*folder, |made| made.path());
    let runtime = tempfile::tempdir().expect("a temporary folder");
    run_to_end(
        Command::new(env!("CARGO_BIN_EXE_yue"))
            .args(["--io", driver])
            .args(&expected.options)
            .arg(script)
            .args(&expected.args)
            .env("LUA_PATH", format!("{}/lib/?.lua;;", folder.display()))
            .env("YUE_META", stub_files(&folder))
            .env("YUE_CERTIFICATES", place)
            // The folder of the admin endpoint, for the scripts about it.
            .env("XDG_RUNTIME_DIR", runtime.path())
            .env_remove("YUE_ADMIN")
            .current_dir(&folder),
    )
}

/// Describes how the end of a script differs from what was expected.
fn faults(expected: &Expected, ended: &Ended) -> Vec<String> {
    let mut faults = Vec::new();
    if ended.code != Some(expected.exit) {
        let code = ended
            .code
            .map_or("no exit code".to_owned(), |code| code.to_string());
        faults.push(format!("it ended with {code}, not {}", expected.exit));
    }
    if expected.exit == 0
        && !ended
            .stdout
            .lines()
            .any(|line| line.starts_with("checks: "))
    {
        faults.push("it ended before `check.done()`".to_owned());
    }
    for text in expected
        .stdout
        .iter()
        .filter(|text| !ended.stdout.contains(*text))
    {
        faults.push(format!("it did not print `{text}`"));
    }
    for text in expected
        .stderr
        .iter()
        .filter(|text| !ended.stderr.contains(*text))
    {
        faults.push(format!("it did not complain of `{text}`"));
    }
    if expected.stderr.is_empty() && !ended.stderr.is_empty() {
        faults.push("it complained".to_owned());
    }
    faults
}

fn check(name: &str) {
    let script = folder().join(format!("{name}.lua"));
    let expected = Expected::of(&std::fs::read_to_string(&script).expect("the script can be read"));
    for driver in drivers() {
        let ended = run(&script, &expected, &driver);
        let faults = faults(&expected, &ended);
        assert!(
            faults.is_empty(),
            "{name}.lua on {driver}: {}\n--- stdout\n{}\n--- stderr\n{}",
            faults.join("; "),
            ended.stdout,
            ended.stderr
        );
    }
}

// One test for each script; `build.rs` lists them.
include!(concat!(env!("OUT_DIR"), "/scripts.rs"));

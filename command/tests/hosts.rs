//! `yue.nalloc` over ssh: a real sshd on loopback, with its own configuration, keys and cache.
//!
//! What cannot be tested here is skipped, and says why. With `YUE_NODES=1` (`ci/nodes`) nothing may be.

mod common;

use common::drivers;
use common::nodes::{
    Sshd, assert_none_left, is_root, kill, library, processes_with, program, run, script, skip,
    wait_until, yue,
};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of times that an owner is killed, at different moments. `YUE_KILLS` sets another one.
const KILLS: u32 = 4;

fn first_driver() -> String {
    drivers().remove(0)
}

/// A script that allocates a node, prints what `call` returns, and closes it.
fn once(sshd: &Sshd, key: &str, options: &str, call: &str) -> String {
    format!(
        "local k = yue.nalloc({}, '{}', {{ {options} }})\nprint({call})\nyue.conn(k):close()\n",
        sshd.target(key),
        library(sshd.folder.path()),
    )
}

#[test]
fn a_host_needs_a_shell_only_and_receives_the_program_once() {
    let Some(sshd) = Sshd::start("") else { return };
    for driver in drivers() {
        let _ = fs::remove_dir_all(sshd.path("cache/yue"));
        let ping = once(&sshd, "user", "timeout = 60", "k.ping()");
        assert_eq!(run(&driver, sshd.folder.path(), &ping), "pong\n");
        let cached = sshd.cached();
        assert_eq!(cached.len(), 1, "{cached:?}");
        let facts = || {
            let path = sshd.path(&format!("cache/yue/bin/{}", cached[0]));
            let file = fs::metadata(path).expect("it is there");
            (file.ino(), file.mtime_nsec(), file.mode() & 0o777)
        };
        let before = facts();
        assert_eq!(before.2, 0o700);
        assert_eq!(run(&driver, sshd.folder.path(), &ping), "pong\n");
        assert_eq!((facts(), sshd.cached()), (before, cached));
    }
    assert_none_left(&sshd.path("cache"), "after nodes that were closed");
}

#[test]
fn variables_and_the_folder_are_those_of_the_node() {
    let Some(sshd) = Sshd::start("") else { return };
    let options = r#"timeout = 60, directory = '/usr', env = { ODD = "it's $HOME \\ \"x\"", SSH_CONNECTION = false }"#;
    let call = "k.variable('ODD'), k.variable('SSH_CONNECTION'), k.folder()";
    let script = once(&sshd, "user", options, call);
    let script = script.replace("k.folder()", "k.link('/proc/self/cwd')");
    let add = "function link(path) return yue.process.run { 'readlink', path }.out end\n";
    let code = script;
    let path = sshd.path("library.lua");
    fs::write(&path, common::nodes::LIBRARY.to_owned() + add).expect("a file");
    let printed = run(&first_driver(), sshd.folder.path(), &code);
    assert_eq!(printed, "it's $HOME \\ \"x\"\tnil\t/usr\n\n");
}

#[test]
fn the_login_shell_may_be_any_and_may_print_a_greeting() {
    let Some(sshd) = Sshd::start("") else { return };
    let mut shells = vec![(
        "greeting",
        "echo 'yue- have'\nhead -c 100000 /dev/zero | tr '\\0' x\nprintf end\nexec sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
            .to_owned(),
    )];
    for shell in ["fish", "csh", "bash"] {
        match program(shell) {
            Some(path) => {
                let line = format!("exec {} -c \"$SSH_ORIGINAL_COMMAND\"", path.display());
                shells.push((shell, line));
            }
            None => skip(&format!("there is no {shell}")),
        }
    }
    for (name, shell) in shells {
        sshd.forced(name, &shell);
        let ping = once(&sshd, name, "timeout = 60, output = false", "k.ping()");
        assert_eq!(
            run(&first_driver(), sshd.folder.path(), &ping),
            "pong\n",
            "{name}"
        );
    }
}

/// The error of an allocation, which must fail.
#[track_caller]
fn refusal(sshd: &Sshd, target: &str) -> String {
    let code = format!(
        "local ok, e = pcall(yue.nalloc, {target}, '{}', {{ timeout = 20, output = false }})\nassert(not ok)\n\
         print(e.type, e.stage, e.msg)",
        library(sshd.folder.path())
    );
    run(&first_driver(), sshd.folder.path(), &code)
}

#[test]
fn another_kind_of_machine_is_named_in_the_error() {
    let Some(sshd) = Sshd::start("") else { return };
    fs::create_dir(sshd.path("tools")).expect("a folder");
    let uname = "#!/bin/sh\n[ \"$1\" = -s ] && echo Darwin || echo arm64\n";
    script(Path::new(&sshd.path("tools/uname")), uname);
    let tools = sshd.path("tools");
    sshd.forced(
        "other",
        &format!("PATH={tools}:$PATH exec sh -c \"$SSH_ORIGINAL_COMMAND\""),
    );
    let said = refusal(&sshd, &sshd.target("other"));
    let expected = "the host runs Darwin on arm64, and this program is for Linux on ";
    assert!(
        said.starts_with("AllocationError\tsending the program\t"),
        "{said}"
    );
    assert!(said.contains(expected), "{said}");
    assert!(sshd.cached().is_empty());
}

#[test]
fn a_host_with_other_libraries_receives_the_owners() {
    if !is_root() || program("busybox").is_none() || program("unshare").is_none() {
        return skip("a root folder with another libc needs root, busybox-static and unshare");
    }
    let setup = "\
        mkdir -p root/bin root/proc root/tmp root/dev && : >root/dev/null &&\
        cp \"$(command -v busybox)\" root/bin/busybox &&\
        for name in sh env head gunzip cat wc sha256sum mkdir mv ln rm find chmod uname; do \
            ln -s busybox root/bin/$name; done &&\
        mount --rbind /proc root/proc && mount --bind /dev/null root/dev/null || exit 1";
    let Some(sshd) = Sshd::start(setup) else {
        return;
    };
    let root = sshd.path("root");
    let enter = format!(
        "exec chroot {root} /bin/env -i XDG_CACHE_HOME=/cache /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
    );
    sshd.forced("inside", &enter);
    for round in 0..2 {
        let line = once(&sshd, "inside", "timeout = 60", "k.ping(), k.line()");
        let line = run(&first_driver(), sshd.folder.path(), &line);
        assert!(line.starts_with("pong\t/cache/yue/bin/"), "{round}: {line}");
        assert!(
            line.contains(".d/ld.so --library-path /cache/yue/bin/"),
            "{line}"
        );
    }
    // A node there can have nodes of its own: they start through the same loader.
    let nested = format!(
        "local k = yue.nalloc({}, function() function deeper() \
         return yue.nalloc(function() function ping() return 'deep' end end).ping() end end, {{ timeout = 60 }})\n\
         print(k.deeper())\nyue.conn(k):close()",
        sshd.target("inside")
    );
    assert_eq!(run(&first_driver(), sshd.folder.path(), &nested), "deep\n");
}

#[test]
fn refused_keys_and_foreign_hosts_are_errors_that_say_what_to_do() {
    let Some(sshd) = Sshd::start("") else { return };
    let target = sshd.target("user");
    fs::write(sshd.path("authorized"), "").expect("a file");
    let said = refusal(&sshd, &target);
    assert!(
        said.contains("ended with status 255; no password is asked for here"),
        "{said}"
    );
    assert!(said.contains("Permission denied (publickey)"), "{said}");
    let own = sshd.read("user.pub");
    let said = refusal(
        &sshd,
        &target.replace(sshd.read("host.pub").trim(), own.trim()),
    );
    assert!(said.contains("the host's key must be known"), "{said}");
    let closed = target.replace(&format!(":{}'", sshd.port), ":1'");
    let said = refusal(&sshd, &closed);
    assert!(said.contains("Connection refused"), "{said}");
}

#[test]
fn no_part_of_an_address_becomes_an_option_or_a_command() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = library(folder.path());
    let touched = folder.path().join("touched");
    let code = format!(
        "local touch = 'touch {}'
        for _, target in ipairs {{
          'ssh://-oProxyCommand=' .. touch, 'ssh://-oProxyCommand=x', 'ssh://a@-oProxyCommand=x', 'ssh://-l@host',
          'ssh://host;' .. touch, 'ssh://$(' .. touch .. ')', 'ssh://`id`', 'ssh://a b', 'ssh://host:', 'ssh://host:0',
          'ssh://host:99999', 'ssh://host:22x', 'ssh://', 'ssh://@host', 'ssh://a@', 'ssh://host/path', 'ssh://h\\nost',
          'docker://--privileged', 'docker://a b', 'podman://',
          {{ address = 'ssh://host', identity = '' }}, {{ address = 'ssh://host', config = 'a\\nb' }},
          {{ address = 'ssh://host', host_key = 'ssh-ed25519' }}, {{ address = 'ssh://host', hostkey = 'x' }},
          {{ address = 'docker://image', arguments = 'x' }}, {{ address = 'docker://image', arguments = {{ 1 }} }},
        }} do
          local ok, e = pcall(yue.nalloc, target, '{library}')
          assert(not ok and e.type == 'ArgumentError', tostring(type(target) == 'table' and target.address or target))
        end
        print 'refused'",
        touched.display()
    );
    assert_eq!(run(&first_driver(), folder.path(), &code), "refused\n");
    assert!(!touched.exists());
}

/// Starts an owner that calls its node forever.
fn owner(sshd: &Sshd, options: &str) -> Child {
    let code = format!(
        "local k = yue.nalloc({}, '{}', {{ timeout = 60, output = false, lease = 3, {options} }})\n\
         print(k.pid())\nio.stdout:flush()\nwhile true do k.ping() yue.sleep(0.01) end\n",
        sshd.target("user"),
        library(sshd.folder.path()),
    );
    let mut command = yue(&first_driver(), sshd.folder.path(), &code);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("yue runs")
}

/// The first line that a child prints.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("it is a pipe");
    let _ = BufReader::new(stdout).read_line(&mut line);
    line.trim().to_owned()
}

#[test]
fn an_owner_that_is_killed_at_any_moment_leaves_nothing() {
    let Some(sshd) = Sshd::start("") else { return };
    let kills = std::env::var("YUE_KILLS").ok();
    let kills = kills.and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    // The host has no program, and then it has it: the stages take different times.
    for empties in [true, false] {
        let since = Instant::now();
        let mut first = owner(&sshd, "");
        assert!(!first_line(&mut first).is_empty());
        let whole = since.elapsed();
        let _ = (first.kill(), first.wait());
        for number in 0..kills {
            if empties {
                let _ = fs::remove_dir_all(sshd.path("cache/yue"));
            }
            let mut child = owner(&sshd, "");
            std::thread::sleep(whole * number / kills + Duration::from_millis(5));
            let _ = (child.kill(), child.wait());
            let when = format!("after kill {number} of {kills} within {whole:?}");
            assert_none_left(&sshd.path(""), &when.replace(&sshd.path(""), ""));
            let parts = sshd
                .cached()
                .into_iter()
                .filter(|name| name.ends_with(".part"));
            assert_eq!(parts.count(), 0, "{when}");
        }
    }
    let ping = once(&sshd, "user", "timeout = 60", "k.ping()");
    assert_eq!(run(&first_driver(), sshd.folder.path(), &ping), "pong\n");
}

/// The owner's errors, up to its end.
fn end_of(child: Child) -> String {
    let ended = child.wait_with_output().expect("it is our child");
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

#[test]
fn a_killed_node_and_a_killed_ssh_are_noticed_and_leave_nothing() {
    let Some(sshd) = Sshd::start("") else { return };
    let mut child = owner(&sshd, "");
    kill(first_line(&mut child).parse().expect("the node's pid"));
    let said = end_of(child);
    assert!(
        said.contains("ConnectionLostError") && said.contains("the carrier of node 1"),
        "{said}"
    );
    assert_none_left(&sshd.path(""), "after the end of the node");
    let mut child = owner(&sshd, "");
    first_line(&mut child);
    let carrier = processes_with(&format!("-i {}", sshd.path("user")));
    let carrier = carrier.iter().find(|(_, line)| line.starts_with("ssh "));
    kill(carrier.expect("ssh runs").0);
    let said = end_of(child);
    assert!(said.contains("was killed by signal 9"), "{said}");
    assert_none_left(&sshd.path(""), "after the end of ssh");
}

#[test]
fn a_node_that_was_killed_is_followed_by_another() {
    let Some(sshd) = Sshd::start("") else { return };
    let code = format!(
        "local k = yue.nalloc({}, '{}', {{ timeout = 60, output = false, lease = 2, restart = 'now' }})
        local first = k.pid()
        yue.process.run {{ 'kill', '-9', tostring(first) }}
        local second repeat
          local ok, pid = pcall(k.pid)
          second = ok and pid
          if not ok then yue.sleep(0.05) end
        until second
        assert(second ~= first and yue.conn(k).node.epoch == 2)
        print 'restarted'
        yue.conn(k):close()",
        sshd.target("user"),
        library(sshd.folder.path()),
    );
    assert_eq!(
        run(&first_driver(), sshd.folder.path(), &code),
        "restarted\n"
    );
}

#[test]
fn a_command_leads_into_a_network_namespace() {
    let tools = ["ip", "unshare"].map(program);
    if !is_root() || tools.iter().any(Option::is_none) {
        return skip("namespaces need root, iproute2 and util-linux");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let code = format!(
        "local k = yue.nalloc(
          {{ command = {{ 'ip', 'netns', 'exec', 'yue-h1', yue.node.binary, 'node' }} }}, '{}', {{ timeout = 20 }})
        print(k.ping(), #k.links())
        yue.conn(k):close()",
        library(folder.path())
    );
    let path = folder.path().join("library.lua");
    let links = "function links() local all = {} \
        for line in io.lines('/proc/self/net/dev') do all[#all + 1] = line:match('^ *(%S+):') end return all end\n";
    fs::write(&path, common::nodes::LIBRARY.to_owned() + links).expect("a file");
    fs::write(folder.path().join("owner.lua"), code).expect("a file");
    // The names of namespaces are mounts: in a mount namespace of its own nothing of this machine changes.
    let inner = "mount -t tmpfs none /run && ip netns add yue-h1 && exec \"$0\" \"$1\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", inner])
        .arg(env!("CARGO_BIN_EXE_yue"))
        .arg(folder.path().join("owner.lua"));
    let ended = common::run_to_end(&mut command);
    assert_eq!(ended.stdout, "pong\t1\n", "{}", ended.stderr);
    assert!(wait_until(|| processes_with(
        &folder.path().display().to_string()
    )
    .is_empty()));
}

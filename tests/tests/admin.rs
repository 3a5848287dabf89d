//! The admin endpoint of the `yue` command: its socket, who may turn it off, and its end.

mod common;

use common::{Outcome, Program, Running, Server, run, wait_until, yue};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

/// A folder for `XDG_RUNTIME_DIR`, which goes away with it.
struct RuntimeDir(PathBuf);

impl RuntimeDir {
    fn new(name: &str) -> RuntimeDir {
        // Not the target's folder, whose name may be too long for a socket's.
        let folder = format!("yue-runtime-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        RuntimeDir(path)
    }

    fn folder(&self) -> PathBuf {
        self.0.join("yue")
    }

    fn socket(&self, process: u32) -> PathBuf {
        self.folder().join(format!("{process}.sock"))
    }

    /// The names of the sockets.
    fn sockets(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder()) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    fn set_for<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_RUNTIME_DIR", &self.0)
            .env_remove("YUE_ADMIN")
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that serves until it is ended.
fn server(name: &str) -> Program {
    let text = "local yue = require 'yue'
        local listener = yue.listen('tcp://127.0.0.1:0', { hello = function() end })
        io.stdout:write('serving at ' .. listener:addr() .. '\\n')
        io.stdout:flush()";
    Program::new(name, text)
}

fn serve(place: &RuntimeDir, program: &Program) -> Server {
    Server::of(place.set_for(&mut program.command()))
}

#[test]
fn a_running_program_has_a_socket_of_its_user() {
    let (place, program) = (RuntimeDir::new("mode"), server("admin-mode"));
    let server = serve(&place, &program);
    let socket = place.socket(server.running.id());
    let (folder, file) = (
        fs::metadata(place.folder()).unwrap(),
        fs::metadata(&socket).unwrap(),
    );
    assert_eq!(folder.mode() & 0o777, 0o700);
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o600);
    UnixStream::connect(&socket).unwrap();
    server.end();
    assert_eq!(place.sockets(), [""; 0], "it is removed after SIGTERM");
}

/// Runs a line of Lua that prints whether its socket is there.
fn is_there(place: &RuntimeDir, set: impl FnOnce(&mut Command) -> &mut Command) -> String {
    let text = format!(
        "local pid = io.open('/proc/self/stat'):read('*l'):match '^%d+'
         io.write(tostring(io.open('/proc/net/unix'):read('*a'):find('{}/yue/' .. pid .. '.sock', 1, true) ~= nil))",
        place.0.display()
    );
    let mut command = yue();
    place.set_for(&mut command);
    set(&mut command);
    run(command.args(["-e", &text])).lines().join("\n")
}

#[test]
fn it_can_be_turned_off() {
    let place = RuntimeDir::new("off");
    for setting in ["off", "0", "no", "false"] {
        let found = is_there(&place, |command| command.env("YUE_ADMIN", setting));
        assert_eq!(found, "false", "{setting}");
    }
    let found = is_there(&place, |command| command.arg("--no-admin"));
    assert_eq!(found, "false");
    assert!(!place.folder().exists(), "there is nothing to make it for");
    assert_eq!(is_there(&place, |command| command), "true");
    let found = is_there(&place, |command| command.env("YUE_ADMIN", "1"));
    assert_eq!(found, "true");
    assert_eq!(place.sockets(), [""; 0], "the end of a program removes it");
}

fn ended(place: &RuntimeDir, lua: &str) -> Outcome {
    run(place.set_for(&mut yue()).args(["-e", lua]))
}

#[test]
fn every_end_but_a_kill_removes_the_socket() {
    let place = RuntimeDir::new("ends");
    let codes = [
        ("", 0),
        ("error 'x'", 1),
        ("os.exit(3)", 3),
        ("yue.die()", 0),
        // A child that it forks has a copy of the endpoint, which is not the child's to remove.
        (
            "local ffi = require 'ffi'
             ffi.cdef 'int fork(void); int waitpid(int, int *, int); void exit(int);'
             local path = io.open('/proc/self/stat'):read('*l'):match '^%d+'
             local child = ffi.C.fork()
             if child == 0 then ffi.C.exit(0) end
             ffi.C.waitpid(child, nil, 0)
             local there = os.execute(('test -S \"$XDG_RUNTIME_DIR/yue/%s.sock\"'):format(path))
             os.exit(there == 0 and 4 or 5)",
            4,
        ),
    ];
    for (lua, code) in codes {
        assert_eq!(ended(&place, lua).code(), code, "{lua}");
        assert_eq!(place.sockets(), [""; 0], "{lua}");
    }
}

#[test]
fn a_program_that_is_stuck_leaves_no_socket_when_it_is_ended_by_signals() {
    let place = RuntimeDir::new("stuck");
    let program = Program::new(
        "admin-stuck",
        "io.stdout:write('serving at nothing\\n') io.stdout:flush() while true do end",
    );
    let server = serve(&place, &program);
    assert_eq!(place.sockets().len(), 1);
    server.running.signal(libc::SIGTERM);
    // Those that follow at once count as the same request.
    std::thread::sleep(std::time::Duration::from_millis(700));
    server.running.signal(libc::SIGTERM);
    let outcome = server.running.outcome();
    assert_eq!(outcome.code(), 128 + libc::SIGTERM, "{outcome:#?}");
    assert_eq!(place.sockets(), [""; 0]);
}

#[test]
fn a_killed_process_leaves_its_socket_and_nobody_listens_there() {
    let (place, program) = (RuntimeDir::new("killed"), server("admin-killed"));
    let server = serve(&place, &program);
    let socket = place.socket(server.running.id());
    server.running.signal(libc::SIGKILL);
    server.running.outcome();
    assert!(socket.exists(), "nobody could remove it");
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn a_folder_that_is_not_safe_is_not_used_and_nothing_is_said() {
    let place = RuntimeDir::new("unsafe");
    fs::create_dir(place.folder()).unwrap();
    fs::set_permissions(place.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = ended(&place, "print 'it runs'");
    assert_eq!(outcome.lines(), ["it runs"]);
    let mut command = yue();
    let outcome = run(place
        .set_for(&mut command)
        .env("YUE_LOG", "debug")
        .args(["-e", ""]));
    assert!(
        outcome.stderr.contains("no admin endpoint: the folder "),
        "{outcome:#?}"
    );
    assert!(
        outcome.stderr.contains("change its mode to 0700"),
        "{outcome:#?}"
    );
    assert_eq!(place.sockets(), [""; 0]);
}

#[test]
fn a_variable_that_names_a_folder_of_others_is_ignored() {
    let place = RuntimeDir::new("foreign");
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(ended(&place, "print 'it runs'").lines(), ["it runs"]);
    assert!(!place.folder().exists());
    let mut command = yue();
    command
        .env("XDG_RUNTIME_DIR", "/nowhere at all")
        .args(["-e", "print 'it runs'"]);
    assert_eq!(run(&mut command).lines(), ["it runs"]);
}

#[test]
fn a_client_of_the_endpoint_does_not_keep_a_program_alive() {
    let (place, program) = (RuntimeDir::new("client"), server("admin-client"));
    let server = serve(&place, &program);
    let socket = place.socket(server.running.id());
    let client = UnixStream::connect(&socket).unwrap();
    server.end();
    drop(client);
    let program = Program::new("admin-short", "yue.sleep(0.3)");
    let running = Running::start(place.set_for(&mut program.command()));
    let socket = place.socket(running.id());
    wait_until("it listens", || socket.exists());
    let client = UnixStream::connect(&socket);
    assert_eq!(running.outcome().code(), 0);
    drop(client);
}

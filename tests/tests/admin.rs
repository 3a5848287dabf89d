//! The admin endpoint of the `yue` command: its socket, who may turn it off, and its end.

mod common;

use common::runtime_dir::RuntimeDir;
use common::{Outcome, Program, Running, Server, run, wait_until, yue};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;

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

/// Asks the endpoint of a server, and calls the server itself, as `c`, from another process.
fn ask(place: &RuntimeDir, server: &Server, lua: &str) -> Outcome {
    let socket = place.socket(server.running.id());
    let open = format!(
        "local admin, c = yue.open 'unix://{}', yue.open '{}'\n",
        socket.display(),
        server.address
    );
    run(yue().args(["-e", &(open + lua)]))
}

#[test]
fn served_calls_are_counted_while_somebody_asks() {
    let (place, program) = (RuntimeDir::new("calls"), server("admin-calls"));
    let server = serve(&place, &program);
    let outcome = ask(
        &place,
        &server,
        "c.hello()
         assert(#admin.calls().methods == 0, 'nobody has asked before')
         for _ = 1, 5 do c.hello() end
         for n = 1, 20 do assert(not pcall(function() c['invented' .. n]() end)) end
         local calls = admin.calls()
         local by_name = {}
         for _, one in ipairs(calls.methods) do by_name[one.method] = one end
         local hello, others = by_name.hello, by_name['(others)']
         assert(#calls.methods == 2 and calls.left_out == 0 and #calls.blocked == 0)
         assert(hello.calls == 5 and hello.errors == 0 and hello.in_flight == 0)
         assert(hello.listener:find 'tcp://127.0.0.1:' == 1)
         assert(hello.p50_seconds <= hello.p99_seconds and hello.p99_seconds <= hello.max_seconds)
         assert(hello.max_seconds <= hello.total_seconds)
         assert(others.calls == 20 and others.errors == 20)
         assert(calls.watched_seconds > 0 and calls.running_count == 0)
         local slowest = calls.slowest[1]
         assert(math.abs(slowest.at_seconds - yue.time()) < 60 and slowest.peer:find 'tcp://127.0.0.1:' == 1)
         local info = admin.info()
         assert(info.connections == 1, 'its own connections are not counted')
         assert(info.requests == 26 and info.memory_bytes > 0)
         print 'done'",
    );
    assert_eq!(outcome.lines(), ["done"], "{outcome:#?}");
    server.end();
}

#[test]
fn the_fibers_of_the_program_are_listed_before_those_of_yue() {
    let place = RuntimeDir::new("order");
    let text = "local yue = require 'yue'
        local listener = yue.listen('tcp://127.0.0.1:0', {
          wait = function()
            yue.sleep(1000)
            return true
          end,
        })
        yue.fiber(function() yue.sleep(1000) end, 'mine'):run()
        io.stdout:write('serving at ' .. listener:addr() .. '\\n')
        io.stdout:flush()";
    let program = Program::new("admin-order", text);
    let server = serve(&place, &program);
    let outcome = ask(
        &place,
        &server,
        "c.notify_wait()
         local function order()
           local mine, others = {}, {}
           for at, group in ipairs(admin.waits().groups) do
             table.insert(group.origin and mine or others, at)
           end
           return mine, others
         end
         local mine, others = order()
         -- Until the call has begun.
         while #mine < 2 do
           yue.sleep(0.01)
           mine, others = order()
         end
         assert(#others >= 2 and mine[#mine] < others[1])
         print 'done'",
    );
    assert_eq!(outcome.lines(), ["done"], "{outcome:#?}");
}

#[test]
fn a_trace_has_the_requests_that_ended_since_the_last_question() {
    let (place, program) = (RuntimeDir::new("trace"), server("admin-trace"));
    let server = serve(&place, &program);
    let outcome = ask(
        &place,
        &server,
        "local all, failed = admin.trace { method = 'h*' }, admin.trace { errors = true }
         c.hello()
         pcall(function() c.missing() end)
         c.notify_hello()
         c.hello()
         local answer = admin.trace { token = all.token }
         assert(#answer.requests == 3 and answer.dropped == 0)
         for i, one in ipairs(answer.requests) do
           assert(one.method == 'hello' and one.seconds >= 0 and one.error == nil)
           assert(one.notification == (i == 2))
         end
         assert(#admin.trace { token = all.token }.requests == 0)
         local errors = admin.trace { token = failed.token }.requests
         assert(#errors == 1 and errors[1].method == 'missing' and errors[1].error == 'NoMethodError')
         for _, wrong in ipairs {
           { token = 4711 }, { slower_than_seconds = -1 }, { method = ('x'):rep(500) }, { nonsense = true },
         } do
           local ok, e = pcall(function() return admin.trace(wrong) end)
           assert(not ok and e:is_a 'ArgumentError', tostring(e))
         end
         for _ = 3, 8 do admin.trace {} end
         local ok, e = pcall(function() return admin.trace {} end)
         assert(not ok and e:is_a 'ServerBusyError', tostring(e))
         print 'done'",
    );
    assert_eq!(outcome.lines(), ["done"], "{outcome:#?}");
    server.end();
}

//! The `yue` command, as a user meets it: help, mistakes, scripts that fail, output that goes nowhere.

mod common;

use common::{Outcome, Program, Server, run, script, wait_until, yue};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

/// Runs `yue` with these arguments.
#[track_caller]
fn yue_with(arguments: &[&str]) -> Outcome {
    run(yue().args(arguments))
}

#[test]
fn help_goes_to_standard_output() {
    for arguments in [
        &["--help"][..],
        &["doctor", "--help"],
        &["bench", "--help"],
        &["help"],
    ] {
        let outcome = yue_with(arguments);
        assert!(
            outcome
                .lines()
                .iter()
                .any(|line| line.starts_with("Usage: yue")),
            "{outcome:#?}"
        );
        let widest = outcome
            .lines()
            .iter()
            .map(|line| line.chars().count())
            .max();
        assert!(widest <= Some(80), "{widest:?} columns: {outcome:#?}");
    }
    let outcome = yue_with(&["--help"]);
    assert!(
        outcome.stdout.contains("doctor") && outcome.stdout.contains("bench"),
        "{outcome:#?}"
    );
    assert_eq!(
        yue_with(&["--version"]).lines(),
        [format!("yue {}", env!("CARGO_PKG_VERSION"))]
    );
}

#[test]
fn a_command_used_wrongly_says_how_and_exits_with_2() {
    yue_with(&[]).fails(2, &["Usage: yue"]);
    yue_with(&["-c", "0", "x.lua"]).fails(2, &["--loops", "from 1 to 1024"]);
    yue_with(&["-c", "many", "x.lua"]).fails(2, &["--loops", "from 1 to 1024"]);
    yue_with(&["-c"]).fails(2, &["--loops"]);
    yue_with(&["-c", "2"]).fails(2, &["SCRIPT"]);
    yue_with(&["--io", "kqueue", "x.lua"]).fails(2, &["kqueue", "uring, mio or auto"]);
    yue_with(&["--bogus"]).fails(2, &["no option --bogus", "yue --help"]);
    yue_with(&["--bogus", "examples/demo1.lua"]).fails(2, &["no option --bogus"]);
    yue_with(&["doctor", "--bogus"]).fails(2, &["no option --bogus", "yue doctor --help"]);
    yue_with(&["bench"]).fails(2, &["ADDRESS"]);
}

#[test]
fn all_errors_of_the_command_have_one_form() {
    for arguments in [
        &["--watchdgo", "100", "x.lua"][..],
        &["-c", "0", "x.lua"],
        &["-c", "2"],
        &["bench"],
        &["bench", "localhost"],
        &["-c", "2", "-i"],
        &["no/such/script.lua"],
    ] {
        let outcome = yue_with(arguments);
        assert!(outcome.stderr.starts_with("yue: "), "{outcome:#?}");
        // A bad address is shown below the message, with a mark.
        let lines = if arguments.contains(&"localhost") {
            3
        } else {
            1
        };
        assert_eq!(outcome.stderr.lines().count(), lines, "{outcome:#?}");
    }
    yue_with(&["--watchdgo", "100", "x.lua"]).fails(2, &["did you mean --watchdog?"]);
}

#[test]
fn a_script_that_cannot_be_read_is_named() {
    yue_with(&["no/such/script.lua"]).fails(1, &["yue: there is no script no/such/script.lua"]);
    yue_with(&["examples"]).fails(1, &["examples is a folder"]);
    let binary = Program::new("binary", "\u{1b}LJ\u{2}garbage that claims to be bytecode");
    run(&mut binary.command()).fails(1, &["yue: RuntimeError: ", "bytecode"]);
}

#[test]
fn a_script_may_be_a_pipe() {
    let mut command = yue();
    command.arg("/dev/stdin").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(b"print('from a pipe')").unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"from a pipe\n"[..])
    );
}

#[test]
fn a_syntax_error_is_told_with_file_and_line() {
    let program = Program::new("syntax", "local a = 1\nlocal b = = 2\n");
    let outcome = run(&mut program.command());
    outcome.fails(1, &[&format!("{}:2:", program.name()), "unexpected symbol"]);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
}

#[test]
fn a_script_that_raises_leaves_its_traceback() {
    let text = "local function inner() error('this is wrong') end\nlocal function outer() inner() end\nouter()\n";
    let program = Program::new("raising", text);
    let outcome = run(&mut program.command());
    let at = |line| format!("{}:{line}:", program.name());
    outcome.fails(
        1,
        &["this is wrong", "stack traceback", &at(1), &at(2), &at(3)],
    );
    assert_eq!(outcome.stdout, "");
    for value in [
        "nil",
        "42",
        "{}",
        "false",
        "setmetatable({}, {__tostring = error})",
    ] {
        let program = Program::new("raising-a-value", &format!("error({value})"));
        run(&mut program.command()).fails(1, &["yue: "]);
    }
}

#[test]
fn a_script_that_raises_ends_what_it_had_open() {
    let text = "local yue = require 'yue'
        local listener = yue.listen('tcp://127.0.0.1:0', { hello = function() yue.sleep(0.02) end })
        yue.thread('other', function() yue.thread.current:import { f = function() end } end)
        yue.timer(0, 1)
        yue.spawn(function() yue.sleep(1e6) end)
        yue.open(listener:addr()).async_hello()
        yue.sleep(0.01)
        error('with much open')";
    let program = Program::new("open", text);
    run(&mut program.command()).fails(1, &["with much open"]);
}

#[test]
fn a_script_finds_its_arguments_as_they_were_given() {
    let text = "local yue = require 'yue'
        for i, word in ipairs(yue.args) do print(i, #word, word) end
        print(yue.args.key, yue.args.path, yue.args.empty)
        print(yue.args[0])";
    let program = Program::new("arguments", text);
    let words = [
        "two words",
        "key=a value",
        "path=a=b",
        "empty=",
        "-x",
        "--io",
        "mio",
        "--",
        "--help",
        "",
        "9x=1",
    ];
    let outcome = run(program.command().args(words));
    let expected = [
        "1\t9\ttwo words",
        "2\t2\t-x",
        "3\t4\t--io",
        "4\t3\tmio",
        "5\t2\t--",
        "6\t6\t--help",
        "7\t0\t",
        "8\t4\t9x=1",
        "a value\ta=b\t",
        program.name(),
    ];
    assert_eq!(outcome.lines(), expected);
}

#[test]
fn a_misspelt_command_is_guessed() {
    for (arguments, advice) in [
        (&["doctro"][..], "did you mean 'yue doctor'?"),
        (&["benhc", "tcp://127.0.0.1:1"], "did you mean 'yue bench'?"),
        (
            &["run", "examples/hello.lua"],
            "to run a script: yue examples/hello.lua",
        ),
    ] {
        yue_with(arguments).fails(1, &["there is no script", advice]);
    }
    let other = yue_with(&["server.lua"]);
    assert_eq!(other.stderr, "yue: there is no script server.lua\n");
}

#[test]
fn doctor_tells_the_driver_and_why_and_the_limits() {
    let table = yue_with(&["doctor"]);
    let lines = table.lines();
    for name in [
        "driver",
        "because",
        "kernel",
        "descriptors",
        "locked memory",
        "stack guards",
        "Lua",
        "compiler",
    ] {
        assert!(
            lines.iter().any(|line| line.trim().starts_with(name)),
            "no {name} in {lines:#?}"
        );
    }
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{lines:#?}"
    );
    let json = yue_with(&["doctor", "--json"]);
    let facts: Value = serde_json::from_str(json.lines()[0]).unwrap();
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        facts["lua"].as_str().unwrap().starts_with("LuaJIT"),
        "{facts}"
    );
    for number in ["processors", "memory_maps", "free_memory"] {
        assert!(facts[number].is_u64(), "{number}: {facts}");
    }
    run(yue().arg("doctor").env("YUE_IO", "mio")).lines();
    let wrong = run(yue().arg("doctor").env("YUE_IO", "kqueue"));
    assert_eq!(wrong.code(), 1);
    assert!(wrong.stdout.contains("uring, mio or auto"), "{wrong:#?}");
}

#[test]
fn the_environment_may_name_an_unknown_driver_and_hears_the_known_ones() {
    run(yue().arg("examples/demo1.lua").env("YUE_IO", "kqueue"))
        .fails(1, &["'kqueue'", "uring, mio or auto"]);
    run(yue()
        .args(["bench", "tcp://127.0.0.1:1"])
        .env("YUE_IO", "kqueue"))
    .fails(1, &["uring, mio or auto"]);
}

#[test]
fn bench_measures_a_server() {
    let server = Server::start(script("server.lua"));
    let bench = |more: &[&str]| {
        let always = ["bench", &server.address, "-d", "0.2", "-w", "0"];
        run(yue().args(always).args(more))
    };
    let table = bench(&["-m", "math.add", "-a", "[1, 2]", "-c", "3", "-f", "10"]);
    assert!(
        table
            .lines()
            .iter()
            .any(|line| line.trim().starts_with("p99 ")),
        "{table:#?}"
    );
    for more in [&["-c", "2"][..], &["--rate", "500"], &["--legacy"]] {
        let json = bench(&[&["-a", r#"["w"]"#, "--json"], more].concat());
        let result: Value = serde_json::from_str(json.lines()[0]).unwrap();
        let calls = result["calls"].as_u64().unwrap();
        assert!(
            calls > 0 && result["errors"] == serde_json::json!({}),
            "{result}"
        );
        let rate = result["calls_per_second"].as_f64().unwrap();
        assert!(
            (rate * result["seconds"].as_f64().unwrap() - calls as f64).abs() < 1.0,
            "{result}"
        );
        let percentile = |name: &str| result["latency_ns"][name].as_u64().unwrap();
        assert!(
            0 < percentile("p50") && percentile("p50") <= percentile("p99"),
            "{result}"
        );
    }
    bench(&["-m", "no_such"]).fails(1, &["NoMethodError", "no_such"]);
    bench(&["-m", "fail"]).fails(1, &["this went wrong on the server"]);
    server.serves();
    server.end().logs_only_failures_of(&["fail"]);
}

#[test]
fn bench_says_what_is_wrong_with_its_arguments() {
    let address = "tcp://127.0.0.1:1";
    yue_with(&["bench", "localhost"]).fails(2, &["tcp://", "unix://"]);
    yue_with(&["bench", "tcp://127.0.0.1:99999"]).fails(2, &["port"]);
    yue_with(&["bench", "thread://x"]).fails(2, &["its own program"]);
    yue_with(&["bench", address, "-a", "[1,"]).fails(2, &["not valid JSON", "[1,"]);
    yue_with(&["bench", address, "-a", "{}"]).fails(2, &["JSON array"]);
    for (option, value) in [
        ("-d", "0"),
        ("-d", "nan"),
        ("-d", "x"),
        ("-t", "0"),
        ("-r", "0"),
        ("-c", "0"),
        ("-f", "0"),
    ] {
        yue_with(&["bench", address, option, value]).fails(2, &[value]);
    }
}

#[test]
fn bench_says_that_nobody_is_there() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("tcp://127.0.0.1:{port}");
    for more in [&["--json"][..], &["-c", "20"]] {
        let outcome = run(yue().args(["bench", &address, "-d", "0.1"]).args(more));
        outcome.fails(1, &["ConnectionRefusedError", &address]);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.lines().count()),
            ("", 1),
            "{outcome:#?}"
        );
    }
    yue_with(&["bench", "unix:///no/such/socket", "-d", "0.1"]).fails(1, &["/no/such/socket"]);
}

#[test]
fn bench_says_that_the_server_hangs_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    // It ends with the test's process.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    for more in [&["--legacy"][..], &["-c", "20"]] {
        let outcome = run(yue().args(["bench", &address, "-d", "0.1"]).args(more));
        outcome.fails(1, &["ConnectionLostError"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    }
}

#[test]
fn bench_ends_when_its_server_dies() {
    for more in [
        &["-w", "0"][..],
        &["-w", "0", "--rate", "5000"],
        &["-w", "300"],
    ] {
        let server = Server::start(script("dies.lua"));
        // It would take longer than this test waits.
        let always = ["bench", &server.address, "-d", "300", "-m", "count"];
        let outcome = run(yue().args(always).args(more));
        outcome.fails(1, &["the server went away", "ConnectionLostError"]);
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
        assert!(outcome.stdout.contains("calls"), "{outcome:#?}");
    }
}

/// Has the child start without these descriptors.
fn without(command: &mut Command, descriptors: &'static [i32]) {
    let close = move || {
        for descriptor in descriptors {
            // SAFETY: the descriptor is the child's own; nothing there uses it before the new program starts.
            unsafe { libc::close(*descriptor) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only `close` is called.
    unsafe { command.pre_exec(close) };
}

#[test]
fn output_that_goes_nowhere_is_no_reason_to_fail_otherwise() {
    let fine = Program::new(
        "talking",
        "print('hello') io.stderr:write('hello\\n') require 'yue'.log.info('hello')",
    );
    let raising = Program::new("raising-into-nothing", "error('nobody hears this')");
    let argument_lists: [(&[&str], i32); 6] = [
        (&[fine.name()], 0),
        (&[raising.name()], 1),
        (&["no/such.lua"], 1),
        (&["bench", "tcp://127.0.0.1:1", "-d", "0.1"], 1),
        (&["--help"], 0),
        (&["doctor"], 0),
    ];
    for (arguments, code) in argument_lists {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let status = yue()
            .args(arguments)
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap();
        assert_eq!(
            status.code(),
            Some(code),
            "{arguments:?} with full outputs: {status}"
        );

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let other = writer.try_clone().unwrap();
        let status = yue()
            .args(arguments)
            .stdout(writer)
            .stderr(other)
            .status()
            .unwrap();
        assert_eq!(
            status.code(),
            Some(code),
            "{arguments:?} with nobody reading: {status}"
        );

        let mut command = yue();
        without(command.args(arguments), &[0, 1, 2]);
        let status = command.status().unwrap();
        assert_eq!(
            status.code(),
            Some(code),
            "{arguments:?} with closed outputs: {status}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start(script("server.lua"));
    run(yue().arg(script("server.lua")).arg(&server.address))
        .fails(1, &[server.host_and_port(), "another listens there"]);
    run(yue()
        .args(["-c", "2"])
        .arg(script("server.lua"))
        .arg(&server.address))
    .fails(1, &["another listens there"]);
    run(yue().arg(script("server.lua")).arg("tcp//nonsense")).fails(1, &["tcp://"]);
    server.serves();
}

#[test]
fn a_pipe_that_somebody_made_non_blocking_loses_no_line() {
    let text =
        "for i = 1, 20000 do print('line number ' .. i) end io.stderr:write(('e'):rep(200000))";
    let program = Program::new("printing", text);
    let outputs: [_; 2] = std::array::from_fn(|_| {
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: a setting of a descriptor of ours.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        (reader, writer)
    });
    let [(mut reader, stdout), (mut errors, stderr)] = outputs;
    let own = stdout.try_clone().unwrap();
    let mut command = program.command();
    let mut child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
    drop(command);
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        errors.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    // A reader that is slow to begin with: the pipe is full meanwhile.
    wait_until("a full pipe", || {
        let mut room = libc::pollfd {
            fd: own.as_raw_fd(),
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one live entry.
        (unsafe { libc::poll(&mut room, 1, 0) }) == 0
    });
    // SAFETY: asks only. Those who share the pipe find it as it was.
    let flags = unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_NONBLOCK, 0);
    drop(own);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text.lines().count(), 20000);
    assert!(text.ends_with("line number 20000\n"));
    assert_eq!(errors.join().unwrap(), 200000);
}

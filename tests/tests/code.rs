//! Where a program's code comes from (a file, `-e`, standard input), what `arg` is then, and how its output leaves.

mod common;

use common::{Outcome, Program, Running, Server, drivers, run, script, wait_until, yue};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

/// Runs `yue` with these arguments and this standard input.
fn with_input(arguments: &[&str], input: &str) -> Outcome {
    let mut running = Running::start(yue().args(arguments).stdin(Stdio::piped()));
    // A program that has ended reads nothing.
    let _ = running.stdin().write_all(input.as_bytes());
    running.outcome()
}

#[test]
fn code_of_the_command_line_runs_before_the_script_and_sees_no_name() {
    let show = "print(arg[0], arg[-1], ...)";
    let outcome = run(yue().args(["-e", show]));
    assert_eq!(outcome.lines(), [format!("nil\t{show}")]);
    let program = Program::new("code", "print(x, y, ..., arg[0] == yue.args[0], arg[-1])");
    let mut command = yue();
    command.args(["-e", "x = 1", "-e", "y = x + 1 yue.sleep(0.001)"]);
    command.args([program.name(), "first", "-e"]);
    assert_eq!(
        run(&mut command).lines(),
        ["1\t2\tfirst\ttrue\ty = x + 1 yue.sleep(0.001)"]
    );
    // What raises ends the program, and names itself.
    let failed = run(yue().args(["-e", "error('here')", "-e", "print('not this')"]));
    failed.fails(1, &["(command line):1: here"]);
    assert_eq!(failed.stdout, "");
    run(yue().args(["-e", "x x"])).fails(1, &["(command line):1:", "near 'x'"]);
    run(yue().args(["-e", "error()"])).fails(1, &["an error value was raised: nil"]);
    run(yue().args(["-c", "2", "-e", "print('loop')"]))
        .lines()
        .iter()
        .for_each(|line| assert_eq!(*line, "loop"));
}

#[test]
fn a_hyphen_is_the_script_on_standard_input() {
    let input = "#!/usr/bin/env yue\nyue.sleep(0.001) print(arg[0], ..., debug.getinfo(1, 'l').currentline)";
    let outcome = with_input(&["-", "one"], input);
    assert_eq!(outcome.lines(), ["-\tone\t2"]);
    with_input(&["-"], "error('here')").fails(1, &["stdin:1: here"]);
    assert_eq!(with_input(&["-"], "").lines(), [""; 0]);
}

#[test]
fn a_first_line_that_begins_with_a_hash_is_no_lua() {
    let program = Program::new(
        "hash",
        "#!/usr/bin/env yue\nprint(debug.getinfo(1, 'l').currentline)",
    );
    assert_eq!(run(&mut program.command()).lines(), ["2"]);
}

#[test]
fn the_interactive_mode_shows_results_and_goes_on_after_errors() {
    let input = "x = 20\nx + 1\n= x, 2\nfor i = 1, 2 do\nprint(i) end\nerror('bad')\nx x\n\
                 yue.spawn(function() yue.sleep(0.01) print('later') end) yue.sleep(0.1)\n{}\nnil";
    for driver in drivers() {
        let mut command = yue();
        command
            .args(["-i"])
            .env("YUE_IO", driver)
            .stdin(Stdio::piped());
        let mut running = Running::start(&mut command);
        running.stdin().write_all(input.as_bytes()).unwrap();
        let outcome = running.outcome();
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        let shown = outcome.stdout.replace("> ", "").replace('>', "");
        let lines: Vec<_> = shown.lines().skip(1).collect();
        assert_eq!(lines[..4], ["21", "20\t2", "1", "2"], "{outcome:#?}");
        assert_eq!(lines[4], "later", "{outcome:#?}");
        assert!(lines[5].starts_with("table: 0x"), "{outcome:#?}");
        assert_eq!(lines[6], "nil", "{outcome:#?}");
        let errors: Vec<_> = outcome.stderr.lines().collect();
        // Errors name their line, and the traceback ends where the user's code does.
        assert_eq!(errors[0], "RuntimeError: stdin:1: bad", "{outcome:#?}");
        assert_eq!(errors[3].trim(), "stdin:1: in main chunk", "{outcome:#?}");
        assert_eq!(errors[4], "stdin:1: '=' expected near 'x'", "{outcome:#?}");
        assert!(!outcome.stderr.contains("[yue]/"), "{outcome:#?}");
        assert!(!outcome.stderr.contains(" at 0x"), "{outcome:#?}");
    }
}

#[test]
fn an_interrupt_ends_the_interactive_mode_without_an_error() {
    for line in ["print('begun')\n", "print('begun') yue.sleep(3600)\n"] {
        let program = Program::new("begun", "");
        let begun = format!(
            "local f = io.open('{}', 'w') f:write('begun') f:close() ",
            program.name()
        );
        let mut running = Running::start(yue().arg("-i").stdin(Stdio::piped()));
        let mut stdin = running.stdin();
        stdin.write_all((begun + line).as_bytes()).unwrap();
        let has_begun = || std::fs::read_to_string(program.name()).unwrap() == "begun";
        wait_until("the line begins", has_begun);
        running.signal(libc::SIGINT);
        let outcome = running.outcome();
        assert_eq!(outcome.status.code(), Some(130), "{outcome:#?}");
        assert_eq!(outcome.stderr, "", "{outcome:#?}");
        assert!(outcome.stdout.ends_with('\n'), "{outcome:#?}");
    }
}

#[test]
fn the_interactive_mode_is_refused_on_several_loops() {
    let outcome = with_input(&["-c", "2", "-i"], "print(1)\n");
    assert_eq!(outcome.status.code(), Some(2), "{outcome:#?}");
    assert_eq!(outcome.stdout, "", "{outcome:#?}");
    assert!(outcome.stderr.contains("leave out -c"), "{outcome:#?}");
}

#[test]
fn bench_that_is_interrupted_in_its_warm_up_prints_no_figures() {
    let server = Server::start(script("server.lua"));
    let mut command = yue();
    command.args([
        "bench",
        &server.address,
        "-d",
        "600",
        "-w",
        "600",
        "-a",
        "[\"w\"]",
    ]);
    let running = Running::start(&mut command);
    std::thread::sleep(Duration::from_millis(1500));
    running.signal(libc::SIGTERM);
    let outcome = running.outcome();
    assert_eq!(
        outcome.status.code(),
        Some(128 + libc::SIGTERM),
        "{outcome:#?}"
    );
    assert_eq!(outcome.stdout, "", "{outcome:#?}");
    assert!(
        outcome.stderr.contains("before a call was counted"),
        "{outcome:#?}"
    );
    server.end();
}

#[test]
fn each_printed_line_arrives_at_once_and_the_last_words_are_not_lost() {
    for last in ["yue.sleep(3600)", "while true do end"] {
        let text = format!("print('first') io.write('second\\n', 'no end') {last}");
        let program = Program::new("lines", &text);
        let mut command = program.command();
        command
            .args(["0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        for expected in ["first\n", "second\n"] {
            line.clear();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, expected);
        }
        // By two signals it ends at once, with what is buffered.
        for _ in 0..2 {
            // SAFETY: the child has not been waited for.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            std::thread::sleep(Duration::from_millis(700));
        }
        line.clear();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "no end");
        child.wait().unwrap();
    }
}

#[test]
fn bench_that_is_interrupted_prints_what_was_measured() {
    let server = Server::start(script("server.lua"));
    for signal in [libc::SIGINT, libc::SIGTERM] {
        for json in [false, true] {
            let mut command = yue();
            command.args([
                "bench",
                &server.address,
                "-d",
                "600",
                "-w",
                "0",
                "-a",
                "[\"w\"]",
            ]);
            command.args(json.then_some("--json"));
            let running = Running::start(&mut command);
            // Long enough for the first call; before it the signal ends the command without a word.
            std::thread::sleep(Duration::from_millis(1500));
            running.signal(signal);
            let outcome = running.outcome();
            assert_eq!(outcome.status.code(), Some(128 + signal), "{outcome:#?}");
            let word = if json { "\"calls\":" } else { "p99 " };
            assert!(outcome.stdout.contains(word), "{outcome:#?}");
        }
    }
    server.end();
}

#[test]
fn a_notification_that_is_the_last_thing_a_program_does_arrives() {
    let program = Program::new(
        "hears",
        "local listener
         listener = yue.listen('tcp://127.0.0.1:0', {
           hear = function(word) print('heard ' .. word) listener:close() end,
         })
         print('serving at ' .. listener:addr())",
    );
    for io in drivers() {
        let server = Server::of(program.command().env("YUE_IO", io));
        let code = format!("yue.open('{}').notify_hear('this')", server.address);
        assert_eq!(run(yue().args(["-e", &code])).lines(), [""; 0]);
        // It ends by itself when it has heard.
        let outcome = server.running.outcome();
        assert!(outcome.stdout.contains("heard this"), "{outcome:#?}");
    }
}

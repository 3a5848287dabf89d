//! Every example is run as a user runs it, and says exactly what it should.

mod common;

use common::{Outcome, Server, drivers, root, run, wait_until, yue};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Runs an example on a driver.
#[track_caller]
fn example(driver: &str, before: &[&str], name: &str, after: &[&str]) -> Outcome {
    let mut command = yue();
    command
        .env_remove("YUE_IO")
        .args(["--io", driver])
        .args(before);
    run(command.arg(format!("examples/{name}.lua")).args(after))
}

/// The port and the figures differ from run to run: every number is one `#`.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if text.ends_with('#') => {}
            '0'..='9' => text.push('#'),
            other => text.push(other),
        }
    }
    text
}

#[test]
fn hello_calls_itself_over_the_network_and_a_thread() {
    for driver in drivers() {
        let outcome = example(driver, &[], "hello", &[]);
        assert_eq!(outcome.code(), 0, "{outcome:#?}");
        // Its handler `fail` fails on purpose; that is logged where it runs, and nothing else is.
        let logged = "yue error: the handler of fail failed, called by tcp://";
        assert!(outcome.stderr.contains(logged), "{outcome:#?}");
        assert_eq!(outcome.stderr.matches("yue ").count(), 1, "{outcome:#?}");
        let lines: Vec<_> = outcome.stdout.lines().map(without_numbers).collect();
        let expected = [
            "listening at tcp://#.#.#.#:#",
            "a call:          hello world",
            "a nested name:   #",
            "an error:        RuntimeError: examples/hello.lua:#: this went wrong on the server",
            "# fibers:     # calls in #.# s: # calls/s",
            "a thread:        thread worker",
            "thread://worker: # calls in #.# s: # calls/s",
            "done",
        ];
        assert_eq!(lines, expected);
        assert!(
            outcome.stdout.contains("a nested name:   42\n"),
            "{outcome:#?}"
        );
        assert!(
            outcome.stdout.contains("1000 fibers:     300000 calls"),
            "{outcome:#?}"
        );
    }
}

#[test]
fn demo_1_is_the_call() {
    for driver in drivers() {
        let expected = [
            "hello world",
            "bye world",
            "NoMethodError: there is no method 'hello'",
        ];
        assert_eq!(example(driver, &[], "demo1", &[]).lines(), expected);
    }
}

#[test]
fn demo_2_is_the_login() {
    for driver in drivers() {
        let expected = [
            "closed: the connection was not granted: __accept returned false or nil",
            "the goblin is defeated",
            "logged in as frodo, level 7, at attempt 2",
            "closed: closed by this side",
        ];
        assert_eq!(example(driver, &[], "demo2", &[]).lines(), expected);
    }
}

#[test]
fn demo_3_is_the_prefix_and_the_call_back() {
    for driver in drivers() {
        let outcome = example(driver, &[], "demo3", &[]);
        let lines = outcome.lines();
        assert_eq!(
            without_numbers(lines[0]),
            "TimeoutError: tcp://#.#.#.#:# did not answer in time"
        );
        let expected = [
            "NoMethodError: the method '_cheat' is private: a name that begins with '_' cannot be called from outside",
            "  which class? (warrior, mage)",
            "  which face? (young, old, scarred)",
            "a scarred mage",
            "the fast player got every tick, the slow one missed 5",
        ];
        assert_eq!(lines[1..], expected);
    }
}

#[test]
fn demo_4_is_servers_and_threads() {
    for driver in drivers() {
        let expected = [
            "frodo enters forest, visit 1",
            "sam enters desert, visit 1",
            "frodo enters desert, visit 2",
        ];
        assert_eq!(example(driver, &[], "demo4", &[]).lines(), expected);
    }
}

/// The examples' server, on a port of its own.
fn server(driver: &str, loops: &str) -> Server {
    let mut command = yue();
    command
        .env_remove("YUE_IO")
        .args(["--io", driver, "-c", loops]);
    Server::of(command.args(["examples/server.lua", "tcp://127.0.0.1:0"]))
}

#[test]
fn the_server_and_the_client_are_two_programs() {
    for driver in drivers() {
        for loops in ["1", "2"] {
            let server = server(driver, loops);
            let client = example(driver, &[], "client", &[&server.address, "name=yue"]);
            let guesses =
                [50, 25, 37, 43, 40, 41, 42].map(|guess| format!("  the server guesses {guess}"));
            let mut expected = vec!["hello yue, you are number 1"];
            expected.extend(guesses.iter().map(String::as_str));
            expected.push("the server found my number in 7 tries");
            assert_eq!(client.lines(), expected);
            // A loop that does not serve the client has said where it listens, too.
            assert_eq!(server.end().stderr, "");
        }
    }
}

/// A member of the chat: a client program, whose output is read line by line.
struct Member {
    program: Child,
    hears: BufReader<ChildStdout>,
}

impl Member {
    fn join(driver: &str, name: &str, address: &str) -> Member {
        let mut command = yue();
        command.env_remove("YUE_IO").args(["--io", driver]);
        command.args(["examples/chat.lua", "join", name, address]);
        let mut program = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Member {
            hears: BufReader::new(program.stdout.take().unwrap()),
            program,
        }
    }

    /// Hears until a line begins like that, and returns the rest of it; others may come before it.
    #[track_caller]
    fn hear(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            self.hears.read_line(&mut line).unwrap();
            assert_ne!(line, "", "{beginning:?} never came");
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn a_chat_on_several_loops_tells_everybody_what_each_says() {
    for driver in drivers() {
        let mut command = yue();
        command
            .env_remove("YUE_IO")
            .args(["--io", driver, "-c", "2"]);
        let server = Server::of(command.args(["examples/chat.lua", "serve", "tcp://127.0.0.1:0"]));
        // The kernel chooses the loop of a client: they come until both loops have some.
        let mut members: Vec<Member> = Vec::new();
        let mut loops = Vec::new();
        while !["1", "2"]
            .iter()
            .all(|number| loops.iter().any(|at| at == number))
        {
            assert!(members.len() < 60, "every client is on one loop");
            let name = format!("member{}", members.len());
            let mut member = Member::join(driver, &name, &server.address);
            loops.push(member.hear("you are in the room, on loop "));
            // The others are known to it on whichever loop they are.
            let everybody: Vec<_> = (0..=members.len()).map(|n| format!("member{n}")).collect();
            assert_eq!(member.hear("with: "), everybody.join(", "));
            for other in &mut members {
                other.hear(&format!("* {name} comes in"));
            }
            members.push(member);
        }
        let said = example(
            driver,
            &[],
            "chat",
            &["say", "sam", "hello\u{1b}[2J", &server.address],
        );
        assert_eq!(said.code(), 0, "{said:#?}");
        for member in &mut members {
            assert_eq!(member.hear("sam: "), "hello[2J");
            member.hear("* sam leaves");
        }
        drop(members.remove(0));
        for member in &mut members {
            member.hear("* member0 leaves");
        }
        drop(members);
        assert_eq!(server.end().stderr, "");
    }
}

#[test]
fn clients_that_come_and_go_find_the_server_of_several_loops() {
    for driver in drivers() {
        let server = server(driver, "3");
        let greetings: Vec<_> = (0..12)
            .map(|_| example(driver, &[], "client", &[&server.address]).lines()[0].to_owned())
            .collect();
        // Each loop counts its own.
        assert!(
            greetings.contains(&"hello world, you are number 1".to_owned()),
            "{greetings:?}"
        );
        assert_eq!(server.end().stderr, "");
    }
}

#[test]
fn the_client_says_that_there_is_no_server() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for driver in drivers() {
        let address = format!("tcp://127.0.0.1:{port}");
        let outcome = example(driver, &[], "client", &[&address]);
        outcome.fails(
            1,
            &["ConnectionRefusedError", &address, "examples/client.lua:15"],
        );
    }
}

#[test]
fn the_rust_example_echoes() {
    for driver in drivers() {
        // A port that was free a moment ago; the example has none to tell.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-under-test"));
        command
            .arg(&address)
            .env("YUE_IO", driver)
            .current_dir(root())
            .stdin(Stdio::null());
        let running = common::Running::start(&mut command);
        let mut first = None;
        wait_until("the echo server to listen", || {
            first = TcpStream::connect(&address).ok();
            first.is_some()
        });
        // The first says nothing and holds nobody up.
        let mut others: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(&address).unwrap())
            .collect();
        let text = |i: usize| format!("client {i} ").repeat(i * 100 + 1);
        for (i, stream) in others.iter_mut().enumerate() {
            stream.set_read_timeout(Some(common::LONG)).unwrap();
            stream.write_all(text(i).as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        for (i, stream) in others.iter_mut().enumerate() {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, text(i));
        }
        drop(running);
    }
}

/// Runs a program that starts others: they get the driver from the environment.
#[track_caller]
fn program(driver: &str, path: &str, arguments: &[&str]) -> Outcome {
    run(yue().env("YUE_IO", driver).arg(path).args(arguments))
}

/// Demands that a program ended well, and logged nothing but entries with one of these texts.
#[track_caller]
fn logs_only(outcome: &Outcome, expected: &[&str]) {
    assert_eq!(outcome.code(), 0, "{outcome:#?}");
    // The lines of a traceback are indented.
    let mut entries = outcome.stderr.lines().filter(|line| !line.starts_with(' '));
    let other = entries.find(|entry| !expected.iter().any(|text| entry.contains(text)));
    assert_eq!(other, None, "{outcome:#?}");
}

#[test]
fn the_chat_with_a_page_passes_its_test() {
    for driver in drivers() {
        // `lines` demands that nothing is logged: the mistakes of members are not faults of the program.
        let outcome = program(driver, "examples/chat/test.lua", &[]);
        assert_eq!(outcome.lines(), ["the chat works"]);
    }
}

#[test]
fn the_arena_passes_its_test() {
    for driver in drivers() {
        let outcome = program(driver, "examples/arena/test.lua", &[]);
        assert_eq!(outcome.lines(), ["the arena works"]);
    }
}

#[test]
fn bots_do_not_take_the_same_paths_in_each_run() {
    for driver in drivers() {
        let script = common::script("bots_twice.lua");
        let outcome = program(
            driver,
            script.to_str().unwrap(),
            &["examples/arena/bots.lua"],
        );
        assert_eq!(outcome.lines(), ["they differ"]);
    }
}

#[test]
fn character_making_passes_its_test() {
    for driver in drivers() {
        let outcome = program(driver, "examples/characters/test.lua", &[]);
        assert_eq!(outcome.lines(), ["character making works"]);
    }
}

#[test]
fn the_job_queue_tries_again_and_reports() {
    for driver in drivers() {
        let outcome = program(driver, "examples/jobs.lua", &["workers=2"]);
        let failures = [
            "the handler of count_primes failed, called by thread://",
            "the handler of divide_by_zero failed, called by thread://",
        ];
        logs_only(&outcome, &failures);
        let (progress, lines): (Vec<_>, Vec<_>) = outcome
            .stdout
            .lines()
            .partition(|line| line.starts_with("  "));
        assert_eq!(progress.first(), Some(&"  0 %"));
        assert_eq!(lines.len(), 12, "{outcome:#?}");
        assert_eq!(lines[2], "job 3, count_primes: 1854, attempts: 1");
        assert_eq!(lines[3], "job 4, count_primes: 1780, attempts: 2");
        let failed =
            "job 11, divide_by_zero: failed: RuntimeError: cannot divide by zero, attempts: 3";
        assert_eq!(lines[10], failed);
        assert_eq!(lines[11], "there are 17984 primes up to 200000");
    }
}

/// The output of the count of the built-in text, with three workers or two.
fn word_counts(workers: usize) -> Vec<String> {
    let mut lines = vec![format!("1450000 bytes in 23 parts, for {workers} workers")];
    let words = [
        (20000, "a"),
        (20000, "and"),
        (20000, "in"),
        (20000, "the"),
        (10000, "beautiful"),
    ];
    lines.extend(words.map(|(count, word)| format!("{count:8} {word}")));
    lines
}

#[test]
fn map_reduce_survives_the_death_of_a_node() {
    for driver in drivers() {
        let path = "examples/mapreduce/wordcount.lua";
        assert_eq!(program(driver, path, &[]).lines(), word_counts(3));

        let mut expected = word_counts(3);
        let outcome = program(driver, path, &["crash=yes"]);
        let lines = outcome.lines();
        let failed = "worker 3 failed: ConnectionLostError; map # is done again";
        assert_eq!(without_numbers(lines[1]), without_numbers(failed));
        expected.insert(1, lines[1].to_owned());
        assert_eq!(lines, expected);
    }
}

#[test]
fn map_reduce_takes_its_nodes_from_the_command_line() {
    for driver in drivers() {
        let path = "examples/mapreduce/wordcount.lua";
        assert_eq!(
            program(driver, path, &["local", "thread"]).lines(),
            word_counts(2)
        );
        program(driver, path, &["crash=yes", "local"]).fails(1, &["no worker is left"]);
    }
}

#[test]
fn the_service_answers_http_and_tells_of_changes() {
    for driver in drivers() {
        let mut command = yue();
        command.env_remove("YUE_IO").args(["--io", driver]);
        let server = Server::of(command.args(["examples/service.lua", "tcp://127.0.0.1:0"]));
        let client = common::script("service_client.lua");
        let client = program(driver, client.to_str().unwrap(), &[&server.address]);
        assert_eq!(client.lines(), ["the service works"]);
        assert_eq!(server.end().stderr, "");
    }
}

//! Every example is run as a user runs it, and says exactly what it should.

mod common;

use common::{Outcome, Server, drivers, root, run, wait_until, yue};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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
    says: Option<ChildStdin>,
    hears: BufReader<ChildStdout>,
}

impl Member {
    fn join(driver: &str, name: &str, address: &str) -> Member {
        let mut command = yue();
        command.env_remove("YUE_IO").args(["--io", driver]);
        command.args(["examples/chat.lua", "join", name, address]);
        let mut program = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Member {
            says: program.stdin.take(),
            hears: BufReader::new(program.stdout.take().unwrap()),
            program,
        }
    }

    fn say(&mut self, line: &str) {
        let says = self.says.as_mut().unwrap();
        says.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.hears.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Hears until that line comes; others may come before it.
    #[track_caller]
    fn hear_at_last(&mut self, line: &str) {
        loop {
            let heard = self.hear();
            assert_ne!(heard, "", "{line:?} never came");
            if heard == line {
                return;
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
        let mut members: Vec<(Member, String)> = Vec::new();
        let is_on =
            |loop_of: &String, number| *loop_of == format!("you are in the room, on loop {number}");
        while ![1, 2]
            .iter()
            .all(|number| members.iter().any(|(_, at)| is_on(at, number)))
        {
            assert!(members.len() < 60, "every client is on one loop");
            let name = format!("member{}", members.len());
            let mut member = Member::join(driver, &name, &server.address);
            // It hears of itself, too, before or after the answer.
            let first = [member.hear(), member.hear()];
            let comes_in = format!("* {name} comes in");
            assert!(first.contains(&comes_in), "{first:?}");
            let at = first.into_iter().find(|line| *line != comes_in).unwrap();
            for (other, _) in &mut members {
                other.hear_at_last(&comes_in);
            }
            members.push((member, at));
        }
        let count = members.len();
        for speaker in [0, count - 1] {
            members[speaker].0.say("hello\u{1b}[2J");
            for (member, _) in &mut members {
                member.hear_at_last(&format!("member{speaker}: hello[2J"));
            }
        }
        members[0].0.say("/who");
        let everybody: Vec<_> = (0..count).map(|n| format!("member{n}")).collect();
        members[0].0.hear_at_last(&everybody.join(", "));
        // One leaves: its input has ended.
        let (mut leaving, _) = members.remove(0);
        drop(leaving.says.take());
        assert!(leaving.program.wait().unwrap().success());
        for (member, _) in &mut members {
            member.hear_at_last("* member0 leaves");
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

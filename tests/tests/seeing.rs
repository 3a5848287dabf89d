//! Planted mistakes in Lua programs, and what the `yue` command tells of them: a deadlock, an endless loop, leaks, a
//! nil index in a handler, an error in what is only notified. The first line is to name the mistake.

mod common;

use common::{Running, drivers, yue};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A program that runs, and what it says on standard error, line by line.
struct Watched {
    running: Running,
    lines: Receiver<String>,
    script: PathBuf,
}

impl Watched {
    /// Starts a program whose standard error can be read while it runs.
    fn start(driver: &str, name: &str, text: &str) -> Watched {
        Watched::start_with(driver, name, text, &[])
    }

    fn start_with(driver: &str, name: &str, text: &str, environment: &[(&str, &str)]) -> Watched {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let script = folder.join(format!("{name}-{driver}-{}.lua", std::process::id()));
        fs::write(&script, text).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = yue();
        command
            .env("YUE_IO", driver)
            .envs(environment.iter().copied())
            .args(["--watchdog", "100"])
            .arg(&script);
        let running = Running::start_with_stderr(&mut command, Stdio::from(writer));
        drop(command);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Watched {
            running,
            lines,
            script,
        }
    }

    /// Lines up to the one that has `end` in it.
    #[track_caller]
    fn until(&self, end: &str) -> String {
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) => text += &format!("{line}\n"),
                Err(_) => panic!("no '{end}' in {text}"),
            }
            if text.lines().last().is_some_and(|line| line.contains(end)) {
                return text;
            }
        }
    }

    /// What is reported on SIGQUIT, up to the line that has `end` in it.
    #[track_caller]
    fn report(&self, end: &str) -> String {
        self.running.signal(libc::SIGQUIT);
        self.until(end)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.script);
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' in {text}");
    }
}

/// The first line that is reported on SIGQUIT, and all of it.
#[track_caller]
fn report(program: &Watched) -> (String, String) {
    let text = program.report("end of the report");
    let first = text.lines().find(|line| line.starts_with("yue: "));
    (first.unwrap_or_default().to_owned(), text)
}

#[test]
fn the_first_line_of_a_report_on_a_deadlock_names_both_fibers_and_their_lines() {
    for driver in drivers() {
        let program = "local first, second
            local function needs_second() local x = second:get() return x end
            local function needs_first() local x = first:get() return x end
            first = yue.fiber(needs_second, 'first')
            second = yue.fiber(needs_first, 'second')
            first:run() second:run()
            yue.sleep(0.01)
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "deadlock", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "deadlock: fiber 'first' (",
                ".lua:2) waits for fiber 'second' (",
                ".lua:3), which waits for fiber 'first' (",
                ".lua:2: function <",
            ],
        );
        has(
            &text,
            &[
                "fiber 'main' (",
                " waits for the end of a sleep",
                ": main chunk",
            ],
        );
        // Native frames, and yue's own fibers, are for those who ask.
        for hidden in ["yue_scheduler", "[yue]/", "rpc worker"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}

#[test]
fn fibers_that_lock_two_mutexes_in_opposite_orders_are_reported_as_a_deadlock() {
    for driver in drivers() {
        let program = "local gold, goods, full = yue.mutex(), yue.mutex(), yue.channel()
            local function lock_both(first, second)
                first:lock()
                yue.sleep(0.01)
                second:lock()
            end
            yue.fiber(lock_both, 'buyer'):run(gold, goods)
            yue.fiber(lock_both, 'seller'):run(goods, gold)
            yue.fiber(function() full:put(1) end, 'producer'):run()
            yue.sleep(0.05)
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "mutexes", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "deadlock: fiber 'buyer' (",
                ".lua:2) waits for fiber 'seller' (",
                ".lua:2), which waits for fiber 'buyer' (",
            ],
        );
        has(
            &text,
            &[
                " waits for a mutex that is locked by fiber '",
                "fiber 'producer' (",
                " waits for room in a channel",
            ],
        );
    }
}

#[test]
fn fibers_that_wait_in_a_tail_call_are_told_of_like_others() {
    for driver in drivers() {
        let program = "local gate, first, second = yue.emitter()
            local listener = yue.listen('tcp://127.0.0.1:0', { waits = function() return gate:wait('open') end })
            yue.open(listener:addr()).async_waits()
            local function needs_second() yue.yield() return second:get() end
            first = yue.spawn(needs_second)
            second = yue.spawn(function() return first:get() end)
            yue.spawn(yue.sleep, 3600)
            yue.timer(3600)
            yue.sleep(0.05)
            io.stderr:write('ready\\n')
            return yue.sleep(3600)";
        let program = Watched::start(driver, "tail", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "deadlock: fiber (",
                ".lua:4) waits for fiber (",
                ".lua:6), which waits for fiber (",
            ],
        );
        has(
            &text,
            &[
                "handler of waits, called by tcp://127.0.0.1:",
                " waits for the event open of ",
                "fiber 'main' (the script) waits for the end of a sleep",
                "fiber (a function of a library) waits for the end of a sleep",
            ],
        );
        for hidden in ["[yue]/", "'timer'"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}

#[test]
fn callbacks_that_end_in_a_tail_call_are_named() {
    for driver in drivers() {
        // The search takes a second or more: the square of the text's length.
        let program = "local gate, other, text = yue.emitter(), yue.emitter(), ('a'):rep(40000)
            yue.timer(0):bind('tick', function() return gate:wait('one') end)
            other:bind('x', function() return gate:wait('two') end)
            other:emit('x')
            yue.spawn(function() end):on(function() return gate:wait('three') end)
            yue.sleep(0.05)
            io.stderr:write('ready\\n')
            yue.signal(yue.const.SIGUSR1):wait('signal')
            yue.timer(0):bind('tick', function() return text:find '.-b' end)";
        let program = Watched::start(driver, "callbacks", program);
        program.until("ready");
        let (_, text) = report(&program);
        for (label, line, event) in [
            ("fiber 'timer'", 2, "one"),
            ("fiber", 3, "two"),
            ("fiber", 5, "three"),
        ] {
            let awaited = format!("the event {event} of");
            let mut listed = text.lines().filter(|line| line.starts_with("  "));
            let fiber = listed.find(|line| line.contains(&awaited));
            let fiber = fiber.unwrap_or_else(|| panic!("no fiber waits for {event} in {text}"));
            has(
                fiber,
                &[&format!("  {label} ("), &format!(".lua:{line}) waits for")],
            );
        }
        program.running.signal(libc::SIGUSR1);
        let text = program.until("a loop is held for ");
        has(&text, &[".lua:9: function, which ended in a tail call"]);
    }
}

#[test]
fn a_loop_that_is_held_is_told_of_in_one_line_with_function_caller_and_duration() {
    for driver in drivers() {
        let program = "local function greedy(seconds)
              local n, start = 0, os.clock()
              while os.clock() - start < seconds do
                for i = 1, 1e5 do n = n + i % 3 end
              end
              return n
            end
            local function work() local n = greedy(0.7) return n end
            yue.sleep(0.01)
            local n = work()
            io.stderr:write('went on\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "held", program);
        let text = program.until("went on");
        let first = text.lines().next().unwrap_or_default();
        has(
            first,
            &[
                "yue warn: a loop is held for ",
                "ms at ",
                "function 'greedy'",
            ],
        );
        has(
            first,
            &[", called from ", ".lua:8: function 'work' (fiber 'main'"],
        );
        let known_by = [".lua:3: ", ".lua:4: ", ".lua:1: "];
        assert!(known_by.iter().any(|line| first.contains(line)), "{text}");
        has(&text, &[".lua:10: main chunk"]);
        assert!(!text.contains("lj_"), "{text}");
    }
}

#[test]
fn an_endless_loop_is_the_first_line_of_a_report() {
    for driver in drivers() {
        let program = "jit.off()
            local function spin() while true do end end
            local function work() spin() return 1 end
            io.stderr:write('ready\\n')
            work()";
        let program = Watched::start(driver, "endless", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "a loop is held for at least 1.0s at ",
                ".lua:2: function 'spin', called from ",
            ],
        );
        has(&first, &[".lua:3: function 'work'"]);
        has(&text, &[".lua:5: main chunk"]);
    }
}

#[test]
fn what_a_call_waits_for_is_told_with_address_and_method() {
    for driver in drivers() {
        let program = "local listener = yue.listen('tcp://127.0.0.1:0', { slow = function() yue.sleep(3600) end })
            local function ask() yue.open(listener:addr()).timed_slow(100) return 1 end
            local function calls() ask() return 1 end
            yue.fiber(calls, 'asker'):run()
            yue.sleep(0.05)
            io.stderr:write('ready\\n')";
        let program = Watched::start(driver, "asks", program);
        program.until("ready");
        let (_, text) = report(&program);
        let of_asker = text.lines().find(|line| line.contains("fiber 'asker'"));
        has(
            of_asker.unwrap_or(&text),
            &[
                " waits for the answer of tcp://127.0.0.1:",
                " method slow, since ",
            ],
        );
        has(&text, &[".lua:2: function 'ask'", ".lua:3: function <"]);
        // Both ends of the connection.
        has(
            &text,
            &[
                "1 connection accepted at tcp://127.0.0.1:",
                "1 connection to tcp://127.0.0.1:",
            ],
        );
        has(
            &text,
            &[
                ", opened at ",
                ".lua:2\n",
                " bytes queued, 1 call in flight, ",
            ],
        );
    }
}

#[test]
fn a_leak_of_connections_is_the_first_line_with_the_line_that_opened_them() {
    for driver in drivers() {
        let program =
            "local listener = yue.listen('tcp://127.0.0.1:0', { hello = function() return 1 end })
            local kept = {}
            local function open()
              kept[#kept + 1] = yue.open(listener:addr(), { no_cache = true }, nil)
              return kept[#kept].hello()
            end
            for i = 1, 120 do open() end
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "connections", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "120 connections to tcp://127.0.0.1:",
                ", opened at ",
                ".lua:4, the oldest since ",
            ],
        );
        has(&text, &["and 116 more"]);
    }
}

#[test]
fn a_leak_of_fibers_is_one_group_with_its_number_and_its_line() {
    for driver in drivers() {
        let program = "local never = yue.fiber(function() yue.sleep(3600) end, 'never'):run()
            local function asks_and_is_never_answered() local x = never:get() return x end
            local function asks_too() local x = never:get() return x end
            for i = 1, 3 do yue.spawn(asks_too) end
            yue.sleep(0.05)
            for i = 1, 500 do yue.spawn(asks_and_is_never_answered) end
            yue.sleep(0.05)
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "leak", program);
        program.until("ready");
        let (first, text) = report(&program);
        has(
            &first,
            &[
                "500 fibers wait for fiber 'never' (",
                ".lua:2: function <",
                "is it a leak?",
            ],
        );
        let groups = |count: &str, line: &str| {
            let mut lines = text.lines().map(str::trim);
            lines.any(|group| group.starts_with(count) && group.contains(line))
        };
        assert!(groups("500 fibers (", ".lua:2) wait for"), "{text}");
        assert!(groups("3 fibers (", ".lua:3) wait for"), "{text}");
    }
}

#[test]
fn a_handler_is_named_with_who_called_it_whether_it_computes_or_waits() {
    for driver in drivers() {
        let program = "local listener = yue.listen('tcp://127.0.0.1:0', {
              computes = function()
                local start = os.clock()
                while os.clock() - start < 0.7 do end
              end,
              waits = function() yue.sleep(3600) end,
            })
            local server = yue.open(listener:addr())
            server.timed_async_waits(3600):on(print)
            server.timed_computes(3600)
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "handlers", program);
        let text = program.until("ready");
        let first = text.lines().next().unwrap_or_default();
        has(
            first,
            &[
                "a loop is held for ",
                "(handler of computes, called by tcp://127.0.0.1:",
            ],
        );
        let (_, text) = report(&program);
        has(
            &text,
            &[
                "handler of waits, called by tcp://127.0.0.1:",
                " waits for the end of a sleep",
            ],
        );
    }
}

#[test]
fn mistakes_in_handlers_are_logged_in_one_line_with_the_method_and_the_line_of_lua() {
    for driver in drivers() {
        let program = "local players = {}
            local listener = yue.listen('tcp://127.0.0.1:0', {
              hit = function(name)
                local player = players[name]
                player.hp = player.hp - 1
              end,
              move = function() local world world.x = 1 end,
            })
            local server = yue.open(listener:addr())
            pcall(server.hit, 'bob')
            server.notify_move()
            yue.sleep(0.05)
            io.stderr:write('ready\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "mistakes", program);
        let text = program.until("ready");
        let entry = |part: &str| {
            text.lines()
                .find(|line| line.contains(part))
                .unwrap_or(&text)
        };
        has(
            entry("the handler of hit failed"),
            &[
                "yue error: ",
                ", called by tcp://",
                ".lua:5: attempt to index local 'player' (a nil value)",
            ],
        );
        has(
            entry("the handler of move failed"),
            &[
                "yue error: ",
                ", notified by tcp://",
                ".lua:7: attempt to index local 'world' (a nil value)",
            ],
        );
        // Who called the handler is no line of Lua.
        assert!(!text.contains(" at 0x"), "{text}");
    }
}

#[test]
fn native_frames_are_shown_to_those_who_ask_for_them() {
    let program = "io.stderr:write('ready\\n') yue.sleep(3600)";
    let program = Watched::start_with(
        "uring",
        "native",
        program,
        &[("YUE_BACKTRACE", "full"), ("YUE_IO", "auto")],
    );
    program.until("ready");
    let text = program.report("main chunk");
    let rest = program.until("parked in");
    has(&(text + &rest), &["end of the report", "process "]);
}

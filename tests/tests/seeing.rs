//! Planted faults in Lua programs, and what the `yue` command tells of them: a deadlock, a loop that is held, a leak.

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
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let script = folder.join(format!("{name}-{driver}-{}.lua", std::process::id()));
        fs::write(&script, text).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = yue();
        command
            .env("YUE_IO", driver)
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

#[test]
fn a_deadlock_shows_the_lines_that_wait_for_each_other() {
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
        // Which of the two is told of first is open.
        let mut text = program.report(":2: ");
        if !text.contains(":3: ") {
            text += &program.until(":3: ");
        }
        has(&text, &["process ", driver, "parked in ", "C function "]);
    }
}

#[test]
fn a_loop_that_is_held_is_told_of_with_file_and_line_and_the_program_goes_on() {
    for driver in drivers() {
        let program = "local function greedy(seconds)
              local n, start = 0, os.clock()
              while os.clock() - start < seconds do
                for i = 1, 1e5 do n = n + i % 3 end
              end
              return n
            end
            yue.sleep(0.01)
            local n = greedy(0.7)
            io.stderr:write('went on\\n')
            yue.sleep(3600)";
        let program = Watched::start(driver, "held", program);
        let text = program.until("went on");
        has(
            &text,
            &[
                "has been held for ",
                "by fiber ",
                "Lua:",
                ":9: in the function at line 0",
            ],
        );
        // Seen while it calls a C function, the function is known by the line at which it begins.
        let known_by = [".lua:3: in ", ".lua:4: in ", ".lua:1\n"];
        assert!(known_by.iter().any(|line| text.contains(line)), "{text}");
    }
}

#[test]
fn a_leak_of_fibers_is_one_group_with_its_number_and_its_line() {
    for driver in drivers() {
        let program = "local never = yue.fiber(function() yue.sleep(3600) end):run()
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
        let text = program.report("and 496 more");
        has(&text, &["500 fibers parked in ", ".lua:2: function "]);
        // Two groups, though the same line of Rust starts them: each says which function of Lua's it runs.
        let groups = text
            .lines()
            .filter(|line| line.contains(" fibers parked in "));
        let ends = |count: &str, line: &str| {
            let mut found = groups
                .clone()
                .filter(|group| group.trim().starts_with(count));
            found.any(|group| group.ends_with(line))
        };
        assert!(ends("500 ", ".lua:2") && ends("3 ", ".lua:3"), "{text}");
    }
}

//! The end of a `yue` process by signals, and what its children inherit.

mod common;

use common::{Outcome, Program, Running, Server, run, script, wait_until, yue};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const ENDED_BY_TERM: i32 = 128 + libc::SIGTERM;
const ENDED_BY_INT: i32 = 128 + libc::SIGINT;

/// Starts a program that says that it is ready, sends it one signal, and returns what became of it. What it prints
/// afterwards nobody reads until its end.
fn ended_by(signal: i32, name: &str, text: &str) -> Outcome {
    let program = Program::new(name, text);
    let (server, mut stdout) = Server::of_unread(&mut program.command());
    server.running.signal(signal);
    let mut outcome = server.running.outcome();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    outcome.stdout = String::from_utf8_lossy(&rest).into_owned();
    outcome
}

/// What a program prints when it is ready.
const READY: &str = "print('serving at nothing') io.stdout:flush() ";

/// Programs that compute run for one test at a time, which leaves each the time to clean up.
fn turn_to_compute() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program after the other in a thread of its own, for each takes the whole grace.
fn side_by_side(cases: &'static [(&'static str, &'static str)], check: fn(&str, &Outcome)) {
    let _turn = turn_to_compute();
    let threads = cases.iter().map(|(name, text)| {
        let work = move || {
            let outcome = ended_by(libc::SIGTERM, name, &format!("{READY}{text}"));
            check(name, &outcome);
        };
        thread::Builder::new()
            .name((*name).to_owned())
            .spawn(work)
            .unwrap()
    });
    let threads: Vec<_> = threads.collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_signal_ends_a_program_and_its_exit_code_names_it() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let server = Server::start(script("server.lua"));
        server.serves();
        server.running.signal(signal);
        let outcome = server.running.outcome();
        assert_eq!(outcome.code(), 128 + signal, "{outcome:#?}");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn one_signal_ends_a_program_whatever_it_does() {
    let cases = &[
        ("compiled", "while true do end"),
        ("interpreted", "jit.off() while true do end"),
        (
            "catching",
            "while true do pcall(function() while true do end end) end",
        ),
        (
            "catching-cancels",
            "while true do pcall(yue.sleep, 0.01) end",
        ),
        (
            "worker",
            "yue.thread('busy', function() while true do end end, { timeout = 100 })",
        ),
        (
            "finalizer",
            "getmetatable(newproxy(true)).__gc = function() while true do end end collectgarbage()",
        ),
        (
            "C",
            "local ffi = require 'ffi' ffi.cdef 'int pause(void);' while true do ffi.C.pause() end",
        ),
        ("child", "os.execute('exec sleep 60 >/dev/null 2>&1')"),
        (
            "writing",
            "while true do io.stdout:write(('x'):rep(9999)) end",
        ),
        (
            "logging",
            "yue.spawn(function() while true do yue.log.info(('x'):rep(9999)) yue.yield() end end)",
        ),
        (
            "serving",
            "local l = yue.listen('tcp://127.0.0.1:0', { spin = function() while true do end end })
             yue.open(l:addr(), { timeout = 1e6 }, nil).spin()",
        ),
    ];
    side_by_side(cases, |name, outcome| {
        // It may say on standard error what it had to leave behind.
        assert_eq!(
            outcome.status.code(),
            Some(ENDED_BY_TERM),
            "{name}: {outcome:#?}"
        );
    });
}

#[test]
fn one_signal_ends_many_loops_that_never_wait_in_the_same_time() {
    let _turn = turn_to_compute();
    // A search that takes years, in C, where Lua cannot be interrupted; and far more loops than processors.
    let text = format!("{READY} string.find(('a'):rep(200), ('a-'):rep(30) .. 'b')");
    let program = Program::new("many", &text);
    let mut command = yue();
    let server = Server::of(command.args(["-c", "48"]).arg(program.name()));
    let begin = Instant::now();
    server.running.signal(libc::SIGTERM);
    let outcome = server.running.outcome();
    assert_eq!(outcome.code(), ENDED_BY_TERM, "{outcome:#?}");
    // The grace, a second, and what a busy machine may add. (Told one after the other they took half a minute.)
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[test]
fn what_a_loop_that_never_waits_has_to_clean_up_is_cleaned_up() {
    let cases = &[
        (
            "own-finally",
            "yue.try { function() while true do end end, finally = function()
               for i = 1, 1e4 do end
               yue.sleep(0.01)
               print('cleaned up')
             end }",
        ),
        (
            "own-catch",
            "yue.try { function() while true do end end, catch = function(e)
               print(e:is_a('CancelledError') and 'cleaned up')
             end }",
        ),
        (
            "others-finally",
            "yue.spawn(function()
               yue.try { function() yue.sleep(1e6) end, finally = function() print('cleaned up') end }
             end)
             yue.yield()
             while true do pcall(function() while true do end end) end",
        ),
        (
            "after-a-finally-without-end",
            "for _, finally in ipairs { function() while true do end end, function() print('cleaned up') end } do
               yue.spawn(function() yue.try { function() yue.sleep(1e6) end, finally = finally } end)
             end",
        ),
        (
            "handlers",
            "local l = yue.listen('tcp://127.0.0.1:0', { spin = function() while true do end end })
             local ok, e = pcall(yue.open(l:addr(), { timeout = 1e6 }, nil).spin)
             print(not ok and 'cleaned up')",
        ),
    ];
    side_by_side(cases, |name, outcome| {
        assert_eq!(outcome.code(), ENDED_BY_TERM, "{name}: {outcome:#?}");
        assert!(
            outcome.stdout.contains("cleaned up"),
            "{name}: {outcome:#?}"
        );
        assert_eq!(outcome.stderr, "", "{name}");
    });
}

#[test]
fn a_shutdown_that_the_program_asks_for_comes_to_its_end_too() {
    let text = "if yue.thread.count() == 0 then
          yue.thread('busy', function() yue.spawn(function() while true do end end) end)
          yue.sleep(0.05)
          print('some output')
          yue.die {}
        end";
    let program = Program::new("dying", text);
    let outcome = run(&mut program.command());
    // The thread is interrupted, so that nothing is left to complain of.
    assert_eq!(outcome.lines(), ["some output"]);
}

#[test]
fn buffered_output_is_written_on_every_way_out() {
    let ways = [
        ("by itself", "", None, 0),
        ("os.exit", "os.exit(7)", None, 7),
        ("yue.die", "yue.timer(0, 1) yue.die {}", None, 0),
        ("an error", "error('on purpose')", None, 1),
        (
            "a signal",
            "yue.timer(0, 1)",
            Some(libc::SIGINT),
            ENDED_BY_INT,
        ),
        (
            "two signals",
            "while true do end",
            Some(libc::SIGINT),
            ENDED_BY_INT,
        ),
        (
            "the deadline",
            "while true do collectgarbage() end",
            Some(libc::SIGTERM),
            ENDED_BY_TERM,
        ),
    ];
    for (way, text, signal, code) in ways {
        // A pipe: C buffers all of it.
        let text = format!(
            "io.stderr:write('ready\\n') print('line one') io.stdout:write('line two') {text}"
        );
        let program = Program::new("buffered", &text);
        let mut command = program.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{way}");
        if let Some(signal) = signal {
            // SAFETY: a child that has not been waited for.
            let send = || unsafe { libc::kill(child.id() as i32, signal) };
            thread::sleep(Duration::from_millis(50));
            send();
            if way == "two signals" {
                // Later than what counts as the same request.
                thread::sleep(Duration::from_millis(700));
                send();
            }
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{way}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "line one\nline two",
            "{way}"
        );
    }
}

/// A program whose end takes as long as it is let: a request is being served.
fn busy() -> (Program, Server) {
    let text = "local yue = require 'yue'
        local listener = yue.listen('tcp://127.0.0.1:0', { wait = function() yue.sleep(1e6) end })
        yue.open(listener:addr(), { timeout = 1e6 }, nil).async_wait()
        yue.sleep(0.01)
        print('serving at ' .. listener:addr())
        io.stdout:flush()";
    let program = Program::new("busy", text);
    let server = Server::of(&mut program.command());
    (program, server)
}

/// Sends signals until it is over. Those that come within half a second are one.
fn ends_by_a_second_signal(mut running: Running) {
    wait_until("the end of a program that got two signals", || {
        let over = !running.is_running();
        if !over {
            running.signal(libc::SIGINT);
        }
        over
    });
    assert_eq!(running.outcome().code(), ENDED_BY_INT);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_program, Server { running, .. }) = busy();
    running.signal(libc::SIGINT);
    ends_by_a_second_signal(running);
}

#[test]
fn a_second_signal_ends_a_program_that_never_waits_or_is_blocked() {
    let spinning = format!("{READY} while true do end");
    // The pipe is read up to the first line, and then no more: the write blocks the loop.
    let writing = format!("{READY} while true do io.stdout:write(('x'):rep(9999)) end");
    for (name, text) in [("spinning", spinning), ("writing", writing)] {
        let program = Program::new(name, &text);
        let (Server { running, .. }, _stdout) = Server::of_unread(&mut program.command());
        ends_by_a_second_signal(running);
    }
}

#[test]
fn a_signal_right_behind_the_first_is_the_same_request() {
    let text = format!(
        "yue.listen('tcp://127.0.0.1:0', {{ f = function() end }})
         yue.spawn(function() pcall(yue.sleep, 100) yue.shield(yue.sleep, 0.05) print('cleaned up') end)
         yue.yield() {READY}"
    );
    let program = Program::new("twice", &text);
    for _ in 0..5 {
        let server = Server::of(&mut program.command());
        // As GNU timeout does it: the process, and at once its group.
        server.running.signal(libc::SIGTERM);
        server.running.signal(libc::SIGTERM);
        let outcome = server.running.outcome();
        assert_eq!(outcome.code(), ENDED_BY_TERM, "{outcome:#?}");
        assert_eq!(outcome.stdout, "cleaned up\n", "{outcome:#?}");
    }
}

#[test]
fn a_program_that_binds_the_signal_decides_for_itself() {
    for (how, code) in [
        ("yue.die {}", 0),
        ("os.exit(7)", 7),
        ("error('on purpose')", 0),
    ] {
        let text = format!(
            "yue.signal(yue.const.SIGTERM):bind('signal', function()
               yue.timer(0.05):bind('tick', function() yue.die {{}} end)
               {how}
             end) {READY}"
        );
        let outcome = ended_by(libc::SIGTERM, "binding", &text);
        assert_eq!(outcome.code(), code, "{how}: {outcome:#?}");
    }
}

#[test]
fn a_signal_while_it_starts_ends_it_too() {
    for delay_us in [0, 300, 1_000, 3_000, 6_000, 10_000, 20_000] {
        let running = Running::start(yue().arg(script("server.lua")).arg("tcp://127.0.0.1:0"));
        // No condition to wait for: the moment is the point, and any will do.
        thread::sleep(Duration::from_micros(delay_us));
        running.signal(libc::SIGTERM);
        let outcome = running.outcome();
        let (code, signal) = (outcome.status.code(), outcome.status.signal());
        let ended = code == Some(ENDED_BY_TERM) || signal == Some(libc::SIGTERM);
        assert!(ended && outcome.stderr.is_empty(), "{outcome:#?}");
    }
}

/// Runs `prepare` in the child before the command is executed.
fn before_exec(command: &mut Command, prepare: fn()) -> &mut Command {
    // SAFETY: the tests pass functions that make async-signal-safe calls only.
    unsafe {
        command.pre_exec(move || {
            prepare();
            Ok(())
        })
    }
}

#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let mut command = yue();
    command.arg(script("server.lua")).arg("tcp://127.0.0.1:0");
    // What sh does for what it starts with `&`.
    before_exec(&mut command, || {
        // SAFETY: async-signal-safe.
        unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    });
    let server = Server::of(&mut command);
    for _ in 0..10 {
        server.running.signal(libc::SIGINT);
        server.serves();
    }
    server.end();
}

/// The sets of signals that a program's children begin with, by the ways of starting one.
const CHILDREN: &str = "
    local path = os.tmpname()
    local function sets(text)
      return (text:gsub('.*SigBlk:%s*(%x+)%s*SigIgn:%s*(%x+).*', '%1 %2'))
    end
    os.execute('cat /proc/self/status > ' .. path)
    local file = io.open(path)
    print(sets(file:read('*a')))
    file:close()
    os.remove(path)
    local pipe = io.popen('cat /proc/self/status')
    print(sets(pipe:read('*a')))
    pipe:close()
    pipe = io.popen('(yes | head -1) 2>&1')
    print(pipe:read('*a'):match('(.-)%s*$'))
    pipe:close()
    print(os.execute('exit 3'), os.execute('kill -9 $$'), os.execute('no-such-command 2>/dev/null'), os.execute())";

/// A set of signals of this very process, as the kernel shows it.
fn set_of_own(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(line.unwrap().trim_start_matches(':').trim(), 16).unwrap()
}

#[test]
fn children_begin_with_nothing_blocked_or_ignored_whatever_the_parent_left() {
    let text =
        format!("yue.signal(yue.const.SIGHUP):bind('signal', print) {CHILDREN} yue.die {{}}");
    let program = Program::new("children", &text);
    let careless = || {
        // SAFETY: async-signal-safe.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
    };
    for prepare in [|| (), careless] {
        let outcome = run(before_exec(&mut program.command(), prepare));
        let lines = outcome.lines();
        // What our own parent ignores, too, is inherited, but what `yue()` resets; of signals 32 and 33 the C library
        // makes what it likes.
        let reset = 1 << (libc::SIGHUP - 1) | 1 << (libc::SIGINT - 1) | 1 << (libc::SIGQUIT - 1);
        let known: u64 = !(0b11 << 31 | reset);
        let inherited = set_of_own("SigIgn") & !(1 << (libc::SIGPIPE - 1));
        for sets in &lines[..2] {
            let sets = sets
                .split(' ')
                .map(|set| u64::from_str_radix(set, 16).unwrap() & known);
            assert_eq!(sets.collect::<Vec<_>>(), [0, inherited & known]);
        }
        let codes = format!("{}\t9\t{}\t1", 3 << 8, 127 << 8);
        assert_eq!(lines[2..], ["y", &codes]);
    }
}

#[test]
fn a_program_hears_of_signals_while_a_command_of_its_runs() {
    let text = format!("{READY} os.execute('exec sleep 60 >/dev/null 2>&1')");
    let outcome = ended_by(libc::SIGINT, "executing", &text);
    assert_eq!(outcome.code(), ENDED_BY_INT, "{outcome:#?}");
}

#[test]
fn many_signals_at_once_do_not_use_up_the_stack_of_their_handlers() {
    let text = format!(
        "for _, name in ipairs {{ 'HUP', 'URG', 'ALRM', 'PIPE', 'CHLD', 'USR1', 'USR2', 'WINCH' }} do
           yue.signal(yue.const['SIG' .. name]):bind('signal', function() end)
         end
         {READY}"
    );
    let program = Program::new("storm", &text);
    let (server, _stdout) = Server::of_unread(&mut program.command());
    let all = [
        libc::SIGHUP,
        libc::SIGURG,
        libc::SIGALRM,
        libc::SIGPIPE,
        libc::SIGCHLD,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
    ];
    thread::scope(|scope| {
        for start in 0..4 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..20_000 {
                    server.running.signal(all[(start * 2 + number) % all.len()]);
                }
            });
        }
    });
    server.running.signal(libc::SIGTERM);
    assert_eq!(server.running.outcome().code(), ENDED_BY_TERM);
}

fn is_there(id: &str) -> bool {
    std::path::Path::new("/proc").join(id).exists()
}

#[test]
fn orphans_that_come_to_the_command_are_reaped_and_its_own_children_are_not_taken_from_it() {
    // As for process 1 of a container, but the test needs no rights for it.
    let subreaper = || {
        // SAFETY: async-signal-safe.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    };
    let text = "local l = yue.listen('tcp://127.0.0.1:0', {
          orphan = function()
            local pipe = io.popen('sleep 0.05 >/dev/null & echo $!')
            local id = pipe:read('*l')
            assert(pipe:close())
            return id
          end,
          own = function()
            local pipe = io.popen('exit 0')
            yue.sleep(0.05)
            return { pipe:close(), os.execute('exit 3') }
          end,
        })
        print('serving at ' .. l:addr())
        io.stdout:flush()";
    let program = Program::new("reaping", text);
    let server = Server::of(before_exec(&mut program.command(), subreaper));
    let mut client = server.connect();
    for _ in 0..5 {
        let id = client.call("orphan", &[]).unwrap();
        let id = id.as_str().unwrap();
        wait_until("the orphan to be reaped", || !is_there(id));
        let own = client.call("own", &[]).unwrap();
        assert_eq!(own, serde_json::json!([true, 3 << 8]));
    }
    assert_eq!(server.end().stderr, "");
    let exits = Program::new("exits", "os.exit(9)");
    let outcome = run(before_exec(&mut exits.command(), subreaper));
    assert_eq!(outcome.code(), 9);
    let killed = Program::new("killed", "os.execute('kill -9 $PPID')");
    let outcome = run(before_exec(&mut killed.command(), subreaper));
    assert_eq!(outcome.code(), 128 + libc::SIGKILL);
}

#[test]
fn what_the_program_closes_is_closed_though_another_process_reaps_for_it() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let text = "local ffi = require 'ffi'
        ffi.cdef 'int close(int)'
        assert(ffi.C.close(9) == 0)
        local l = yue.listen('tcp://127.0.0.1:0', {})
        print('serving at ' .. l:addr())
        io.stdout:flush()";
    let program = Program::new("closing", text);
    let mut command = program.command();
    let number = writer.as_raw_fd();
    // SAFETY: both calls are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            libc::dup2(number, 9);
            Ok(())
        })
    };
    let server = Server::of(&mut command);
    drop(writer);
    // If the process that stays behind had it open, this would wait for ever.
    let (told, ended) = std::sync::mpsc::channel();
    thread::spawn(move || told.send(reader.read(&mut [0]).unwrap()));
    assert_eq!(ended.recv_timeout(Duration::from_secs(30)), Ok(0));
    server.end();
}

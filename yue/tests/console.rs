//! Code that a person types, in a running Lua program: its results as text, what it may not do to the program, how it
//! is interrupted, and the completion of lines.

#![cfg(feature = "lua")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use yue::admin::{Completion, Evaluation, Evaluator, Outcome};
use yue::lua::{Chunk, Script, Terminal, evaluator};
use yue::{Runtime, sleep, spawn};

/// One program at a time: an evaluator is about the program that was started last.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The console of a test.
struct Console(Arc<dyn Evaluator>);

impl Console {
    fn request(code: &str) -> Evaluation {
        Evaluation {
            code: code.to_owned(),
            session: "test".to_owned(),
            width: Some(80),
            ..Evaluation::default()
        }
    }

    fn run(&self, code: &str) -> Outcome {
        self.0
            .evaluate(&Console::request(code))
            .unwrap_or_else(|failure| panic!("{code}: {failure:?}"))
    }

    /// The text of code that returns.
    #[track_caller]
    fn shows(&self, code: &str) -> String {
        let outcome = self.run(code);
        assert!(outcome.ok, "{code}: {outcome:?}");
        outcome.text
    }

    /// The text of code that raises.
    #[track_caller]
    fn fails(&self, code: &str) -> String {
        let outcome = self.run(code);
        assert!(!outcome.ok, "{code}: {outcome:?}");
        outcome.text
    }

    fn completes(&self, text: &str) -> Vec<String> {
        let request = Completion {
            text: text.to_owned(),
            session: "test".to_owned(),
            loop_id: None,
        };
        let found = self.0.complete(&request).expect("the loop answers");
        let kept = &text[..found.start];
        found
            .candidates
            .iter()
            .map(|word| format!("{kept}{word}"))
            .collect()
    }

    /// Runs code that does not end by itself, and interrupts it when it has written something.
    #[track_caller]
    fn interrupted(self: &std::rc::Rc<Self>, code: &str) -> String {
        let (console, text) = (self.clone(), format!("print 'begun' {code}"));
        let running = spawn(move || console.run(&text));
        let begun = || {
            let written = self.0.output("test").expect("it is not stopped");
            written.output.starts_with("begun\n")
        };
        while !begun() {
            sleep(Duration::from_millis(1)).expect("it is not stopped");
        }
        assert!(self.0.interrupt("test"), "it runs");
        let outcome = running.join().expect("it returns");
        assert!(!outcome.ok, "{code}: {outcome:?}");
        outcome.text
    }
}

/// Runs `test` on a loop beside a program that has run `setup`.
fn with_program(setup: &str, test: impl Fn(std::rc::Rc<Console>) + Send + Sync + 'static) {
    let _turn = turn();
    let is_done = Arc::new(Mutex::new(false));
    let done = is_done.clone();
    let test = Arc::new(test);
    let terminal = Terminal::new(move || {
        let test = test.clone();
        let runtime = Runtime::builder().shutdown_on_signals(false).build();
        runtime
            .expect("a runtime")
            .run(move || test(std::rc::Rc::new(Console(evaluator()))));
        *done.lock().expect("nobody panics here") = true;
    });
    let script = Script {
        chunks: vec![Chunk::text("=setup", setup), Chunk::Interactive],
        terminal: Some(terminal),
        ..Script::new("/dev/null")
    };
    assert_eq!(script.run(), 0);
    let is_done = *is_done.lock().expect("nobody panics here");
    assert!(is_done, "the test has panicked, see above");
}

#[test]
fn expressions_and_statements_show_their_values() {
    with_program("x = 20", |console| {
        assert_eq!(console.shows("x + 1"), "21");
        assert_eq!(console.shows("= x, 2"), "20\t2");
        assert_eq!(console.shows("return 'a\\nb', nil"), r#""a\nb"	nil"#);
        assert_eq!(console.shows("y = x * 2"), "");
        assert_eq!(console.shows("_G.y"), "40", "globals are the program's");
        assert_eq!(console.shows("x"), "20");
        assert_eq!(console.shows("_ + 1"), "21", "the last result");
        assert_eq!(console.shows("rawget(_G, '_')"), "nil", "is the session's");
        let outcome = console.run("print('one') io.write('two') return 3");
        assert_eq!((&*outcome.text, &*outcome.output), ("3", "one\ntwo"));
        assert_eq!(
            console.shows("yue.sleep(0.001) return 'slept'"),
            "\"slept\""
        );
        assert_eq!(
            console.shows("coroutine.wrap(function() coroutine.yield(1) end)()"),
            "1"
        );
    });
}

#[test]
fn errors_have_a_traceback_of_the_code_alone() {
    with_program("function outer() error('bad') end", |console| {
        let text = console.fails("outer()");
        assert!(text.starts_with("RuntimeError: setup:1: bad\n"), "{text}");
        assert!(
            text.trim_end().ends_with("console:1: in main chunk"),
            "{text}"
        );
        assert_eq!(console.fails("x x"), "console:1: '=' expected near 'x'");
        assert!(
            console
                .fails("error({ code = 7 })")
                .starts_with("RuntimeError: ")
        );
        assert!(
            console
                .fails("error()")
                .contains("an error value was raised: nil")
        );
        let text = console
            .fails("error(setmetatable({}, { __tostring = function() error('worse') end }))");
        assert!(text.starts_with("RuntimeError: "), "{text}");
        let text =
            console.fails("setmetatable({}, { __tostring = function() error('no text') end })");
        assert!(text.contains("no text"), "{text}");
        let text = console.fails("local function f() return 1 + f() end f()");
        assert!(text.contains("stack overflow"), "{text}");
        assert!(console.fails("coroutine.yield()").contains("yue.yield()"));
        assert!(console.fails("\u{1b}LJ").contains("wrong mode"));
        assert!(console.fails("os.exit(3)").contains("Ctrl-D"));
        assert_eq!(console.shows("type(os.time())"), "\"number\"");
        assert_eq!(console.shows("1"), "1", "all is as before");
    });
}

#[test]
fn tables_are_bounded_and_readable() {
    with_program("", |console| {
        assert_eq!(
            console.shows("{ 1, 'a', k = { z = true } }"),
            "{ 1, \"a\", k = { z = true } }"
        );
        assert_eq!(console.shows("{}"), "{}");
        assert_eq!(
            console.shows("local t = {} t.me = t return t"),
            "{ me = <the table above> }"
        );
        assert_eq!(
            console.shows("local t = { text = ('x'):rep(60), more = ('y'):rep(20) } return t"),
            format!(
                "{{\n  more = \"{}\",\n  text = \"{}\"\n}}",
                "y".repeat(20),
                "x".repeat(60)
            )
        );
        let players =
            "{ { name = 'frodo', hp = 7, id = 1 }, { name = 'sam', id = 22, ring = false } }";
        assert_eq!(
            console.shows(players),
            "#  id  name   hp  ring\n1   1  frodo   7\n2  22  sam        false"
        );
        let text = console.shows("local t = {} for i = 1, 1e5 do t[i] = i end return t");
        assert!(text.ends_with("  200,\n  … and 99800 more\n}"), "{text}");
        let text = console.shows("local t = {} for i = 1, 1000 do t[i] = { n = i } end return t");
        assert!(text.ends_with("\n200  200\n… and 800 more"), "{text}");
        let text = console.shows("local t = {} for i = 1, 1e5 do t['k' .. i] = i end return t");
        assert!(text.ends_with("… and many more\n}"), "{text}");
        let text = console.shows("local t = {} for i = 1, 50 do t = { t } end return t");
        assert!(text.contains("{…}"), "{text}");
        let text =
            console.shows("local t = {} for i = 1, 200 do t[i] = ('x'):rep(2000) end return t");
        assert!(
            text.len() < 70_000 && text.ends_with("(cut after 64 KiB)"),
            "{}",
            text.len()
        );
        let text = console.shows("('x'):rep(1e7)");
        assert!(text.ends_with("… (10000000 bytes)"), "{}", text.len());
        let text = console.fails("error(('x'):rep(1e6))");
        assert!(
            text.len() < 70_000 && text.ends_with("(cut after 64 KiB)"),
            "{}",
            text.len()
        );
        let outcome = console.run("for i = 1, 1e5 do print(i) end");
        assert!(outcome.output.len() < 70_000, "{}", outcome.output.len());
        assert!(outcome.output.contains("bytes of output are left out"));
    });
}

#[test]
fn code_that_does_not_end_is_interrupted() {
    with_program("", |console| {
        for code in [
            "while true do end",
            "yue.sleep(3600)",
            "while true do pcall(function() while true do end end) end",
            "while true do pcall(yue.sleep, 3600) end",
            "coroutine.wrap(function() while true do end end)()",
            "return setmetatable({}, { __tostring = function() while true do end end })",
            "while true do print('x') end",
        ] {
            let text = console.interrupted(code);
            assert!(
                text.contains("interrupted") || text.contains("cancelled"),
                "{code}: {text}"
            );
            assert_eq!(console.shows("1"), "1", "after {code}");
        }
        assert!(!console.0.interrupt("test"), "nothing runs");
        // What cannot be ended is given up: its session stays busy until it ends by itself.
        let text = console.interrupted("yue.shield(yue.sleep, 3)");
        assert!(text.contains("still runs"), "{text}");
        let busy = console
            .0
            .evaluate(&Console::request("1"))
            .expect_err("it is busy");
        assert!(busy.message.contains("has not ended"), "{busy:?}");
        let other = Evaluation {
            session: "other".to_owned(),
            ..Console::request("2")
        };
        assert_eq!(console.0.evaluate(&other).expect("another may").text, "2");
    });
}

#[test]
fn an_interruption_meets_no_other_fiber() {
    let setup = "done = 0
        function work()
          local until_then = yue.now() + 0.3
          while yue.now() < until_then do end
          done = done + 1
        end";
    with_program(setup, |console| {
        // Its child holds the loop when the signal comes.
        let text = console.interrupted("yue.spawn(work) yue.sleep(3600)");
        assert!(text.contains("interrupted"), "{text}");
        assert_eq!(console.shows("done"), "1");
    });
}

#[test]
fn wrong_requests_are_refused() {
    with_program("", |console| {
        let refused = |request: Evaluation| {
            let failure = console.0.evaluate(&request).expect_err("it is refused");
            failure.message
        };
        let request = Console::request("1");
        assert!(
            refused(Evaluation {
                loop_id: Some(4711),
                ..request.clone()
            })
            .contains("there is no loop 4711")
        );
        assert!(
            refused(Evaluation {
                session: "x".repeat(100),
                ..request.clone()
            })
            .contains("name of a session")
        );
        assert!(
            refused(Evaluation {
                code: " ".repeat((1 << 20) + 1),
                ..request
            })
            .contains("the code has more than")
        );
    });
}

#[test]
fn lines_are_completed_without_running_the_program() {
    let setup = "world = { players = { { name = 'frodo' } }, play = function() end, _hidden = 1, ['not a name'] = 1 }
        Class = {} Class.__index = Class function Class.method() end
        object = setmetatable({ field = 1 }, Class)
        trap = setmetatable({}, { __index = function() ran = true end, __call = function() ran = true end })
        text = 'x'";
    with_program(setup, |console| {
        assert_eq!(console.completes("x = worl"), ["x = world"]);
        assert_eq!(
            console.completes("f(world.pl"),
            ["f(world.play", "f(world.players"]
        );
        assert_eq!(console.completes("world:pl"), ["world:play"]);
        assert_eq!(
            console.completes("world.players[1].n"),
            ["world.players[1].name"]
        );
        assert_eq!(
            console.completes("world['players'][1].n"),
            ["world['players'][1].name"]
        );
        assert_eq!(console.completes("world._"), ["world._hidden"]);
        assert_eq!(console.completes("world.no"), [""; 0]);
        assert_eq!(console.completes("object:"), ["object:method"]);
        assert_eq!(console.completes("object.f"), ["object.field"]);
        assert_eq!(console.completes("text:upp"), ["text:upper"]);
        assert_eq!(console.completes("whil"), ["while"]);
        assert_eq!(
            console.completes("local x = string.rep"),
            ["local x = string.rep"]
        );
        for text in [
            "trap.",
            "trap.x.",
            "trap:",
            "1.",
            "nowhere.x",
            "x..nowh",
            "end.x",
            "é",
            "f().x",
        ] {
            assert_eq!(console.completes(text), [""; 0], "{text}");
        }
        assert_eq!(console.shows("ran"), "nil");
    });
}

#[test]
fn procedures_of_a_peer_are_completed() {
    let setup = "local symbols = { world = { join = function() end }, wait = function() end }
        local listener = yue.listen('tcp://127.0.0.1:0', symbols)
        peer = yue.open(listener:addr())
        peer.wait()";
    with_program(setup, |console| {
        assert_eq!(console.completes("peer."), ["peer.wait", "peer.world"]);
        assert_eq!(console.completes("peer.world.j"), ["peer.world.join"]);
        assert_eq!(console.completes("peer.async_wa"), ["peer.async_wait"]);
    });
}

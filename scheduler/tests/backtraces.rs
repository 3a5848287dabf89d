//! Backtraces of suspended fibers.

use std::hint::black_box;
use std::time::Duration;
use yue_scheduler::*;

#[inline(never)]
fn inner_wait(forever: &str) -> usize {
    prepare_park();
    let _ = park("the inner wait");
    black_box(forever.len())
}

#[inline(never)]
fn outer_work() -> usize {
    inner_wait(black_box("words")) + black_box(1)
}

#[inline(never)]
fn deep(levels: usize) -> usize {
    if levels == 0 {
        prepare_park();
        let _ = park("down there");
        return 0;
    }
    black_box(deep(levels - 1)) + 1
}

fn lines_with(text: &str, part: &str) -> Vec<usize> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| line.contains(part))
        .map(|(number, _)| number)
        .collect()
}

#[test]
fn a_parked_fibers_backtrace_has_its_calls_innermost_first_with_lines() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fiber = spawn(outer_work);
        yield_now().unwrap();
        let text = this_loop::backtrace(fiber.id()).unwrap().to_string();
        let (inner, outer) = (
            lines_with(&text, "inner_wait"),
            lines_with(&text, "outer_work"),
        );
        assert_eq!((inner.len(), outer.len()), (1, 1), "{text}");
        assert!(inner[0] < outer[0], "{text}");
        let file = lines_with(&text, "tests/backtraces.rs:");
        assert!(
            file.contains(&inner[0]) && file.contains(&outer[0]),
            "{text}"
        );
        // Neither the switch nor the root of the fiber is shown, and nothing of the loop's own stack.
        for part in ["corosensei", "fiber::root", "catch_unwind", "run_fibers"] {
            assert!(!text.contains(part), "{part} in {text}");
        }
        let whole = format!("{:#}", this_loop::backtrace(fiber.id()).unwrap());
        assert!(whole.contains("fiber/park.rs"), "{whole}");
        assert!(!whole.contains("run_fibers"), "{whole}");
        fiber.cancel();
        assert_eq!(
            fiber.join().unwrap(),
            6,
            "the backtrace has changed nothing"
        );
    });
}

#[test]
fn only_a_suspended_fiber_has_a_backtrace() {
    Loop::new(Config::default()).unwrap().run(|| {
        let yields = spawn(|| {
            let mut turns = 0;
            while yield_now().is_ok() {
                turns += 1;
            }
            black_box(turns)
        });
        assert!(
            this_loop::backtrace(yields.id()).is_none(),
            "the fiber has not run"
        );
        yield_now().unwrap();
        let text = this_loop::backtrace(yields.id()).unwrap().to_string();
        assert!(text.contains("backtraces.rs:"), "{text}");
        assert!(
            this_loop::backtrace(current_id()).is_none(),
            "the fiber requests it itself"
        );
        yields.cancel();
        let id = yields.id();
        yields.join().unwrap();
        assert!(this_loop::backtrace(id).is_none(), "the fiber has ended");
    });
}

#[test]
fn a_truncated_backtrace_says_so() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fiber = Builder::new()
            .stack(StackClass::Deep)
            .spawn(|| deep(20_000))
            .unwrap();
        yield_now().unwrap();
        let calls = this_loop::backtrace(fiber.id()).unwrap();
        assert!(calls.addresses().len() > 100);
        assert!(calls.to_string().contains("and more"));
        fiber.cancel();
        assert_eq!(fiber.join().unwrap(), 20_000);
    });
}

#[test]
fn fibers_with_the_same_calls_have_equal_backtraces() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fibers: Vec<_> = (0..2).map(|_| spawn(outer_work)).collect();
        let other = spawn(|| deep(3));
        yield_now().unwrap();
        let calls = |id| this_loop::backtrace(id).unwrap();
        assert_eq!(calls(fibers[0].id()), calls(fibers[1].id()));
        assert_ne!(calls(fibers[0].id()), calls(other.id()));
        fibers.iter().for_each(JoinHandle::cancel);
        other.cancel();
    });
}

#[test]
fn another_thread_gets_the_backtrace_of_a_fiber() {
    let l = Loop::new(Config::default()).unwrap();
    let handle = l.handle();
    l.run(move || {
        let fiber = spawn(outer_work);
        yield_now().unwrap();
        let id = fiber.id();
        let thread = std::thread::spawn(move || handle.backtrace(id).unwrap());
        while !thread.is_finished() {
            sleep(Duration::from_millis(1)).unwrap();
        }
        let text = thread.join().unwrap().unwrap().to_string();
        assert!(text.contains("outer_work"), "{text}");
        fiber.cancel();
    });
}

//! The watchdog reports what holds a loop.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use yue_scheduler::inspect::{HeldLoop, stop_watching, watch_loops_with};
use yue_scheduler::*;

const THRESHOLD: Duration = Duration::from_millis(20);

/// The process has one watchdog, so the tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the watchdog open the gate when it reports a loop.
fn watch() -> (Arc<AtomicBool>, mpsc::Receiver<HeldLoop>) {
    let gate = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let opened = gate.clone();
    watch_loops_with(THRESHOLD, move |held| {
        let _ = sender.send(held.clone());
        opened.store(true, Ordering::Relaxed);
    })
    .unwrap();
    (gate, receiver)
}

#[inline(never)]
fn spin_until(gate: &AtomicBool) -> u64 {
    let mut turns = 0;
    while !gate.load(Ordering::Relaxed) {
        turns = black_box(turns + 1);
    }
    turns
}

#[inline(never)]
fn greedy_work(gate: &AtomicBool) -> u64 {
    black_box(spin_until(gate)) + 1
}

#[test]
fn a_fiber_that_holds_its_loop_is_named_with_its_calls() {
    let _turn = turn();
    let (gate, reports) = watch();
    let (id, fiber) = Loop::new(Config::default()).unwrap().run(move || {
        let hog = Builder::new()
            .name("hog")
            .spawn(move || greedy_work(&gate))
            .unwrap();
        let fiber = hog.id();
        hog.join().unwrap();
        (this_loop::id(), fiber)
    });
    stop_watching();
    let held = reports.recv().unwrap();
    assert_eq!((held.loop_id, held.fiber), (id, Some(fiber)));
    assert_eq!(held.name.as_deref(), Some("hog"));
    assert!(held.location.unwrap().file().ends_with("watchdog.rs"));
    assert!(held.duration >= THRESHOLD);
    let text = held.to_string();
    assert!(text.contains("by fiber 1.0 'hog', spawned at "), "{text}");
    let (spin, work) = (text.find("spin_until"), text.find("greedy_work"));
    assert!(spin.unwrap() < work.unwrap(), "{text}");
    assert!(!text.contains("run_fibers"), "{text}");
}

#[test]
fn a_callback_that_holds_its_loop_is_distinguished_from_a_fiber() {
    let _turn = turn();
    let (gate, reports) = watch();
    let l = Loop::new(Config::default()).unwrap();
    let handle = l.handle();
    l.run(move || {
        handle.run(move || {
            greedy_work(&gate);
        });
        sleep(Duration::from_millis(1)).unwrap();
    });
    stop_watching();
    let text = reports.recv().unwrap().to_string();
    assert!(text.contains("by a callback, outside any fiber"), "{text}");
    assert!(text.contains("greedy_work"), "{text}");
}

/// Holds a loop until the gate opens.
fn hold(gate: Arc<AtomicBool>) {
    Loop::new(Config::default())
        .unwrap()
        .run(move || greedy_work(&gate));
}

#[test]
fn the_watchdogs_closure_may_panic_and_is_called_again() {
    let _turn = turn();
    let (gates, calls) = (
        [(); 2].map(|()| Arc::new(AtomicBool::new(false))),
        Mutex::new(0),
    );
    let open = gates.clone();
    watch_loops_with(THRESHOLD, move |_| {
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        open[usize::from(*calls > 1)].store(true, Ordering::Relaxed);
        assert!(*calls > 1, "on purpose, in the watchdog's closure");
    })
    .unwrap();
    gates.into_iter().for_each(hold);
    stop_watching();
}

#[test]
fn the_watchdogs_closure_may_set_another_one() {
    let _turn = turn();
    let gates = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let open = gates.clone();
    watch_loops_with(THRESHOLD, move |_| {
        let second = open[1].clone();
        watch_loops_with(THRESHOLD, move |_| second.store(true, Ordering::Relaxed)).unwrap();
        open[0].store(true, Ordering::Relaxed);
    })
    .unwrap();
    gates.into_iter().for_each(hold);
    stop_watching();
}

#[test]
fn a_waiting_loop_is_not_reported() {
    let _turn = turn();
    let (_gate, reports) = watch();
    // Long, so that a loop is not considered held when the machine is busy with something else.
    let threshold = THRESHOLD * 15;
    let (sender, receiver) = mpsc::channel();
    watch_loops_with(threshold, move |held| {
        let _ = sender.send(held.clone());
    })
    .unwrap();
    Loop::new(Config::default()).unwrap().run(move || {
        sleep(threshold * 3).unwrap();
    });
    stop_watching();
    assert!(receiver.try_recv().is_err());
    assert!(reports.try_recv().is_err());
}

#[test]
fn each_hold_of_a_loop_is_counted_once() {
    let _turn = turn();
    let (gate, _reports) = watch();
    let held = Loop::new(Config::default()).unwrap().run(move || {
        greedy_work(&gate);
        // Held for several more thresholds, which still counts as the same hold.
        let until = Instant::system().saturating_add(THRESHOLD * 3);
        while Instant::system() < until {}
        let start = format!("yue_loop_held_total{{loop=\"{}\"}} ", this_loop::id());
        let text = inspect::metrics_text();
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
        line[start.len()..].parse::<u64>().unwrap()
    });
    stop_watching();
    assert_eq!(held, 1);
}

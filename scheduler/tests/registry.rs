//! Wakers for loops that come and go: no wake is lost, and nothing is left behind.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use yue_scheduler::*;

const WAKERS_KEPT: usize = 64;

/// Wakers of live loops and of ended loops, in no particular order.
#[derive(Default)]
struct Board {
    wakers: Mutex<Vec<RemoteWaker>>,
    over: AtomicBool,
}

impl Board {
    fn add(&self, waker: RemoteWaker) {
        self.wakers.lock().unwrap().push(waker);
    }

    /// Uses every waker, including old ones, again and again until `over` is set.
    fn keep_waking(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let wakers = self.wakers.lock().unwrap().clone();
            wakers.into_iter().for_each(RemoteWaker::wake);
            let mut kept = self.wakers.lock().unwrap();
            let old = kept.len().saturating_sub(WAKERS_KEPT);
            kept.drain(..old);
            drop(kept);
            thread::yield_now();
        }
    }
}

/// Runs fibers that each wait for two wakes from other threads; the second may coincide with the end of the loop.
fn run_one_loop(board: &Arc<Board>) {
    let board = board.clone();
    let ((), report) = Loop::new(Config::default()).unwrap().run_reported(move || {
        let fiber = |_| {
            let board = board.clone();
            spawn(move || {
                board.add(prepare_park().remote());
                park_uninterruptible("another thread");
                board.add(prepare_park().remote());
                let _ = park("another thread, or the end");
            })
        };
        let mut fibers: Vec<_> = (0..4).map(fiber).collect();
        let joined = fibers.split_off(2);
        joined.into_iter().for_each(|fiber| fiber.join().unwrap());
    });
    assert_eq!(report, StopReport::default());
}

fn lines_of(file: &str) -> usize {
    fs::read_to_string(file).unwrap().lines().count()
}

fn resident_pages() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn loops_come_and_go_while_threads_wake_them() {
    let board = Arc::new(Board::default());
    let wakers: Vec<_> = (0..2)
        .map(|_| {
            let board = board.clone();
            thread::spawn(move || board.keep_waking())
        })
        .collect();
    let lives = |count: usize| {
        let life = |_| {
            let board = board.clone();
            thread::spawn(move || (0..count).for_each(|_| run_one_loop(&board)))
        };
        let threads: Vec<_> = (0..2).map(life).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    };
    lives(100);
    let before = (lines_of("/proc/self/maps"), resident_pages());
    lives(1_000);
    let after = (lines_of("/proc/self/maps"), resident_pages());
    board.over.store(true, Ordering::Relaxed);
    wakers.into_iter().for_each(|t| t.join().unwrap());
    // A loop that left its arena, its signal stack or a page of a stack behind would show two thousand times.
    assert!(after.0 < before.0 + 200, "mappings: {before:?} {after:?}");
    assert!(after.1 < before.1 + 2_000, "pages: {before:?} {after:?}");
}

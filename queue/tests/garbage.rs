//! The garbage gauge: it counts what was retired and comes back to zero. In a process of its own, since the gauge is
//! the process's.
#![cfg(not(loom))]

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use yue_queue::{flush, garbage_bytes, mailbox, pin};

/// One test at a time: the gauge and the epoch are shared.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn garbage_waits_for_the_pin_and_is_freed_after_a_flush() {
    let _alone = alone();
    let (sender, mut receiver) = mailbox();
    let values = 128 * 100_usize;
    pin(|_| {
        sender.push_batch(0..values);
        receiver.drain(usize::MAX, |value| assert!(value < values));
        // 100 blocks were left, none of which may be freed: at least 8 bytes per value.
        let held = garbage_bytes();
        assert!(held >= 128 * 99 * size_of::<usize>(), "only {held} bytes");
        flush();
        assert_eq!(garbage_bytes(), held);
    });
    // Each flush may move the epoch on by one step. A deadline instead of a count: other threads of the harness may
    // be pinned for a moment.
    let deadline = Instant::now() + Duration::from_secs(30);
    while garbage_bytes() > 0 {
        assert!(Instant::now() < deadline, "{} bytes left", garbage_bytes());
        flush();
    }
    drop(sender);
}

#[test]
fn large_values_do_not_pile_up_as_garbage_without_a_flush() {
    const VALUE_BYTES: usize = 1024;
    let _alone = alone();
    let (sender, mut receiver) = mailbox();
    let mut most = 0;
    for _ in 0..if cfg!(miri) { 30 } else { 1000 } {
        sender.push_batch((0..128).map(|_| [0_u8; VALUE_BYTES]));
        receiver.drain(usize::MAX, drop);
        most = most.max(garbage_bytes());
    }
    // Crossbeam by itself would let more than 64 blocks of 128 KiB gather before it looks.
    assert!(most > 0);
    assert!(most < 16 * 128 * VALUE_BYTES, "{most} bytes");
}

//! The garbage gauge counts retired blocks and returns to zero. It is global to the process, so these tests have their
//! own.
#![cfg(not(loom))]

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use yue_queue::{flush, garbage_bytes, mailbox, pin};

/// Runs one test at a time, because the gauge and the epoch are shared.
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
        // The receiver left 100 blocks, none of which may be freed. Each value takes at least 8 bytes.
        let held = garbage_bytes();
        assert!(held >= 128 * 99 * size_of::<usize>(), "only {held} bytes");
        flush();
        assert_eq!(garbage_bytes(), held);
    });
    // Each flush may advance the epoch by one step. The test uses a deadline, not a count: other threads of the test
    // harness may be pinned for a moment.
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
    // Crossbeam alone would let more than 64 blocks of 128 KiB gather before it collects.
    assert!(most > 0);
    assert!(most < 16 * 128 * VALUE_BYTES, "{most} bytes");
}

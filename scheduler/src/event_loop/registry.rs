//! The registry of all loops by number. A [`RemoteWaker`](crate::RemoteWaker) of 16 plain bytes finds its loop here.
//!
//! ```text
//!   directory: 1 024 pointers ──▶ page: 1 024 pointers ──▶ Shared (inbox, sleep flag, bell) of one loop
//! ```
//!
//! Numbers are assigned in order and never reused, so a waker of a loop that has ended finds an empty entry, never
//! another loop. Pages are allocated when first needed and stay. When a loop ends, its entry is emptied and the value
//! is freed through the epoch: a thread that has just read the pointer may use it until it drops its pin.

use super::shared::{Message, Shared};
use crate::lock::lock;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

const PAGE: usize = 1024;

type Page = [AtomicPtr<Shared>; PAGE];

static DIRECTORY: [AtomicPtr<Page>; PAGE] = [const { AtomicPtr::new(ptr::null_mut()) }; PAGE];
static NEXT_ID: AtomicU32 = AtomicU32::new(1);
/// The loops that exist, with their numbers. Only callers that need all of them use it; nothing hot does. No reference
/// to a loop may be dropped under the lock: the last one drops the loop's unread messages, which runs the program's
/// code.
static LOOPS: Mutex<Vec<(u32, Weak<Shared>)>> = Mutex::new(Vec::new());

/// Returns a number for a new loop.
///
/// # Errors
/// When the process has created more than a million loops.
pub(super) fn new_id() -> io::Result<u32> {
    // Relaxed: only the number matters, and a read-modify-write returns each one once.
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    if id as usize >= PAGE * PAGE {
        NEXT_ID.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::other(
            "this process has created more than a million loops; reuse loops instead of creating new ones",
        ));
    }
    Ok(id)
}

fn page(id: u32) -> &'static Page {
    let entry = &DIRECTORY[id as usize / PAGE];
    // Acquire: pairs with the Release of the exchange below, so the page's contents are visible.
    let found = entry.load(Ordering::Acquire);
    if !found.is_null() {
        // SAFETY: pages are leaked boxes, so they are valid forever.
        return unsafe { &*found };
    }
    let made: Box<Page> = Box::new([const { AtomicPtr::new(ptr::null_mut()) }; PAGE]);
    let made = Box::into_raw(made);
    // Release: publishes the new page. Acquire on failure: sees the page that another thread published first.
    match entry.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: it was just published, and pages are never freed.
        Ok(_) => unsafe { &*made },
        Err(other) => {
            // SAFETY: our page was not published, so the box is still ours; the other page is valid forever.
            unsafe {
                drop(Box::from_raw(made));
                &*other
            }
        }
    }
}

/// Makes a loop reachable by its number.
pub(super) fn publish(shared: &Arc<Shared>) {
    let raw = Arc::into_raw(shared.clone()).cast_mut();
    // Release: pairs with the Acquire in `send`.
    page(shared.id)[shared.id as usize % PAGE].store(raw, Ordering::Release);
    let mut loops = lock(&LOOPS);
    loops.push((shared.id, Arc::downgrade(shared)));
}

/// Returns all loops that have not ended, ordered by number.
pub(crate) fn all() -> Vec<Arc<Shared>> {
    let loops = lock(&LOOPS);
    let mut all: Vec<_> = loops
        .iter()
        .filter_map(|(_, shared)| shared.upgrade())
        .collect();
    drop(loops);
    all.retain(|shared| !is_gone(shared.id));
    all.sort_by_key(|shared| shared.id);
    all
}

/// Makes a loop unreachable. The entry's reference is dropped when no thread can be reading it.
pub(super) fn withdraw(id: u32) {
    let mut loops = lock(&LOOPS);
    loops.retain(|(other, _)| *other != id);
    drop(loops);
    // AcqRel: takes the pointer from the thread that published it; pairs with the Acquire in `send`.
    let raw = page(id)[id as usize % PAGE].swap(ptr::null_mut(), Ordering::AcqRel);
    if !raw.is_null() {
        yue_queue::pin(|guard| {
            // SAFETY: the pointer came from `Arc::into_raw` and was just made unreachable; readers hold pins.
            unsafe { guard.defer_unchecked(move || drop(Arc::from_raw(raw))) };
        });
    }
}

/// Sends `message` to a loop, or drops it if the loop has ended.
pub(crate) fn send(id: u32, message: Message) {
    yue_queue::pin(|_guard| {
        // Acquire: pairs with the Release in `publish`.
        let raw = page(id)[id as usize % PAGE].load(Ordering::Acquire);
        if !raw.is_null() {
            // SAFETY: the pin keeps the entry's reference alive.
            unsafe { (*raw).send(message) };
        }
    });
}

/// Wakes a loop, if it sleeps, so that it checks its queues. Returns whether the loop exists.
pub(super) fn ring(id: u32) -> bool {
    yue_queue::pin(|_guard| {
        // Acquire: pairs with the Release in `publish`.
        let raw = page(id)[id as usize % PAGE].load(Ordering::Acquire);
        // SAFETY: the pin keeps the entry's reference alive.
        let shared = unsafe { raw.as_ref() };
        shared.inspect(|shared| shared.ring()).is_some()
    })
}

/// Returns whether the loop with that number has ended.
pub(crate) fn is_gone(id: u32) -> bool {
    // Relaxed: the pointer is not followed. A thread other than the loop's own may see the end late.
    page(id)[id as usize % PAGE]
        .load(Ordering::Relaxed)
        .is_null()
}

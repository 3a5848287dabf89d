//! Every loop of the process, by number: how a [`RemoteWaker`](crate::RemoteWaker) of 16 plain bytes finds its loop.
//!
//! ```text
//!   directory: 1 024 pointers ──▶ page: 1 024 pointers ──▶ Shared (inbox, sleep flag, bell) of one loop
//! ```
//!
//! Numbers are given out in order and never again, so that a waker of a loop that is gone finds an empty entry, never
//! another loop. Pages are made when first needed and stay. An entry's value is taken out when the loop ends and
//! freed by epochs: a thread that just read the pointer may go on using it until it leaves its pin.

use super::inbox::{Message, Shared};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

const PAGE: usize = 1024;

type Page = [AtomicPtr<Shared>; PAGE];

static DIRECTORY: [AtomicPtr<Page>; PAGE] = [const { AtomicPtr::new(ptr::null_mut()) }; PAGE];
static NEXT_ID: AtomicU32 = AtomicU32::new(1);
/// The loops that there are with their numbers, for who asks for all of them; nothing hot does. Under the lock no count
/// of a loop is given back: with the last one go the messages that it has not taken, which are code of the program's.
static LOOPS: Mutex<Vec<(u32, Weak<Shared>)>> = Mutex::new(Vec::new());

/// A number for a new loop.
///
/// # Errors
/// When a process has made more than a million loops.
pub(super) fn new_id() -> io::Result<u32> {
    // Relaxed: only the number itself matters, and a read-modify-write gives each one once.
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    if id as usize >= PAGE * PAGE {
        NEXT_ID.fetch_sub(1, Ordering::Relaxed);
        return Err(io::Error::other(
            "this process has made more than a million loops; reuse them",
        ));
    }
    Ok(id)
}

fn page(id: u32) -> &'static Page {
    let place = &DIRECTORY[id as usize / PAGE];
    // Acquire: pairs with the Release of the exchange below; the page's contents are seen.
    let found = place.load(Ordering::Acquire);
    if !found.is_null() {
        // SAFETY: pages are leaked boxes, so they are valid for ever.
        return unsafe { &*found };
    }
    let made: Box<Page> = Box::new([const { AtomicPtr::new(ptr::null_mut()) }; PAGE]);
    let made = Box::into_raw(made);
    // Release: publishes the new page; Acquire on failure: sees the page of who was faster.
    match place.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: just published, never freed.
        Ok(_) => unsafe { &*made },
        Err(other) => {
            // SAFETY: our page was not published, so the box is still ours; the other is valid for ever.
            unsafe {
                drop(Box::from_raw(made));
                &*other
            }
        }
    }
}

/// Makes a loop reachable.
pub(super) fn publish(shared: &Arc<Shared>) {
    let raw = Arc::into_raw(shared.clone()).cast_mut();
    // Release: pairs with the Acquire in `send`.
    page(shared.id)[shared.id as usize % PAGE].store(raw, Ordering::Release);
    let mut loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
    loops.push((shared.id, Arc::downgrade(shared)));
}

/// All loops that have not ended, in the order of their numbers.
pub(crate) fn all() -> Vec<Arc<Shared>> {
    let loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all: Vec<_> = loops
        .iter()
        .filter_map(|(_, shared)| shared.upgrade())
        .collect();
    drop(loops);
    all.retain(|shared| !is_gone(shared.id));
    all.sort_by_key(|shared| shared.id);
    all
}

/// Makes a loop unreachable; the entry's count is given back when no thread can be reading it.
pub(super) fn withdraw(id: u32) {
    let mut loops = LOOPS.lock().unwrap_or_else(PoisonError::into_inner);
    loops.retain(|(other, _)| *other != id);
    drop(loops);
    // AcqRel: takes the pointer from whoever published it; pairs with the Acquire in `send`.
    let raw = page(id)[id as usize % PAGE].swap(ptr::null_mut(), Ordering::AcqRel);
    if !raw.is_null() {
        yue_queue::pin(|guard| {
            // SAFETY: the pointer came from `Arc::into_raw` and has just been made unreachable; readers hold pins.
            unsafe { guard.defer_unchecked(move || drop(Arc::from_raw(raw))) };
        });
    }
}

/// Sends `message` to a loop; drops it if the loop is gone.
pub(crate) fn send(id: u32, message: Message) {
    yue_queue::pin(|_guard| {
        // Acquire: pairs with the Release in `publish`.
        let raw = page(id)[id as usize % PAGE].load(Ordering::Acquire);
        if !raw.is_null() {
            // SAFETY: the pin keeps the entry's count from being given back.
            unsafe { (*raw).send(message) };
        }
    });
}

/// Has a loop look at its queues, if it sleeps. Returns whether the loop is there.
pub(super) fn ring(id: u32) -> bool {
    yue_queue::pin(|_guard| {
        // Acquire: pairs with the Release in `publish`.
        let raw = page(id)[id as usize % PAGE].load(Ordering::Acquire);
        // SAFETY: the pin keeps the entry's count from being given back.
        let shared = unsafe { raw.as_ref() };
        shared.inspect(|shared| shared.ring()).is_some()
    })
}

/// Whether the loop that had that number has ended.
pub(crate) fn is_gone(id: u32) -> bool {
    // Relaxed: the pointer is not followed; another thread than the loop's own may be told of the end late.
    page(id)[id as usize % PAGE]
        .load(Ordering::Relaxed)
        .is_null()
}

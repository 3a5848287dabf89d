//! The header of a fiber: everything that listings, wakers and timers need, outside the fiber's stack.
//!
//! Headers lie in a slab of chunks that never move, so run queues, timers and the switch may point to them. When a
//! fiber ends, its header is reused for another fiber. The generation then differs, so a holder of the old identity can
//! tell.
//!
//! Invariants:
//! - Only the loop's thread touches a header. All fields are cells, and no reference into one lives across a switch.
//! - A header is in the run queue if and only if its state is [`State::Ready`].
//! - `timer` is armed only while the fiber is parked.
//! - [`LIMITED`] is set exactly while the fiber has a deadline or is in a scope.
//!
//! A header takes three cache lines. A yield touches only the second (this is why [`LIMITED`] exists); a wait needs all
//! three. With many fibers, each line touched is one more miss in the nearer caches.

use super::frames::{DeadlineFrame, ScopeFrame};
use super::id::FiberId;
use super::switch::Switch;
use super::switch_hook::HookFrame;
use crate::prefetch::prefetch;
use crate::stack::{CACHE_LINE, StackBounds};
use crate::time::wheel::{Node, Owner};
use crate::time::{Instant, TickTime};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::mem;
use std::ops::Range;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::slice;

/// The state of a fiber's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// The header belongs to no fiber.
    Free,
    /// In the run queue.
    Ready,
    /// On the processor.
    Running,
    /// Waiting for its waker, its timer, or a cancellation.
    Parked,
    /// Abandoned at shutdown; its stack is leaked.
    Abandoned,
}

/// The waker of the current wait was used.
pub(crate) const WOKEN: u8 = 1;
/// The fiber was cancelled. Sticky.
pub(crate) const CANCELLED: u8 = 2;
/// A cancellation or a deadline may end the current wait.
pub(crate) const INTERRUPTIBLE: u8 = 4;
/// A deadline or a cancel scope applies to the fiber. The first cache line holds which.
const LIMITED: u8 = 8;
/// The fiber runs before others, up to a budget. This flag and the next are the highest bits, so that the run queue
/// tells with one comparison that a fiber has neither.
pub(crate) const HIGH: u8 = 64;
/// The fiber runs after others, except for a small budget.
pub(crate) const LOW: u8 = 128;

/// Cache lines of stack between the switch of a fiber with a hook and the interpreted code that resumes.
const HOOKED_LINES: usize = 6;

/// The same for a fiber without a hook that was woken: the frames of the wait, up to the code that called it. With
/// this, 1 000 fibers that echo over sockets handle 7 % more messages a second; with one line it was 2 %, with six 5 %.
const WOKEN_LINES: usize = 10;

/// The same for a fiber that only yielded.
const YIELDED_LINES: usize = 1;

/// The header of one fiber. The gaps between the fields mark the boundaries of cache lines.
#[repr(C, align(64))]
pub(crate) struct Header {
    /// The first field, so that a pointer to it is also a pointer to the header.
    pub(crate) timer: Node,
    /// The bounds of the stack of the fiber that used the header last.
    pub(crate) bounds: Cell<StackBounds>,
    /// Counts the waits of all fibers that used this header. A waker carries the value of the wait that it ends.
    pub(crate) sequence: Cell<u64>,
    /// The earliest deadline in force.
    deadline: Cell<Instant>,
    scopes: Cell<*const ScopeFrame>,

    pub(crate) state: Cell<State>,
    pub(crate) flags: Cell<u8>,
    pub(crate) suspension_bans: Cell<u16>,
    /// Counts the switches to the fiber; wraps after 2^32 of them.
    pub(crate) switches: Cell<u32>,
    /// The next fiber in the run queue, or the next free header.
    pub(crate) next: Cell<*const Header>,
    pub(crate) switch: Switch,
    pub(crate) hook: Cell<*const HookFrame>,

    pub(crate) index: Cell<u32>,
    pub(crate) generation: Cell<u32>,
    /// The frame that set the earliest deadline.
    pub(crate) earliest: Cell<*const DeadlineFrame>,
    pub(crate) context: ContextSlot,
    /// The reason of the current or last wait.
    pub(crate) reason: Cell<PackedStr>,
    /// The time at which the fiber began to wait or, if it does not wait, became runnable.
    pub(crate) since: Cell<TickTime>,
    pub(crate) extra: Cell<Option<Box<Extra>>>,
    pub(crate) location: Cell<&'static Location<'static>>,
}

/// A fiber's values of fiber-locals, indexed by the numbers of their keys.
pub(super) type Locals = Vec<Option<Box<dyn Any>>>;

/// Rarely used data of a fiber.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) name: Option<Box<str>>,
    /// The fiber's values of fiber-locals.
    pub(crate) locals: Locals,
    /// Called if the fiber is abandoned at shutdown, to notify a thread that waits for it.
    pub(crate) on_abandon: Option<Box<dyn FnOnce()>>,
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A `&'static str` in one word: the address in the lower 48 bits, which hold the address of every constant of a
/// program, and the length above. A text of more than 65 535 bytes is truncated.
#[derive(Clone, Copy)]
pub(crate) struct PackedStr(u64);

const ADDRESS_BITS: u32 = 48;

impl PackedStr {
    #[inline]
    pub(crate) fn new(text: &'static str) -> Self {
        debug_assert!(
            text.as_ptr().addr() >> ADDRESS_BITS == 0,
            "a constant of the program has an address of more than 48 bits"
        );
        let bytes = text.len().min(usize::from(u16::MAX)) as u64;
        PackedStr(bytes << ADDRESS_BITS | text.as_ptr().expose_provenance() as u64)
    }

    pub(crate) fn text(self) -> &'static str {
        let address = (self.0 & ((1 << ADDRESS_BITS) - 1)) as usize;
        let bytes = (self.0 >> ADDRESS_BITS) as usize;
        // SAFETY: address and length belong to a `&'static str`; the length may have been truncated.
        let bytes = unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), bytes) };
        let whole = std::str::from_utf8(bytes).map_err(|error| error.valid_up_to());
        // SAFETY: the text is valid up to the character that the truncation cut.
        whole.unwrap_or_else(|valid| unsafe { std::str::from_utf8_unchecked(&bytes[..valid]) })
    }
}

/// A cell for a fiber's context, from which the value is cloned.
pub(crate) struct ContextSlot(Cell<Option<Rc<dyn Any>>>);

impl ContextSlot {
    pub(crate) fn get(&self) -> Option<Rc<dyn Any>> {
        // The value is out of the cell only during the clone, which runs no foreign code.
        let value = self.0.take();
        let copy = value.clone();
        self.0.set(value);
        copy
    }

    pub(crate) fn replace(&self, value: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
        self.0.replace(value)
    }
}

const _: () = assert!(
    cfg!(feature = "asan")
        || mem::size_of::<Header>() == 3 * CACHE_LINE
            && mem::offset_of!(Header, state) == CACHE_LINE
            && mem::offset_of!(Header, index) == 2 * CACHE_LINE,
    "the header's fields do not start at cache line boundaries"
);

impl Header {
    #[track_caller]
    fn new(index: u32) -> Self {
        Header {
            timer: Node::new(Owner::Fiber),
            index: Cell::new(index),
            generation: Cell::new(0),
            sequence: Cell::new(0),
            state: Cell::new(State::Free),
            flags: Cell::new(0),
            suspension_bans: Cell::new(0),
            switches: Cell::new(0),
            next: Cell::new(ptr::null()),
            switch: Switch::empty(),
            bounds: Cell::new(StackBounds::NONE),
            deadline: Cell::new(Instant::NEVER),
            earliest: Cell::new(ptr::null()),
            scopes: Cell::new(ptr::null()),
            hook: Cell::new(ptr::null()),
            context: ContextSlot(Cell::new(None)),
            reason: Cell::new(PackedStr::new("")),
            since: Cell::new(TickTime::ORIGIN),
            extra: Cell::new(None),
            location: Cell::new(Location::caller()),
        }
    }

    /// Returns whether many frames lie between the switch and the code that resumes: those of another language, or
    /// those of the call that waited.
    #[inline]
    pub(crate) fn resumes_deep_frames(&self) -> bool {
        !self.hook.get().is_null() || self.has(WOKEN)
    }

    /// Prefetches the memory that the fiber needs to resume, and the header of the fiber behind it in the queue. The
    /// loop calls it a few turns ahead, so that the turns of other fibers hide the memory latency: a yield among 1 000
    /// fibers that run an interpreter then takes 60 ns instead of 130.
    ///
    /// # Safety
    /// Called by the loop, outside any fiber, for a fiber in the run queue.
    #[inline]
    pub(crate) unsafe fn prefetch_run(&self) {
        let hook = self.hook.get();
        let lines = if !hook.is_null() {
            prefetch(hook);
            // Another language's frames lie between the switch and the code that resumes.
            HOOKED_LINES
        } else if self.has(WOKEN) {
            WOKEN_LINES
        } else {
            YIELDED_LINES
        };
        // SAFETY: a fiber in the run queue is prepared and has not ended.
        unsafe { self.switch.prefetch(lines) };
        let behind = self.next.get();
        prefetch(behind.cast::<u8>().wrapping_add(CACHE_LINE));
    }

    /// Returns the fiber's id. A header does not know its loop: its cache lines have no room for the number.
    pub(crate) fn id(&self, loop_id: u32) -> FiberId {
        FiberId {
            loop_id,
            index: self.index.get(),
            generation: self.generation.get(),
        }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    pub(crate) fn set(&self, flag: u8) {
        self.flags.set(self.flags.get() | flag);
    }

    pub(crate) fn clear(&self, flag: u8) {
        self.flags.set(self.flags.get() & !flag);
    }

    /// Counts a switch to the fiber.
    #[inline]
    pub(crate) fn count_switch(&self) {
        self.switches.set(self.switches.get().wrapping_add(1));
    }

    /// Returns the earliest deadline in force.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    pub(crate) fn set_deadline(&self, at: Instant) {
        self.deadline.set(at);
        self.update_limited_flag();
    }

    /// Returns the innermost cancel scope that the fiber is in.
    pub(crate) fn scopes(&self) -> *const ScopeFrame {
        self.scopes.get()
    }

    pub(crate) fn set_scopes(&self, innermost: *const ScopeFrame) {
        self.scopes.set(innermost);
        self.update_limited_flag();
    }

    fn update_limited_flag(&self) {
        // Kept beside the state, so that a yield need not touch the line that holds the deadline and the scopes.
        if self.deadline.get() == Instant::NEVER && self.scopes.get().is_null() {
            self.clear(LIMITED);
        } else {
            self.set(LIMITED);
        }
    }

    /// Returns whether anything may stop the fiber: a cancellation, a deadline or a scope.
    #[inline]
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.has(CANCELLED | LIMITED)
    }

    /// Returns the number of open shields, which is stored in the timer's spare bytes.
    pub(crate) fn shields(&self) -> &Cell<u32> {
        &self.timer.spare
    }

    /// Passes the fiber's name to `f`; `None` if it has no name.
    pub(crate) fn with_name<R>(&self, f: impl FnOnce(Option<&str>) -> R) -> R {
        let extra = self.extra.take();
        let result = f(extra.as_ref().and_then(|extra| extra.name.as_deref()));
        self.extra.set(extra);
        result
    }
}

/// Headers in one chunk of the slab.
pub(crate) const CHUNK: usize = 256;

/// The headers of one loop.
pub(crate) struct Slab {
    /// The number of the loop, which is part of its fibers' ids.
    loop_id: u32,
    /// Leaked boxes, freed with the slab. They are not kept as boxes, because moving a box asserts unique access to its
    /// contents, and many other pointers lead there.
    chunks: RefCell<Vec<NonNull<[Header]>>>,
    free: Cell<*const Header>,
    live: Cell<usize>,
}

impl Slab {
    pub(crate) fn new(loop_id: u32) -> Self {
        Slab {
            loop_id,
            chunks: RefCell::new(Vec::new()),
            free: Cell::new(ptr::null()),
            live: Cell::new(0),
        }
    }

    /// Returns the number of fibers that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    /// Returns a header for a new fiber. Its generation is already set.
    #[inline]
    pub(crate) fn take(&self) -> *const Header {
        if self.free.get().is_null() {
            self.grow();
        }
        let header = self.free.get();
        self.live.set(self.live.get() + 1);
        // SAFETY: the free list holds headers of our chunks, which live and do not move as long as the slab.
        unsafe {
            debug_assert!(
                (*header).state.get() == State::Free,
                "a header in use is in the free list"
            );
            debug_assert!(
                !(*header).timer.is_armed(),
                "a free header has an armed timer"
            );
            self.free.set((*header).next.get());
        }
        header
    }

    #[cold]
    fn grow(&self) {
        let mut chunks = self.chunks.borrow_mut();
        let first = chunks.len() * CHUNK;
        let chunk: Box<[Header]> = (first..first + CHUNK)
            .map(|index| Header::new(index as u32))
            .collect();
        let chunk = NonNull::from(Box::leak(chunk));
        // SAFETY: just allocated, and freed with the slab.
        for header in unsafe { chunk.as_ref() }.iter().rev() {
            header.next.set(self.free.get());
            self.free.set(header);
        }
        chunks.push(chunk);
    }

    /// Frees the header of a fiber that has ended.
    #[inline]
    pub(crate) fn give_back(&self, header: &Header) {
        debug_assert!(
            matches!(header.state.get(), State::Running | State::Ready),
            "a fiber ends while it runs, or before it ran"
        );
        debug_assert!(!header.timer.is_armed(), "an ended fiber has a timer");
        debug_assert!(
            header.hook.get().is_null() && header.scopes().is_null(),
            "an ended fiber has frames left in its header"
        );
        debug_assert!(
            header.suspension_bans.get() == 0,
            "an ended fiber has left a no_suspend open"
        );
        header.state.set(State::Free);
        // Makes the waker of the last wait void.
        header.sequence.set(header.sequence.get() + 1);
        self.live.set(self.live.get() - 1);
        // A header whose generations are used up (four thousand million fibers) is never reused, because an id must
        // name one fiber.
        if let Some(generation) = header.generation.get().checked_add(1) {
            header.generation.set(generation);
            header.next.set(self.free.get());
            self.free.set(header);
        }
    }

    /// Returns the header of a living fiber.
    pub(crate) fn find(&self, fiber: FiberId) -> Option<&Header> {
        let header = self.at(fiber.index)?;
        let alive =
            header.generation.get() == fiber.generation && header.state.get() != State::Free;
        (alive && fiber.loop_id == self.loop_id).then_some(header)
    }

    /// Returns the header with that number, whichever fiber uses it.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&Header> {
        let chunk = *self.chunks.borrow().get(index as usize / CHUNK)?;
        // SAFETY: chunks are never freed or moved while the slab lives.
        unsafe { chunk.as_ref() }.get(index as usize % CHUNK)
    }

    /// Calls `visit` for each living fiber, oldest slot first.
    pub(crate) fn for_each(&self, visit: impl FnMut(&Header)) {
        self.for_each_in(0..self.chunk_count(), visit);
    }

    /// Returns the number of chunks.
    pub(crate) fn chunk_count(&self) -> usize {
        self.chunks.borrow().len()
    }

    /// Calls `visit` for each living fiber in some chunks.
    pub(crate) fn for_each_in(&self, chunks: Range<usize>, mut visit: impl FnMut(&Header)) {
        let count = self.chunk_count();
        for chunk in chunks.start.min(count)..chunks.end.min(count) {
            let chunk = self.chunks.borrow()[chunk];
            // SAFETY: as in `at`. The borrow of the vector has ended, so `visit` may grow the slab.
            unsafe { chunk.as_ref() }
                .iter()
                .filter(|header| header.state.get() != State::Free)
                .for_each(&mut visit);
        }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        for chunk in self.chunks.take() {
            // SAFETY: made by `Box::leak`; the loop has ended, and nobody reaches its headers any more.
            let chunk = unsafe { Box::from_raw(chunk.as_ptr()) };
            for header in &chunk {
                if header.state.get() == State::Abandoned {
                    // Leaked, like the fiber's stack: its fiber-locals may be lent to the kernel, to a thread of the
                    // blocking pool, or to a scoped thread.
                    mem::forget(header.extra.take());
                }
            }
        }
    }
}

//! The header of a fiber: all that listing, waking and timers need, off the fiber's stack.
//!
//! Headers lie in a slab of chunks that never move, so that run queues, timers and the switch may point to them. A
//! header is reused for another fiber when its fiber is over; its generation then differs, and everything that held
//! the old identity finds that out.
//!
//! Invariants:
//! - Only the loop's thread touches a header; all fields are cells and no reference into one lives across a switch.
//! - A header is in the run queue if and only if its state is [`State::Ready`].
//! - `timer` is armed only while the fiber is parked.
//! - [`LIMITED`] is set exactly while the fiber has a deadline or is in a scope.
//!
//! A header is three cache lines. A yield touches the second and no other (that is what [`LIMITED`] is for), a wait
//! needs all of them. Among many fibers each line is one more that comes from far away.

use super::FiberId;
use super::cancel::{DeadlineFrame, ScopeFrame};
use super::hook::HookFrame;
use super::switch::Switch;
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

/// Where a fiber is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// The header belongs to no fiber.
    Free,
    /// In the run queue.
    Ready,
    /// On the processor.
    Running,
    /// Waiting for its waker, its timer, or a cancel.
    Parked,
    /// Given up at shutdown; its stack is leaked.
    Abandoned,
}

/// The current wait has been ended by its waker.
pub(crate) const WOKEN: u8 = 1;
/// The fiber has been cancelled; sticky.
pub(crate) const CANCELLED: u8 = 2;
/// The current wait may be ended by a cancel or a deadline.
pub(crate) const INTERRUPTIBLE: u8 = 4;
/// A deadline or a cancel scope holds for the fiber: the first cache line says which.
const LIMITED: u8 = 8;
/// The fiber goes before the others, up to a budget. This flag and the next are the highest of all, so that the run
/// queue tells by one comparison that a fiber has neither.
pub(crate) const HIGH: u8 = 64;
/// The fiber goes after the others, but for a small share.
pub(crate) const LOW: u8 = 128;

/// Cache lines of stack between the switch of a Lua fiber and the Lua code that goes on.
const HOOKED_LINES: usize = 6;

/// The same for a native fiber that was woken: the frames of what it waited in, down to the code that called. A
/// thousand that echo over sockets so do 7 % more messages a second; with one line and six lines it was 2 and 5 %.
const WOKEN_LINES: usize = 10;

/// The same for a fiber that has only yielded.
const YIELDED_LINES: usize = 1;

/// One fiber. The gaps between the fields are the borders of cache lines.
#[repr(C, align(64))]
pub(crate) struct Header {
    /// The first field, so that a pointer to it is one to the header.
    pub(crate) timer: Node,
    /// The stack of the fiber that the header had last.
    pub(crate) bounds: Cell<StackBounds>,
    /// Counts the waits of all fibers that had this header; a waker carries the value of the one that it ends.
    pub(crate) sequence: Cell<u64>,
    /// The earliest of the deadlines in force.
    deadline: Cell<Instant>,
    scopes: Cell<*const ScopeFrame>,

    pub(crate) state: Cell<State>,
    pub(crate) flags: Cell<u8>,
    pub(crate) suspension_bans: Cell<u16>,
    /// Counts the switches to the fiber; after 2^32 of them from 0 again.
    pub(crate) switches: Cell<u32>,
    /// The next fiber of the run queue, or the next free header.
    pub(crate) next: Cell<*const Header>,
    pub(crate) switch: Switch,
    pub(crate) hook: Cell<*const HookFrame>,

    pub(crate) index: Cell<u32>,
    pub(crate) generation: Cell<u32>,
    /// Whose deadline that is.
    pub(crate) earliest: Cell<*const DeadlineFrame>,
    pub(crate) context: ContextSlot,
    /// What it waits, or waited last, for.
    pub(crate) reason: Cell<Words>,
    /// Since when it waits or, if it does not, since when it could run.
    pub(crate) since: Cell<TickTime>,
    pub(crate) extra: Cell<Option<Box<Extra>>>,
    pub(crate) location: Cell<&'static Location<'static>>,
}

/// What most fibers do not have.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) name: Option<Box<str>>,
    /// The fiber's own values of fiber-locals.
    pub(crate) locals: crate::sync::Locals,
    /// Called if the fiber is given up at shutdown: tells another thread that waits for it.
    pub(crate) on_abandon: Option<Box<dyn FnOnce()>>,
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extra")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A `&'static str` in one word: the address in the lower 48 bits, where all of a program's constants lie, and the
/// length above. A text of more than 65 535 bytes is cut.
#[derive(Clone, Copy)]
pub(crate) struct Words(u64);

const ADDRESS_BITS: u32 = 48;

impl Words {
    #[inline]
    pub(crate) fn new(text: &'static str) -> Self {
        let bytes = text.len().min(usize::from(u16::MAX)) as u64;
        Words(bytes << ADDRESS_BITS | text.as_ptr().expose_provenance() as u64)
    }

    pub(crate) fn text(self) -> &'static str {
        let address = (self.0 & ((1 << ADDRESS_BITS) - 1)) as usize;
        let bytes = (self.0 >> ADDRESS_BITS) as usize;
        // SAFETY: address and length are those of a `&'static str`, or the length is that of a part of it.
        let bytes = unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), bytes) };
        let whole = std::str::from_utf8(bytes).map_err(|error| error.valid_up_to());
        // SAFETY: the text is valid up to there, where a character was cut through.
        whole.unwrap_or_else(|valid| unsafe { std::str::from_utf8_unchecked(&bytes[..valid]) })
    }
}

/// A cell whose value is cloned out.
pub(crate) struct ContextSlot(Cell<Option<Rc<dyn Any>>>);

impl ContextSlot {
    pub(crate) fn get(&self) -> Option<Rc<dyn Any>> {
        // The value is out of the cell only for the clone, which runs no foreign code.
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
    "the header's fields are not where its cache lines begin"
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
            reason: Cell::new(Words::new("")),
            since: Cell::new(TickTime::ORIGIN),
            extra: Cell::new(None),
            location: Cell::new(Location::caller()),
        }
    }

    /// Whether many frames are between the switch and the code that goes on: another language's, or those of what it
    /// waited in.
    #[inline]
    pub(crate) fn resumes_deep_frames(&self) -> bool {
        !self.hook.get().is_null() || self.has(WOKEN)
    }

    /// Fetches what the fiber needs when it goes on, and the header of the one behind it in the queue. Called some
    /// turns ahead, so that the other fibers' turns hide the way to memory: a yield among a thousand Lua fibers then
    /// costs 60 ns and not 130.
    ///
    /// # Safety
    /// Called by the loop, outside any fiber, for one that is in the run queue.
    #[inline]
    pub(crate) unsafe fn prefetch_run(&self) {
        let hook = self.hook.get();
        let lines = if !hook.is_null() {
            prefetch(hook);
            // Another language's frames are between the switch and the code that goes on.
            HOOKED_LINES
        } else if self.has(WOKEN) {
            WOKEN_LINES
        } else {
            YIELDED_LINES
        };
        // SAFETY: a fiber in the run queue is prepared and not over.
        unsafe { self.switch.prefetch(lines) };
        let behind = self.next.get();
        prefetch(behind.cast::<u8>().wrapping_add(CACHE_LINE));
    }

    /// The id of the fiber. A header does not know its loop: there is no room for the number in its cache lines.
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

    /// The earliest of the deadlines in force.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    pub(crate) fn set_deadline(&self, at: Instant) {
        self.deadline.set(at);
        self.note_limits();
    }

    /// The innermost cancel scope that the fiber is in.
    pub(crate) fn scopes(&self) -> *const ScopeFrame {
        self.scopes.get()
    }

    pub(crate) fn set_scopes(&self, innermost: *const ScopeFrame) {
        self.scopes.set(innermost);
        self.note_limits();
    }

    fn note_limits(&self) {
        if self.deadline.get() == Instant::NEVER && self.scopes.get().is_null() {
            self.clear(LIMITED);
        } else {
            self.set(LIMITED);
        }
    }

    /// Whether anything may stop the fiber: a cancel, a deadline or a scope.
    #[inline]
    pub(crate) fn may_be_stopped(&self) -> bool {
        self.has(CANCELLED | LIMITED)
    }

    /// How many shields are up. In the timer's spare bytes.
    pub(crate) fn shields(&self) -> &Cell<u32> {
        &self.timer.spare
    }

    /// Hands the fiber's name to `f`; `None` for one without.
    pub(crate) fn with_name<R>(&self, f: impl FnOnce(Option<&str>) -> R) -> R {
        let extra = self.extra.take();
        let result = f(extra.as_ref().and_then(|extra| extra.name.as_deref()));
        self.extra.set(extra);
        result
    }
}

/// Headers in a page of the slab.
const CHUNK: usize = 256;

/// The headers of one loop.
pub(crate) struct Slab {
    /// The number of that loop, which is part of its fibers' ids.
    loop_id: u32,
    /// Leaked boxes, freed with the slab. Not boxes: a box that is moved claims its contents for itself,
    /// and they are pointed to from all over.
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

    /// Fibers that are not over.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    /// A header for a new fiber, its generation already its own.
    #[inline]
    pub(crate) fn take(&self) -> *const Header {
        if self.free.get().is_null() {
            self.grow();
        }
        let header = self.free.get();
        self.live.set(self.live.get() + 1);
        // SAFETY: the free list holds headers of our chunks, which live and stay in place as long as the slab.
        unsafe { self.free.set((*header).next.get()) };
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
        // SAFETY: just made, and freed with the slab.
        for header in unsafe { chunk.as_ref() }.iter().rev() {
            header.next.set(self.free.get());
            self.free.set(header);
        }
        chunks.push(chunk);
    }

    /// Gives a header back whose fiber is over.
    #[inline]
    pub(crate) fn give_back(&self, header: &Header) {
        header.state.set(State::Free);
        // The waker of its last wait is void.
        header.sequence.set(header.sequence.get() + 1);
        self.live.set(self.live.get() - 1);
        // A header whose generations are used up (four thousand million fibers) is left: an id names one fiber.
        if let Some(generation) = header.generation.get().checked_add(1) {
            header.generation.set(generation);
            header.next.set(self.free.get());
            self.free.set(header);
        }
    }

    /// The header of a living fiber.
    pub(crate) fn find(&self, fiber: FiberId) -> Option<&Header> {
        let header = self.at(fiber.index)?;
        let alive =
            header.generation.get() == fiber.generation && header.state.get() != State::Free;
        (alive && fiber.loop_id == self.loop_id).then_some(header)
    }

    /// The header of that number, whoever has it.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&Header> {
        let chunk = *self.chunks.borrow().get(index as usize / CHUNK)?;
        // SAFETY: chunks are never freed or moved while the slab lives.
        unsafe { chunk.as_ref() }.get(index as usize % CHUNK)
    }

    /// Calls `visit` for each living fiber, oldest slot first.
    pub(crate) fn each(&self, visit: impl FnMut(&Header)) {
        self.each_in(0..self.pages(), visit);
    }

    /// How many pages of headers there are.
    pub(crate) fn pages(&self) -> usize {
        self.chunks.borrow().len()
    }

    /// Calls `visit` for each living fiber of some pages.
    pub(crate) fn each_in(&self, pages: Range<usize>, mut visit: impl FnMut(&Header)) {
        let count = self.pages();
        for chunk in pages.start.min(count)..pages.end.min(count) {
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
            // SAFETY: made by `Box::leak`; the loop is over, and nobody reaches its headers any more.
            let chunk = unsafe { Box::from_raw(chunk.as_ptr()) };
            for header in &chunk {
                if header.state.get() == State::Abandoned {
                    // Leaked, as the fiber's stack is: its fiber-locals may be lent to the kernel, to a thread of the
                    // blocking pool, or to a scoped thread.
                    mem::forget(header.extra.take());
                }
            }
        }
    }
}

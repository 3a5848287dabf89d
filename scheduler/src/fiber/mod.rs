//! Fibers: spawning, joining, parking, cancelling.

mod block_on;
mod cancel;
mod guarded;
mod header;
mod hook;
mod join;
mod join_set;
mod locals;
mod log_hook;
mod park;
mod priority;
mod root;
mod scope;
#[cfg(feature = "tracing")]
pub(crate) mod spans;
mod switch;

pub use block_on::block_on;
pub use cancel::{
    CancelScope, Elapsed, Stopped, cancel, is_cancelled, shield, timeout, unrefused, with_deadline,
};
pub(crate) use cancel::{cancel_header, cancel_on};
pub(crate) use guarded::guarded;
pub(crate) use header::{CANCELLED, Extra, HIGH, Header, Slab, State};
pub(crate) use hook::{OnDrop, descriptions, origin, record};
pub use hook::{SwitchHook, may_suspend, no_suspend, with_switch_hook};
pub(crate) use join::record_panic;
pub use join::{JoinError, JoinHandle};
pub use join_set::JoinSet;
pub use locals::{FiberLocal, NotInFiber};
pub use log_hook::set_log_hook;
pub use park::{
    LocalWaker, RemoteWaker, Wakeup, park, park_uninterruptible, park_unrefused, park_until,
    prepare_park, refuse_call, yield_if_allowed, yield_now,
};
pub(crate) use park::{begin_wait_number, check_stopped, wake_from_here, wake_in};
pub use priority::{Priority, set_priority};
pub use scope::{Scope, ScopedJoinHandle, TryJoinHandle, TryScope, scope, try_scope};
pub(crate) use switch::FRAMES as SWITCH_FRAMES;

use crate::event_loop::{current_fiber, try_with_loop, with_loop};
use crate::stack::StackClass;
use crate::time::Instant;
use join::{Completion, JoinCell};
use root::Root;
use std::any::Any;
use std::fmt;
use std::io;
use std::panic::Location;
use std::rc::Rc;

/// The id of one fiber of one loop of this process. No other fiber, of this loop or another, ever gets the same id.
///
/// It is displayed without its loop, as `index.generation`; lists and reports name the loop beside it.
///
/// ```
/// use yue_scheduler::{Config, FiberId, Loop, current_id, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| current_id());
///     let id = fiber.id();
///     assert_eq!(FiberId::from_bits(id.to_bits()), id);
///     assert_eq!(fiber.join().unwrap(), id);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiberId {
    pub(crate) loop_id: u32,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl FiberId {
    /// Returns the number of the fiber's loop; see [`this_loop::id`](crate::this_loop::id).
    ///
    /// ```
    /// use yue_scheduler::{Config, Loop, current_id, this_loop};
    ///
    /// Loop::new(Config::default()).unwrap().run(|| assert_eq!(current_id().loop_id(), this_loop::id()));
    /// ```
    pub fn loop_id(self) -> u32 {
        self.loop_id
    }

    /// Returns the id as a number, for tables in other languages: the index in bits 0 to 31, the generation (which
    /// counts the fibers that had that index) in bits 32 to 63, the number of the loop in bits 64 to 95.
    pub fn to_bits(self) -> u128 {
        u128::from(self.loop_id) << 64 | u128::from(self.generation) << 32 | u128::from(self.index)
    }

    /// Returns the id whose number [`to_bits`](FiberId::to_bits) returned. Any number is allowed; most belong to no
    /// fiber.
    pub fn from_bits(bits: u128) -> FiberId {
        FiberId {
            loop_id: (bits >> 64) as u32,
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl fmt::Display for FiberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Starts a fiber on this loop. It runs after the fibers that are already runnable.
///
/// The fiber inherits the caller's [`context`]. Dropping the handle detaches it. While the loop shuts down, new fibers
/// start cancelled.
///
/// ```
/// use yue_scheduler::{Config, Loop, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| "from the fiber");
///     assert!(!fiber.is_done()); // it has not run yet
///     assert_eq!(fiber.join().unwrap(), "from the fiber");
/// });
/// ```
///
/// # Panics
/// Outside a loop, or where [`Builder::spawn`] returns an error.
#[track_caller]
pub fn spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    match Builder::new().spawn(f) {
        Ok(handle) => handle,
        Err(error) => panic!("cannot spawn a fiber: {error}"),
    }
}

/// Settings for a new fiber.
///
/// ```
/// use yue_scheduler::{Builder, Config, Loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = Builder::new().name("answer").spawn(|| 42).unwrap();
///     assert_eq!(fiber.join().unwrap(), 42);
/// });
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    extra: Option<Box<Extra>>,
    stack: StackClass,
    priority: Priority,
}

impl Builder {
    /// A fiber without a name, on a [`StackClass::Small`] stack.
    pub fn new() -> Self {
        Builder::default()
    }

    /// Sets a name for listings and reports.
    pub fn name(mut self, name: impl Into<Box<str>>) -> Self {
        self.extra.get_or_insert_default().name = Some(name.into());
        self
    }

    /// Sets a callback for the case that the fiber is abandoned at shutdown.
    pub(crate) fn on_abandon(mut self, callback: impl FnOnce() + 'static) -> Self {
        self.extra.get_or_insert_default().on_abandon = Some(Box::new(callback));
        self
    }

    /// Sets the stack class, which determines the size of the stack.
    pub fn stack(mut self, class: StackClass) -> Self {
        self.stack = class;
        self
    }

    /// Sets the fiber's priority among ready fibers. A priority is not inherited.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Starts the fiber on this loop.
    ///
    /// # Errors
    /// When the system has no memory for another stack, or the loop has ended (destructors that run at its end may
    /// still call this). The closure is dropped.
    ///
    /// # Panics
    /// Outside a loop.
    #[track_caller]
    #[inline]
    pub fn spawn<T: 'static>(self, f: impl FnOnce() -> T + 'static) -> io::Result<JoinHandle<T>> {
        self.spawn_from(Location::caller(), f)
    }

    #[inline]
    pub(crate) fn spawn_from<T: 'static>(
        self,
        location: &'static Location<'static>,
        f: impl FnOnce() -> T + 'static,
    ) -> io::Result<JoinHandle<T>> {
        with_loop(|l| {
            if l.ended() {
                return Err(io::Error::other("the loop has ended"));
            }
            let stack = l.stacks.take(self.stack)?;
            // SAFETY: headers in the slab live as long as the loop.
            let header = unsafe { &*l.slab.take() };
            let cell = Rc::new(JoinCell::new(header.id(l.id())));
            let root = Root::new(f, Completion(cell.clone()));
            l.set_up(header, self.extra, self.priority, location);
            header.bounds.set(stack.bounds());
            // SAFETY: the header was just taken from the slab and does not move; a root catches every panic.
            unsafe { header.switch.prepare(stack, move || root.run()) };
            l.make_ready(header);
            Ok(JoinHandle::new(cell))
        })
    }
}

impl Builder {
    /// Starts a fiber on this loop with a closure that may borrow.
    ///
    /// # Errors
    /// As [`Builder::spawn`].
    ///
    /// # Safety
    /// Everything that `body` borrows stays valid, and does not move, until `body` has been dropped, whether it ran or
    /// not. If the fiber is abandoned at the loop's end, that means forever.
    pub(super) unsafe fn spawn_borrowing(
        self,
        location: &'static Location<'static>,
        body: Box<dyn FnOnce() + '_>,
    ) -> io::Result<FiberId> {
        // SAFETY: only the lifetime changes, and the caller promises that it is not used past its end: a fiber only
        // runs its closure or drops it.
        let body =
            unsafe { std::mem::transmute::<Box<dyn FnOnce() + '_>, Box<dyn FnOnce()>>(body) };
        Ok(self.spawn_from(location, body)?.id())
    }
}

impl crate::event_loop::Inner {
    #[inline]
    fn set_up(
        &self,
        header: &Header,
        extra: Option<Box<Extra>>,
        priority: Priority,
        location: &'static Location<'static>,
    ) {
        self.count_spawn();
        let cancelled = if self.stopping() { CANCELLED } else { 0 };
        header.flags.set(priority.flag() | cancelled);
        header.shields().set(0);
        header.suspension_bans.set(0);
        header.set_deadline(Instant::NEVER);
        header.earliest.set(std::ptr::null());
        header.set_scopes(std::ptr::null());
        header.hook.set(std::ptr::null());
        header.location.set(location);
        header.switches.set(0);
        header.extra.set(extra);
        let parent = self.running();
        if !parent.is_null() {
            // SAFETY: the running fiber's header lives as long as the fiber.
            let context = unsafe { (*parent).context.get() };
            if context.is_some() {
                header.context.replace(context);
            }
        }
    }
}

/// Returns whether the calling code runs in a fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, in_fiber};
///
/// assert!(!in_fiber());
/// Loop::new(Config::default()).unwrap().run(|| assert!(in_fiber()));
/// ```
pub fn in_fiber() -> bool {
    try_with_loop(|l| !l.running().is_null()).unwrap_or(false)
}

/// Returns the lowest address of the calling fiber's stack that code may use. Code that recurses without its own limit
/// (a C library with callbacks) compares its stack pointer with it.
///
/// ```
/// use yue_scheduler::{Config, Loop, stack_limit};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let here = 0u8;
///     assert!(&raw const here as usize > stack_limit());
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
pub fn stack_limit() -> usize {
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { &*current_fiber() }.bounds.get().limit_of_use()
}

/// Returns the id of the calling fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, current_id, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let me = current_id();
///     let other = spawn(current_id);
///     assert_ne!(other.id(), me);
///     let id = other.id();
///     assert_eq!(other.join().unwrap(), id);
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
pub fn current_id() -> FiberId {
    // SAFETY: the running fiber's header lives as long as the fiber.
    let header = unsafe { &*current_fiber() };
    with_loop(|l| header.id(l.id()))
}

/// Returns the name of the calling fiber, if it has one. `None` outside a fiber.
///
/// ```
/// use yue_scheduler::{Builder, Config, Loop, current_name};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = Builder::new().name("mailman").spawn(current_name).unwrap();
///     assert_eq!(fiber.join().unwrap().as_deref(), Some("mailman"));
/// });
/// ```
pub fn current_name() -> Option<String> {
    let header = try_with_loop(|l| l.running()).filter(|header| !header.is_null())?;
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { &*header }.with_name(|name| name.map(str::to_owned))
}

/// Returns the calling fiber's context: the value set with [`set_context`], which the fibers it spawns inherit. `None`
/// outside a fiber.
///
/// ```
/// use yue_scheduler::{Config, Loop, context, set_context, spawn};
/// use std::rc::Rc;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     set_context(Some(Rc::new("request 7")));
///     let fiber = spawn(|| *context().unwrap().downcast::<&str>().unwrap());
///     assert_eq!(fiber.join().unwrap(), "request 7");
/// });
/// ```
pub fn context() -> Option<Rc<dyn Any>> {
    try_with_loop(|l| {
        // SAFETY: the running fiber's header lives as long as the fiber.
        let header = unsafe { l.running().as_ref()? };
        header.context.get()
    })
    .flatten()
}

/// Sets the calling fiber's context, such as the request it works for. Returns the previous one.
///
/// ```
/// use yue_scheduler::{Config, Loop, context, set_context};
/// use std::rc::Rc;
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let before = set_context(Some(Rc::new(7)));
///     assert!(context().unwrap().is::<i32>());
///     set_context(before);
///     assert!(context().is_none());
/// });
/// ```
///
/// # Panics
/// When called outside a fiber.
pub fn set_context(context: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { (*current_fiber()).context.replace(context) }
}

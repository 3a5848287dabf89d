//! Starting a fiber.

use super::header::{CANCELLED, Extra, Header};
use super::id::FiberId;
use super::join::{Completion, JoinCell, JoinHandle};
use super::priority::Priority;
use super::root::Root;
use crate::event_loop::seam::{Inner, with_loop};
use crate::stack::StackClass;
use crate::time::Instant;
use std::io;
use std::panic::Location;
use std::rc::Rc;

/// Starts a fiber on this loop. It runs after the fibers that are already runnable.
///
/// The fiber inherits the caller's [`context`](crate::context). Dropping the handle detaches it. While the loop shuts
/// down, new fibers start cancelled.
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

    /// Sets a name for listings and reports. They are printed to terminals, so control characters in it are replaced.
    pub fn name(mut self, name: impl Into<Box<str>>) -> Self {
        let mut name = name.into();
        // 0xC2 begins the control characters from U+0080 on, and few others.
        let may_have_control = |byte: u8| byte < b' ' || byte == 0x7f || byte == 0xc2;
        if name.bytes().any(may_have_control) {
            name = name.replace(char::is_control, "\u{fffd}").into();
        }
        self.extra.get_or_insert_default().name = Some(name);
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
    #[track_caller]
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
    /// See [`Builder::spawn`].
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

impl Inner {
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

//! The calling fiber: its loop and header, its id, name and context.

use super::header::Header;
use super::id::FiberId;
use crate::event_loop::seam::{Inner, current_fiber, try_with_loop, with_loop};
use std::any::Any;
use std::rc::Rc;

/// Returns the loop and the header of the calling fiber. Neither moves while the fiber runs, and a fiber never leaves
/// its thread, so the references may be held across a switch; all that is behind them is in cells.
#[inline]
#[track_caller]
pub(super) fn here() -> (&'static Inner, &'static Header) {
    let header = current_fiber();
    // SAFETY: `current_fiber` panics outside a fiber; inside one, loop and header outlive the caller's frame, which is
    // on the fiber's stack. The `'static` never leaves the functions of `fiber/`.
    with_loop(|l| unsafe { (&*std::ptr::from_ref(l), &*header) })
}

/// Returns whether the calling code runs in a fiber.
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
#[track_caller]
pub fn stack_limit() -> usize {
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { &*current_fiber() }.bounds.get().limit_of_use()
}

/// Returns the id of the calling fiber.
///
/// # Panics
/// When called outside a fiber.
#[track_caller]
pub fn current_id() -> FiberId {
    let (l, header) = here();
    header.id(l.id())
}

/// Returns the name of the calling fiber, if it has one. `None` outside a fiber.
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
#[track_caller]
pub fn set_context(context: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
    // SAFETY: the running fiber's header lives as long as the fiber.
    unsafe { (*current_fiber()).context.replace(context) }
}

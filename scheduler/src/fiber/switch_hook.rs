//! Switch hooks: what they are, and the list of a fiber's hooks.

use std::ptr;

/// A hook that is called when its fiber leaves the processor and when it resumes. It cannot suspend, and must not
/// cancel the fiber. It cannot begin a wait either (with [`prepare_park`](crate::prepare_park), or a `select::poll` of
/// several branches), because that would void the waker of the wait that its fiber is entering. Suspending and
/// beginning a wait both panic.
///
/// ```
/// use yue_scheduler::{Config, Loop, SwitchHook, with_switch_hook, yield_now};
/// use std::cell::Cell;
///
/// #[derive(Default)]
/// struct Count(Cell<u32>);
///
/// impl SwitchHook for Count {
///     fn leave(&self) -> Result<(), &'static str> {
///         self.0.set(self.0.get() + 1);
///         Ok(())
///     }
///
///     fn enter(&self) {}
/// }
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let switches = with_switch_hook(Count::default(), |count| {
///         yield_now().unwrap();
///         yield_now().unwrap();
///         count.0.get()
///     });
///     assert_eq!(switches, 2);
/// });
/// ```
pub trait SwitchHook {
    /// Called before the fiber parks.
    ///
    /// # Errors
    /// The reason why the fiber must not park here; the park then panics with it.
    fn leave(&self) -> Result<(), &'static str>;

    /// Called when the fiber runs again, but only after a `leave` that allowed the switch.
    fn enter(&self);

    /// Describes the activity of the fiber, which is not running, in lines for a report: for example the traceback of
    /// another language. Called on the loop, outside any fiber.
    fn describe(&self) -> Option<String> {
        None
    }

    /// Describes what the fiber, which is not running, was started to do, if the location of the spawn does not show
    /// it: a function of another language, as `file:line`. Called on the loop's thread for each fiber of a list, so it
    /// must be quick, and must not call the loop.
    fn origin(&self) -> Option<Box<str>> {
        None
    }

    /// The address of what the hook's own layer keeps for the fiber, by which that layer finds it again while the fiber
    /// does not run; see [`this_loop::hook_record`](crate::this_loop::hook_record).
    fn record(&self) -> *const () {
        ptr::null()
    }
}

/// An entry of the list of a fiber's hooks, on the fiber's own stack.
pub(crate) struct HookFrame {
    pub(crate) hook: *const dyn SwitchHook,
    pub(super) outer: *const HookFrame,
}

/// The hook of a frame whose hook is not set yet.
pub(super) enum Never {}

impl SwitchHook for Never {
    fn leave(&self) -> Result<(), &'static str> {
        match *self {}
    }

    fn enter(&self) {
        match *self {}
    }
}

impl<H: SwitchHook + ?Sized> SwitchHook for &H {
    #[inline]
    fn leave(&self) -> Result<(), &'static str> {
        (**self).leave()
    }

    #[inline]
    fn enter(&self) {
        (**self).enter();
    }

    fn describe(&self) -> Option<String> {
        (**self).describe()
    }

    fn origin(&self) -> Option<Box<str>> {
        (**self).origin()
    }

    fn record(&self) -> *const () {
        (**self).record()
    }
}

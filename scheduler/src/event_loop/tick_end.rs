//! Callbacks for the end of a tick.

/// A callback for the end of a tick, registered with [`this_loop::at_tick_end`](crate::this_loop::at_tick_end).
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use yue_scheduler::{Config, Loop, TickEnd, this_loop};
///
/// /// Lines that are written together, once a tick.
/// #[derive(Default)]
/// struct Log { lines: RefCell<Vec<&'static str>>, written: RefCell<Vec<String>> }
///
/// impl TickEnd for Log {
///     fn tick_end(&self) {
///         self.written.borrow_mut().push(self.lines.take().join("; "));
///     }
/// }
///
/// let log = Rc::new(Log::default());
/// let l = Loop::new(Config::default()).unwrap();
/// l.enter(|| this_loop::at_tick_end(log.clone()));
/// log.lines.borrow_mut().extend(["one", "two"]);
/// l.tick().unwrap();
/// assert_eq!(*log.written.borrow(), ["one; two"]);
/// ```
pub trait TickEnd {
    /// Runs on the loop, outside any fiber, before the driver's turn. Cannot suspend.
    fn tick_end(&self);
}

//! Resources of a loop that Lua programs hold: files, children, sockets.
//!
//! Lua knows a resource by a number that is never used again. So a finalizer that runs late, or twice, closes nothing
//! else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use yue_scheduler::simulation::Hashing;

/// Open resources of one loop.
pub(crate) struct Handles<T> {
    open: RefCell<Open<T>>,
}

/// The last number that was given, and the resources by their numbers.
type Open<T> = (u64, HashMap<u64, Rc<T>, Hashing>);

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles {
            open: RefCell::new((0, HashMap::default())),
        }
    }
}

impl<T> Handles<T> {
    /// Keeps a resource, and returns its number.
    pub(crate) fn add(&self, resource: T) -> f64 {
        let mut open = self.open.borrow_mut();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, Rc::new(resource));
        number as f64
    }

    /// The resource with that number, if it is open.
    pub(crate) fn find(&self, number: f64) -> Option<Rc<T>> {
        self.open.borrow().1.get(&(number as u64)).cloned()
    }

    /// Forgets the resource, which lives on while somebody uses it.
    pub(crate) fn remove(&self, number: f64) -> Option<Rc<T>> {
        self.open.borrow_mut().1.remove(&(number as u64))
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        // Dropped after the borrow has ended.
        let all = std::mem::take(&mut self.open.borrow_mut().1);
        drop(all);
    }
}

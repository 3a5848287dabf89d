//! Eras: the order between releases of references and the messages before them.
//!
//! A message is decoded some time after it arrived, in the fiber that handles it. A release that came behind it must
//! not remove a function that the message still names. So the bytes that a link receives are divided into *eras*: each
//! segment belongs to one, and a release closes the era it came in. The releases of an era are applied when its last
//! segment is dropped, which means that everything in it has been decoded, and when all earlier eras have ended.
//!
//! ```text
//!   segments ──▶ Era 1 ──next──▶ Era 2 ──next──▶ Era 3 ◀── Input (the present one)
//!               [releases]      [releases]
//! ```
//!
//! An era keeps its successor alive, so that eras end in order; they add no cost per message.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Applies releases of references.
pub(crate) trait ReleaseSink {
    /// Everything that `link` received before these releases, pairs of (id, crossings), has been decoded.
    fn releases_due(&self, link: LinkNumber, releases: Vec<(u64, u64)>);
}

/// Identifies one of the links that a session has had. References that came over a link belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkNumber(pub(crate) u32);

/// The bytes that a link received up to a release of references.
pub(crate) struct Era {
    sink: Weak<dyn ReleaseSink>,
    epoch: u32,
    /// Applied at the era's end: (id, crossings).
    releases: Cell<Vec<(u64, u64)>>,
    next: RefCell<Option<Rc<Era>>>,
}

impl Era {
    pub(crate) fn new(sink: Weak<dyn ReleaseSink>, epoch: u32) -> Rc<Era> {
        Rc::new(Era {
            sink,
            epoch,
            releases: Cell::default(),
            next: RefCell::default(),
        })
    }

    /// The link that received the bytes.
    pub(crate) fn link(&self) -> LinkNumber {
        LinkNumber(self.epoch)
    }

    /// Closes the era with these releases and returns the next one.
    pub(crate) fn close(&self, releases: Vec<(u64, u64)>) -> Rc<Era> {
        self.releases.set(releases);
        let next = Era::new(self.sink.clone(), self.epoch);
        *self.next.borrow_mut() = Some(next.clone());
        next
    }

    fn end(&mut self) -> Option<Rc<Era>> {
        let releases = self.releases.take();
        if !releases.is_empty()
            && let Some(sink) = self.sink.upgrade()
        {
            sink.releases_due(self.link(), releases);
        }
        self.next.take()
    }
}

impl Drop for Era {
    fn drop(&mut self) {
        // A loop instead of recursion: a message that is kept for long may hold up many eras.
        let mut next = self.end();
        while let Some(mut era) = next.and_then(|era| Rc::try_unwrap(era).ok()) {
            next = era.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_eras_behind_one_message_end_without_recursion() {
        struct Nobody;
        impl ReleaseSink for Nobody {
            fn releases_due(&self, _: LinkNumber, _: Vec<(u64, u64)>) {}
        }
        let first = Era::new(Weak::<Nobody>::new(), 0);
        let mut last = first.clone();
        for _ in 0..100_000 {
            last = last.close(Vec::new());
        }
        drop(first);
        assert_eq!(Rc::strong_count(&last), 1, "the chain is gone");
    }
}

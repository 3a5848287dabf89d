//! The quota of an agent: cores, memory, nodes. A share is taken by a [`Ticket`], and free again when the ticket is
//! dropped. Requests that may wait are served in their order.
//!
//! It belongs to one loop.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use yue::nalloc::agent::{Free, Request};
use yue::sync::local::Notify;

/// More requests do not wait.
const QUEUE_MAX: usize = 1000;

/// A share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    pub(super) cpu: f64,
    pub(super) memory: u64,
    pub(super) nodes: u32,
}

impl Share {
    /// The share that a request asks for.
    pub(super) fn of(request: &Request) -> Share {
        Share {
            cpu: request.cpu,
            memory: request.memory,
            nodes: 1,
        }
    }

    fn fits_into(self, other: Share) -> bool {
        // Sums of fractions differ from what they should be by less.
        self.cpu <= other.cpu + 1e-6 && self.memory <= other.memory && self.nodes <= other.nodes
    }
}

/// All that the agent has.
pub(super) struct Quota {
    total: Share,
    used: Cell<Share>,
    queue: RefCell<VecDeque<Rc<Place>>>,
}

/// A place in the queue.
struct Place {
    share: Share,
    is_granted: Cell<bool>,
    granted: Notify,
}

impl Quota {
    pub(super) fn new(total: Share) -> Rc<Quota> {
        Rc::new(Quota {
            total,
            used: Cell::new(Share {
                cpu: 0.0,
                memory: 0,
                nodes: 0,
            }),
            queue: RefCell::default(),
        })
    }

    fn left(&self) -> Share {
        let (total, used) = (self.total, self.used.get());
        Share {
            cpu: (total.cpu - used.cpu).max(0.0),
            memory: total.memory.saturating_sub(used.memory),
            nodes: total.nodes.saturating_sub(used.nodes),
        }
    }

    /// The free part.
    pub(super) fn free(&self) -> Free {
        let left = self.left();
        Free {
            cpu: (left.cpu, self.total.cpu),
            memory: (left.memory, self.total.memory),
            nodes: (left.nodes, self.total.nodes),
        }
    }

    /// Takes a share, if it is free and nobody waits.
    pub(super) fn take(self: &Rc<Self>, share: Share) -> Option<Ticket> {
        let is_free = self.queue.borrow().is_empty() && share.fits_into(self.left());
        is_free.then(|| self.grant(share))
    }

    fn grant(self: &Rc<Self>, share: Share) -> Ticket {
        self.add(share);
        Ticket {
            quota: self.clone(),
            share,
        }
    }

    fn add(&self, share: Share) {
        let used = self.used.get();
        self.used.set(Share {
            cpu: used.cpu + share.cpu,
            memory: used.memory.saturating_add(share.memory),
            nodes: used.nodes + share.nodes,
        });
    }

    /// Queues for a share; `None` if the agent will never have it, or too many wait.
    pub(super) fn queue(self: &Rc<Self>, share: Share) -> Option<Queued> {
        let mut queue = self.queue.borrow_mut();
        if !share.fits_into(self.total) || queue.len() >= QUEUE_MAX {
            return None;
        }
        let place = Rc::new(Place {
            share,
            is_granted: Cell::new(false),
            granted: Notify::new(),
        });
        queue.push_back(place.clone());
        Some(Queued {
            quota: self.clone(),
            place,
        })
    }

    fn release(&self, share: Share) {
        let used = self.used.get();
        self.used.set(Share {
            cpu: (used.cpu - share.cpu).max(0.0),
            memory: used.memory.saturating_sub(share.memory),
            nodes: used.nodes.saturating_sub(share.nodes),
        });
        self.serve_queue();
    }

    fn serve_queue(&self) {
        loop {
            let next = self.queue.borrow().front().cloned();
            let Some(place) = next.filter(|place| place.share.fits_into(self.left())) else {
                return;
            };
            self.queue.borrow_mut().pop_front();
            self.add(place.share);
            place.is_granted.set(true);
            place.granted.notify_one();
        }
    }
}

/// A share that is taken.
pub(super) struct Ticket {
    quota: Rc<Quota>,
    share: Share,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.quota.release(self.share);
    }
}

/// A request that waits. It leaves the queue when it is dropped.
pub(super) struct Queued {
    quota: Rc<Quota>,
    place: Rc<Place>,
}

impl Queued {
    /// Notified when the share has been granted.
    pub(super) fn granted(&self) -> &Notify {
        &self.place.granted
    }

    /// The share, if it has been granted.
    pub(super) fn ticket(&self) -> Option<Ticket> {
        self.place.is_granted.replace(false).then(|| Ticket {
            quota: self.quota.clone(),
            share: self.place.share,
        })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        drop(self.ticket());
        let mut queue = self.quota.queue.borrow_mut();
        queue.retain(|place| !Rc::ptr_eq(place, &self.place));
        drop(queue);
        self.quota.serve_queue();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(cpu: f64) -> Share {
        Share {
            cpu,
            memory: 10,
            nodes: 1,
        }
    }

    fn quota() -> Rc<Quota> {
        Quota::new(Share {
            cpu: 2.0,
            memory: 100,
            nodes: 3,
        })
    }

    #[test]
    fn a_share_is_free_again_when_its_ticket_is_dropped() {
        let quota = quota();
        let first = quota.take(cores(1.5)).unwrap();
        assert!(quota.take(cores(1.0)).is_none());
        let free = quota.free();
        assert_eq!(
            (free.cpu, free.memory, free.nodes),
            ((0.5, 2.0), (90, 100), (2, 3))
        );
        drop(first);
        assert!(quota.take(cores(2.0)).is_some());
    }

    #[test]
    fn nodes_and_memory_are_shares_too() {
        let quota = quota();
        let taken: Vec<_> = (0..3).map(|_| quota.take(cores(0.0)).unwrap()).collect();
        assert!(quota.take(cores(0.0)).is_none());
        drop(taken);
        let large = Share {
            memory: 101,
            ..cores(0.0)
        };
        assert!(quota.take(large).is_none() && quota.queue(large).is_none());
    }

    #[test]
    fn the_queue_is_served_in_order_and_nobody_passes_it() {
        let quota = quota();
        let first = quota.take(cores(2.0)).unwrap();
        let large = quota.queue(cores(2.0)).unwrap();
        let small = quota.queue(cores(1.0)).unwrap();
        drop(first);
        let ticket = large.ticket().unwrap();
        assert!(small.ticket().is_none());
        assert!(quota.take(cores(0.0)).is_none());
        drop(ticket);
        assert!(small.ticket().is_some());
    }

    #[test]
    fn who_leaves_the_queue_holds_up_nobody() {
        let quota = quota();
        let first = quota.take(cores(1.0)).unwrap();
        let large = quota.queue(cores(2.0)).unwrap();
        let small = quota.queue(cores(1.0)).unwrap();
        drop(large);
        assert!(small.ticket().is_some());
        drop((first, small));
        // A share that was granted to a request that has gone is free again.
        let last = quota.queue(cores(2.0));
        drop(last);
        assert_eq!(quota.free().cpu, (2.0, 2.0));
    }
}

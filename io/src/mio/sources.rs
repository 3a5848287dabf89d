//! The descriptors that this loop has registered, and the fibers that wait for their readiness.
//!
//! A socket may be used on several loops or closed on any thread, and its descriptor's number may be reused. So an
//! entry identifies the socket by an id that is never reused. An entry of another socket under the same number is stale
//! and gets replaced. Tokens carry a generation; an event of a stale registration is ignored.

use crate::identity::{Direction, Identity};
use ::mio::Token;
use slab::Slab;
use smallvec::SmallVec;
use std::rc::Rc;
use yue_scheduler::LocalWaker;

/// An owner that is notified of a descriptor's readiness, instead of a waiting fiber. Called by the loop outside
/// fibers.
pub(crate) trait EventOwner {
    fn on_event(self: Rc<Self>, event: DescriptorEvent);
}

/// The readiness that an event reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DescriptorEvent {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has finished sending, or the socket is broken: a read will report it.
    pub(crate) hung_up: bool,
    /// Urgent data has arrived (TCP): reads end before it, whatever follows.
    pub(crate) urgent: bool,
}

struct Waiter {
    ticket: u64,
    direction: Direction,
    waker: LocalWaker,
}

struct Source {
    identity: Identity,
    /// Never that of an earlier source with the same index, until 2^32 sources later.
    generation: u32,
    /// Whether a read took all bytes and no event has come since: the next read would find nothing.
    drained: bool,
    /// Whether the peer has finished sending or has sent urgent data. Then a short read may leave bytes, and those
    /// cause no further event. So `drained` can no longer be trusted.
    always_tried: bool,
    /// Whether the peer has sent urgent data. Then `WouldBlock` can no longer be trusted either.
    met_urgent_data: bool,
    /// Room for a reader and a writer without an allocation.
    waiters: SmallVec<[Waiter; 2]>,
    owner: Option<Rc<dyn EventOwner>>,
}

/// A registered source: index and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceId {
    index: u32,
    generation: u32,
}

#[derive(Default)]
pub(super) struct Sources {
    sources: Slab<Source>,
    generations: u32,
    /// By descriptor: the source's index plus one, or zero.
    by_fd: Vec<u32>,
    tickets: u64,
}

impl SourceId {
    pub(super) fn token(self) -> Token {
        // A usize has 64 bits on the platforms that this crate supports.
        Token(((u64::from(self.generation) << 32) | u64::from(self.index)) as usize)
    }

    pub(super) fn from_token(token: Token) -> Self {
        SourceId {
            index: token.0 as u32,
            generation: (token.0 as u64 >> 32) as u32,
        }
    }
}

impl Sources {
    /// Returns the number of registered descriptors.
    pub(super) fn count(&self) -> usize {
        self.sources.len()
    }

    /// Returns the registration of a socket on this loop, if it has one.
    pub(super) fn find(&self, identity: Identity) -> Option<SourceId> {
        let slot = *self.by_fd.get(usize::try_from(identity.fd).ok()?)?;
        let index = slot.checked_sub(1)?;
        let source = &self.sources[index as usize];
        (source.identity == identity).then_some(SourceId {
            index,
            generation: source.generation,
        })
    }

    /// Adds an entry, replacing a stale one.
    pub(super) fn insert(&mut self, identity: Identity) -> SourceId {
        debug_assert!(identity.fd >= 0, "an open descriptor has a number");
        debug_assert!(
            self.find(identity).is_none(),
            "a descriptor is registered once on a loop"
        );
        let slot = usize::try_from(identity.fd).unwrap_or(0);
        if self.by_fd.len() <= slot {
            self.by_fd.resize(slot + 1, 0);
        }
        // The descriptor was closed on another thread, which could not remove the entry here.
        if let Some(stale) = self.by_fd[slot].checked_sub(1) {
            self.release(stale);
        }
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let index = self.sources.insert(Source {
            identity,
            generation,
            drained: false,
            always_tried: false,
            met_urgent_data: false,
            waiters: SmallVec::new(),
            owner: None,
        }) as u32;
        self.by_fd[slot] = index + 1;
        SourceId { index, generation }
    }

    /// Removes a socket's entry. Returns whether it had one.
    pub(super) fn remove(&mut self, identity: Identity) -> bool {
        let Some(id) = self.find(identity) else {
            return false;
        };
        self.release(id.index);
        true
    }

    fn release(&mut self, index: u32) {
        let Some(source) = self.sources.try_remove(index as usize) else {
            return;
        };
        debug_assert_eq!(
            self.by_fd[source.identity.fd as usize],
            index + 1,
            "the table by descriptor leads to another source"
        );
        self.by_fd[source.identity.fd as usize] = 0;
        debug_assert!(
            self.find(source.identity).is_none(),
            "a released source is not found"
        );
        // The waiter's descriptor was closed under it. It retries its call and gets the error.
        for waiter in source.waiters {
            waiter.waker.wake();
        }
    }

    fn get(&mut self, id: SourceId) -> Option<&mut Source> {
        self.sources
            .get_mut(id.index as usize)
            .filter(|source| source.generation == id.generation)
    }

    pub(super) fn set_owner(&mut self, id: SourceId, owner: Rc<dyn EventOwner>) {
        if let Some(source) = self.get(id) {
            source.owner = Some(owner);
        }
    }

    /// Whether a read would find nothing, as far as is known.
    pub(super) fn is_drained(&mut self, identity: Identity) -> bool {
        self.find(identity)
            .and_then(|id| self.get(id))
            .is_some_and(|source| source.drained)
    }

    /// Whether an event has announced urgent data on the socket. Its event is reported before, or at, the event of the
    /// bytes that follow it.
    pub(super) fn met_urgent_data(&mut self, identity: Identity) -> bool {
        self.find(identity)
            .and_then(|id| self.get(id))
            .is_some_and(|source| source.met_urgent_data)
    }

    /// Records that a read took all bytes. Applies only to a registered socket, because its next byte causes an event.
    /// That a short read empties a stream is documented: `epoll(7)`, questions and answers, 9.
    pub(super) fn set_drained(&mut self, identity: Identity) {
        if let Some(source) = self.find(identity).and_then(|id| self.get(id)) {
            debug_assert!(
                !(source.drained && source.always_tried),
                "a socket that is always tried is not known to be empty"
            );
            source.drained = !source.always_tried;
        }
    }

    /// Enqueues a fiber. The returned ticket is for [`Sources::remove_waiter`].
    pub(super) fn add_waiter(
        &mut self,
        id: SourceId,
        direction: Direction,
        waker: LocalWaker,
    ) -> u64 {
        debug_assert!(
            self.get(id).is_some(),
            "a fiber waits for an event of a descriptor without a registration"
        );
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(source) = self.get(id) {
            source.waiters.push(Waiter {
                ticket,
                direction,
                waker,
            });
        }
        ticket
    }

    /// Removes a waiter, if it is still there.
    pub(super) fn remove_waiter(&mut self, id: SourceId, ticket: u64) {
        if let Some(source) = self.get(id) {
            source.waiters.retain(|waiter| waiter.ticket != ticket);
        }
    }

    /// Wakes the fibers that the event concerns. Returns the owner, which must be notified after the borrow.
    pub(super) fn handle_event(
        &mut self,
        id: SourceId,
        event: DescriptorEvent,
    ) -> Option<Rc<dyn EventOwner>> {
        let source = self.get(id)?;
        source.always_tried |= event.hung_up || event.urgent;
        source.met_urgent_data |= event.urgent;
        // The edge may announce bytes that arrived after the read which found the socket empty.
        source.drained &= !(event.readable || source.always_tried);
        source.waiters.retain(|waiter| {
            let concerned = event.hung_up
                || match waiter.direction {
                    Direction::Read => event.readable,
                    Direction::Write => event.writable,
                };
            if concerned {
                waiter.waker.wake();
            }
            !concerned
        });
        source.owner.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl EventOwner for Nobody {
        fn on_event(self: Rc<Self>, _: DescriptorEvent) {}
    }

    const READABLE: DescriptorEvent = DescriptorEvent {
        readable: true,
        writable: false,
        hung_up: false,
        urgent: false,
    };

    #[test]
    fn an_event_of_a_stale_registration_is_ignored() {
        let mut sources = Sources::default();
        let (old, new) = (Identity { fd: 5, id: 1 }, Identity { fd: 5, id: 2 });
        let first = sources.insert(old);
        sources.set_owner(first, Rc::new(Nobody));
        assert!(
            sources
                .handle_event(SourceId::from_token(first.token()), READABLE)
                .is_some()
        );
        // The descriptor was closed on another thread, and its number was reused.
        assert_eq!(sources.find(new), None);
        let second = sources.insert(new);
        sources.set_owner(second, Rc::new(Nobody));
        assert!(sources.handle_event(first, READABLE).is_none());
        assert!(sources.handle_event(second, READABLE).is_some());
        assert_eq!((sources.find(old), sources.count()), (None, 1));
        assert!(!sources.remove(old));
        assert!(sources.remove(new));
        assert_eq!(sources.count(), 0);
    }

    #[test]
    fn a_drained_socket_is_always_retried_after_urgent_data() {
        let mut sources = Sources::default();
        let socket = Identity { fd: 3, id: 1 };
        let id = sources.insert(socket);
        let urgent = DescriptorEvent {
            urgent: true,
            ..READABLE
        };
        sources.handle_event(id, urgent);
        sources.handle_event(id, READABLE);
        sources.set_drained(socket);
        assert!(!sources.is_drained(socket));
        assert!(sources.met_urgent_data(socket));
    }

    #[test]
    fn a_drained_socket_is_retried_after_an_event_and_always_after_a_hang_up() {
        let mut sources = Sources::default();
        let socket = Identity { fd: 3, id: 1 };
        sources.set_drained(socket);
        assert!(
            !sources.is_drained(socket),
            "not registered: no event would come"
        );
        let id = sources.insert(socket);
        sources.set_drained(socket);
        assert!(sources.is_drained(socket));
        sources.handle_event(
            id,
            DescriptorEvent {
                readable: false,
                writable: true,
                ..READABLE
            },
        );
        assert!(sources.is_drained(socket));
        sources.handle_event(id, READABLE);
        assert!(!sources.is_drained(socket));
        sources.handle_event(
            id,
            DescriptorEvent {
                hung_up: true,
                ..READABLE
            },
        );
        sources.set_drained(socket);
        assert!(!sources.is_drained(socket));
    }
}

//! The members of a group that belong to the calling loop.

use super::MemberId;
use super::registry::{Record, SharedGroup, Station};
use crate::session::{Session, SessionSet, WeakSession};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::simulation::Hashing;
use yue_scheduler::this_loop;

/// One loop's members of a group. A member keeps it alive, and it does not keep members alive.
pub(super) struct LocalGroup {
    this: Weak<LocalGroup>,
    /// The way from other loops to this one.
    pub(super) station: Station,
    /// `None`: the group has no name.
    pub(super) shared: Option<Arc<SharedGroup>>,
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<u32>>,
    count: Cell<usize>,
    /// The number of walks over the slots in progress: no member may move to another slot.
    walks: Cell<u32>,
}

/// Below this number of slots, empty ones cost nothing worth mentioning.
const SLOTS_MIN: usize = 64;

struct Slot {
    id: MemberId,
    session: WeakSession,
}

/// One loop's state for all of its groups.
#[derive(Default)]
struct Here {
    station: RefCell<Option<Station>>,
    /// The named groups, as long as a member or a handle keeps them alive.
    named: RefCell<HashMap<Arc<str>, Weak<LocalGroup>, Hashing>>,
}

impl Drop for Here {
    /// The thread ends, and with it its loop. Members that still exist are out of reach.
    fn drop(&mut self) {
        for group in self.named.take().into_values() {
            if let Some(group) = group.upgrade() {
                group.vanish();
            }
        }
    }
}

thread_local! {
    static HERE: Here = Here::default();
}

/// The station of the calling loop.
fn this_station() -> Station {
    HERE.with(|here| {
        let mut station = here.station.borrow_mut();
        match &*station {
            Some(station) if station.loop_id() == this_loop::id() => station.clone(),
            // The first use on this loop; a thread may run another loop after this one.
            _ => station.insert(Station::new(this_loop::handle())).clone(),
        }
    })
}

/// The members of a named group on the calling loop, if it has any, or a handle.
pub(super) fn find(name: &str) -> Option<Rc<LocalGroup>> {
    let found = HERE.with(|here| here.named.borrow().get(name).and_then(Weak::upgrade))?;
    if found.station.loop_id() == this_loop::id() {
        return Some(found);
    }
    // They belong to a loop that this thread has run before.
    found.vanish();
    None
}

impl LocalGroup {
    pub(super) fn new(shared: Option<Arc<SharedGroup>>) -> Rc<LocalGroup> {
        Rc::new_cyclic(|this| LocalGroup {
            this: this.clone(),
            station: this_station(),
            shared,
            slots: RefCell::default(),
            free: RefCell::default(),
            count: Cell::new(0),
            walks: Cell::new(0),
        })
    }

    /// The group of that name on the calling loop.
    pub(super) fn named(name: &str) -> Rc<LocalGroup> {
        if let Some(known) = find(name) {
            return known;
        }
        let shared = SharedGroup::of(name);
        let name = shared.name().clone();
        let group = LocalGroup::new(Some(shared));
        let weak = Rc::downgrade(&group);
        HERE.with(|here| here.named.borrow_mut().insert(name, weak));
        group
    }

    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    fn strong(&self) -> Option<Rc<LocalGroup>> {
        self.this.upgrade()
    }

    /// Adds the session, or replaces what other loops know of it. Returns `false` if the session has ended.
    pub(super) fn join(
        &self,
        session: &Session,
        data: Option<Arc<[u8]>>,
        timeout: Duration,
    ) -> bool {
        let Some(this) = self.strong() else {
            return false;
        };
        if !session.may_join() {
            return false;
        }
        let known = session.memberships().slot_in(self);
        let id = known.and_then(|slot| self.id_at(slot));
        let id = id.unwrap_or_else(MemberId::next);
        if known.is_none() {
            let slot = self.insert(Slot {
                id,
                session: session.downgrade(),
            });
            session.memberships().add(this, slot);
        }
        if let Some(shared) = &self.shared {
            let record = Record {
                id,
                address: session.address().to_owned(),
                data,
                timeout,
            };
            shared.add(&self.station, record);
        }
        true
    }

    /// Removes the session. Returns whether it was a member.
    pub(super) fn leave(&self, session: &Session) -> bool {
        let slot = session.memberships().forget(self);
        if let Some(slot) = slot {
            self.remove(slot);
        }
        slot.is_some()
    }

    fn id_at(&self, slot: u32) -> Option<MemberId> {
        let slots = self.slots.borrow();
        slots.get(slot as usize)?.as_ref().map(|slot| slot.id)
    }

    fn insert(&self, member: Slot) -> u32 {
        self.count.set(self.count.get() + 1);
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = self.free.borrow_mut().pop() {
            debug_assert!(slots[slot as usize].is_none());
            slots[slot as usize] = Some(member);
            return slot;
        }
        slots.push(Some(member));
        slots.len() as u32 - 1
    }

    /// Removes all members at once. For a group without a name whose last handle was dropped.
    pub(super) fn dissolve(&self) {
        let members = self.slots.take();
        self.free.take();
        self.count.set(0);
        for session in members.iter().flatten() {
            if let Some(session) = session.session.upgrade() {
                session.memberships().forget(self);
            }
        }
    }

    /// Makes the other loops forget the members of this loop, which has ended.
    fn vanish(&self) {
        if let Some(shared) = &self.shared {
            shared.remove_loop(self.station.loop_id());
        }
    }

    /// Calls `f` for each member, or for that member. A member that joins meanwhile may be left out; one that leaves
    /// meanwhile is.
    #[inline]
    pub(super) fn each(&self, only: Option<MemberId>, mut f: impl FnMut(MemberId, Session)) {
        let length = self.slots.borrow().len();
        let _walk = Walk::begin(&self.walks);
        for index in 0..length {
            // No borrow is held while `f` runs: a session that ends calls `remove`.
            let member = match self.slots.borrow().get(index) {
                Some(Some(slot)) if only.is_none_or(|only| slot.id == only) => {
                    slot.session.upgrade().map(|session| (slot.id, session))
                }
                _ => None,
            };
            if let Some((id, session)) = member {
                f(id, session);
            }
        }
    }
}

impl LocalGroup {
    /// Removes the empty slots: a group that was large for a while must not stay slow and large.
    #[cold]
    fn compact(&self) {
        if self.walks.get() != 0 {
            return;
        }
        let sessions: Vec<_> = {
            let slots = self.slots.borrow();
            let members = slots.iter().flatten();
            members.map(|slot| slot.session.upgrade()).collect()
        };
        // A session that is just being dropped could not learn of its new slot.
        if sessions.iter().any(Option::is_none) {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        slots.retain(Option::is_some);
        slots.shrink_to_fit();
        self.free.take();
        for (slot, session) in (0..).zip(sessions.iter().flatten()) {
            session.memberships().moved(self, slot);
        }
        drop(slots);
        // Not under the borrow: these may be the last handles of sessions.
        drop(sessions);
    }
}

/// Counts a walk over the slots while it lasts.
struct Walk<'a>(&'a Cell<u32>);

impl Walk<'_> {
    fn begin(walks: &Cell<u32>) -> Walk<'_> {
        walks.set(walks.get() + 1);
        Walk(walks)
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl SessionSet for LocalGroup {
    fn remove(&self, slot: u32) {
        let removed = self
            .slots
            .borrow_mut()
            .get_mut(slot as usize)
            .and_then(Option::take);
        let Some(member) = removed else { return };
        self.count.set(self.count.get() - 1);
        self.free.borrow_mut().push(slot);
        if self.slots.borrow().len() > SLOTS_MIN.max(4 * self.count.get()) {
            self.compact();
        }
        if let Some(shared) = &self.shared {
            shared.remove(self.station.loop_id(), member.id);
        }
    }
}

impl Drop for LocalGroup {
    fn drop(&mut self) {
        debug_assert_eq!(self.count.get(), 0, "a member keeps its group alive");
        let Some(shared) = &self.shared else { return };
        // Fails at the end of the thread, whose table is gone.
        let _ = HERE.try_with(|here| {
            let mut named = here.named.borrow_mut();
            let is_own = |known: &Weak<LocalGroup>| std::ptr::eq(known.as_ptr(), self);
            if named.get(shared.name()).is_some_and(is_own) {
                named.remove(shared.name());
            }
        });
    }
}

//! The groups of the process that have a name: which loops have members, and what every loop may know of them.
//!
//! ```text
//!   NAMES: name ─ ─ weak ─ ─▶ SharedGroup ◀── one LocalGroup per loop, which its members and handles keep alive
//!                              └── per loop: its station, and the records of its members
//! ```
//!
//! A loop changes its own records alone. Messages go to the loops that have records, without a lock: a copy of the list
//! of stations is made first. A loop that has ended does not take a message; the message finds that out when it is
//! dropped, and removes the loop's records.
//!
//! Invariants:
//! - The table of names has no entry without a group that exists on some loop: the last one removes it.
//! - `NAMES` and the list of a group are never locked at the same time, and nothing is sent under either.

use super::MemberId;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{LoopHandle, lock};

/// Bytes of messages that wait for one loop to take them. Above it, the members of that loop do not take a message:
/// a loop that is blocked must not fill the memory.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// The cost of a message to another loop beside its bytes.
const OVERHEAD_BYTES: usize = 128;

/// A loop that has members: how it is reached, and how many bytes wait for it.
#[derive(Clone)]
pub(super) struct Station {
    pub(super) home: LoopHandle,
    waiting_bytes: Arc<AtomicUsize>,
}

impl Station {
    pub(super) fn new(home: LoopHandle) -> Station {
        Station {
            home,
            waiting_bytes: Arc::default(),
        }
    }

    pub(super) fn loop_id(&self) -> u32 {
        self.home.id()
    }

    /// Reserves room for a message of that length. `None` if too much waits already.
    fn reserve(&self, bytes: usize) -> Option<usize> {
        let cost = bytes + OVERHEAD_BYTES;
        // Relaxed: the count guards nothing, and is exact enough while several loops send.
        let before = self.waiting_bytes.fetch_add(cost, Ordering::Relaxed);
        if before != 0 && before + cost > WAITING_BYTES_MAX {
            self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            return None;
        }
        Some(cost)
    }
}

/// The part of a member that every loop may know.
pub(super) struct Record {
    pub(super) id: MemberId,
    pub(super) address: String,
    pub(super) data: Option<Arc<[u8]>>,
    /// The time limit of calls that set none.
    pub(super) timeout: Duration,
}

/// The members of one loop.
struct LoopMembers {
    station: Station,
    records: BTreeMap<MemberId, Arc<Record>>,
}

/// A named group, as all loops share it.
pub(super) struct SharedGroup {
    name: Arc<str>,
    loops: Mutex<Vec<LoopMembers>>,
}

/// The groups that exist on some loop.
static NAMES: PerHost<Names> = PerHost::new(Names::default);

type Names = Mutex<HashMap<Arc<str>, Weak<SharedGroup>>>;

impl SharedGroup {
    /// The group of that name.
    pub(super) fn of(name: &str) -> Arc<SharedGroup> {
        let names = NAMES.get();
        let mut names = lock(&names);
        if let Some(known) = names.get(name).and_then(Weak::upgrade) {
            return known;
        }
        let name: Arc<str> = name.into();
        let group = Arc::new(SharedGroup {
            name: name.clone(),
            loops: Mutex::default(),
        });
        // The entry of a group that is just being dropped is replaced; its drop then finds another one, and leaves it.
        names.insert(name, Arc::downgrade(&group));
        group
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn loops(&self) -> MutexGuard<'_, Vec<LoopMembers>> {
        lock(&self.loops)
    }

    /// Adds a member of that loop, or replaces its record.
    pub(super) fn add(&self, station: &Station, record: Record) {
        let record = Arc::new(record);
        let mut loops = self.loops();
        let id = station.loop_id();
        let of_loop = loops.iter_mut().find(|other| other.station.loop_id() == id);
        match of_loop {
            Some(of_loop) => drop(of_loop.records.insert(record.id, record)),
            None => loops.push(LoopMembers {
                station: station.clone(),
                records: BTreeMap::from([(record.id, record)]),
            }),
        }
    }

    /// Removes a member of that loop.
    pub(super) fn remove(&self, loop_id: u32, id: MemberId) {
        let mut loops = self.loops();
        let at = loops
            .iter()
            .position(|other| other.station.loop_id() == loop_id);
        if let Some(at) = at {
            loops[at].records.remove(&id);
            if loops[at].records.is_empty() {
                loops.swap_remove(at);
            }
        }
    }

    /// Removes all members of a loop that has ended.
    pub(super) fn remove_loop(&self, loop_id: u32) {
        self.loops()
            .retain(|other| other.station.loop_id() != loop_id);
    }

    /// The number of members, on all loops.
    pub(super) fn len(&self) -> usize {
        self.loops().iter().map(|other| other.records.len()).sum()
    }

    /// The number of members on other loops than that one.
    pub(super) fn len_elsewhere(&self, loop_id: u32) -> usize {
        let loops = self.loops();
        let elsewhere = loops
            .iter()
            .filter(|other| other.station.loop_id() != loop_id);
        elsewhere.map(|other| other.records.len()).sum()
    }

    /// All members, in the order in which they joined.
    pub(super) fn records(&self) -> Vec<Arc<Record>> {
        let mut records: Vec<_> = self
            .loops()
            .iter()
            .flat_map(|other| other.records.values().cloned())
            .collect();
        records.sort_unstable_by_key(|record| record.id);
        records
    }

    /// The other loops to send to, each with the number of its members; with `only`, the loop of that member.
    pub(super) fn stations_elsewhere(
        &self,
        loop_id: u32,
        only: Option<MemberId>,
    ) -> Vec<(Station, usize)> {
        let loops = self.loops();
        let elsewhere = loops
            .iter()
            .filter(|other| other.station.loop_id() != loop_id);
        let meant = elsewhere.filter_map(|other| match only {
            None => Some((other.station.clone(), other.records.len())),
            Some(id) if other.records.contains_key(&id) => Some((other.station.clone(), 1)),
            Some(_) => None,
        });
        meant.collect()
    }

    /// The members on that loop; with `only`, that member.
    pub(super) fn records_on(&self, loop_id: u32, only: Option<MemberId>) -> Vec<Arc<Record>> {
        let loops = self.loops();
        let of_loop = loops
            .iter()
            .find(|other| other.station.loop_id() == loop_id);
        let Some(of_loop) = of_loop else {
            return Vec::new();
        };
        match only {
            None => of_loop.records.values().cloned().collect(),
            Some(id) => of_loop.records.get(&id).cloned().into_iter().collect(),
        }
    }
}

impl Drop for SharedGroup {
    fn drop(&mut self) {
        let names = NAMES.get();
        let mut names = lock(&names);
        let is_own = |known: &Weak<SharedGroup>| std::ptr::eq(known.as_ptr(), self);
        if names.get(&self.name).is_some_and(is_own) {
            names.remove(&self.name);
        }
    }
}

/// The number of known names that begin with `prefix`, for tests.
#[doc(hidden)]
pub fn names(prefix: &str) -> usize {
    let names = NAMES.get();
    let names = lock(&names);
    names.keys().filter(|name| name.starts_with(prefix)).count()
}

/// A message to another loop. One that is dropped before it has arrived has found that the loop has ended.
struct Delivery<F> {
    shared: Arc<SharedGroup>,
    station: Station,
    cost: usize,
    work: Option<F>,
}

impl<F: FnOnce(&Arc<SharedGroup>)> Delivery<F> {
    fn arrive(mut self) {
        if let Some(work) = self.work.take() {
            work(&self.shared);
        }
    }
}

impl<F> Drop for Delivery<F> {
    fn drop(&mut self) {
        // Relaxed: see `reserve`.
        self.station
            .waiting_bytes
            .fetch_sub(self.cost, Ordering::Relaxed);
        if self.work.is_some() {
            self.shared.remove_loop(self.station.loop_id());
        }
    }
}

/// Runs `work` on the loop of that station, outside fibers, behind everything that this loop has sent there before.
/// Returns `false` if too many bytes wait for that loop; `bytes` counts as long as the message waits.
pub(super) fn send(
    shared: &Arc<SharedGroup>,
    station: &Station,
    bytes: usize,
    work: impl FnOnce(&Arc<SharedGroup>) + Send + 'static,
) -> bool {
    let Some(cost) = station.reserve(bytes) else {
        return false;
    };
    let delivery = Delivery {
        shared: shared.clone(),
        station: station.clone(),
        cost,
        work: Some(work),
    };
    station.home.run(move || delivery.arrive());
    true
}

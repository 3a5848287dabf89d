//! The records of a loop.

use super::traces::Traces;
use super::{
    FUNCTIONS, Failed, METHODS_MAX, MethodStats, OTHERS, RunningCalls, SLOWEST_AGE, SLOWEST_MAX,
    ServedCall,
};
use crate::session::Session;
use hdrhistogram::Histogram;
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::Instant;

/// Bytes of a name that are kept; longer names with the same begin are counted together.
const NAME_MAX: usize = 128;

/// Bytes of an address that are kept.
const ADDRESS_MAX: usize = 200;

/// The key of all sessions that this side opened.
const OPENED: usize = 0;

/// A request that runs.
pub(super) struct Running {
    number: u64,
    /// The listener that accepted its session.
    key: usize,
    name: Box<[u8]>,
    peer: Box<str>,
    began: Instant,
    is_notification: bool,
    /// The position of its method, if that was called before.
    position: Cell<Option<usize>>,
}

#[derive(Default)]
pub(super) struct Table {
    /// The recording that it belongs to.
    recording: u32,
    methods: Vec<MethodStats>,
    /// The positions of the methods, by listener and name.
    positions: HashMap<usize, HashMap<Box<[u8]>, usize>>,
    /// The position of the entry for all others.
    others: Option<usize>,
    running: BTreeMap<u64, Rc<Running>>,
    begun: u64,
    /// The slowest first.
    slowest: Vec<ServedCall>,
    /// The addresses of the listeners, by key.
    listeners: HashMap<usize, Option<Arc<str>>>,
    pub(super) traces: Traces,
}

fn cut(bytes: &[u8], max: usize) -> &[u8] {
    &bytes[..bytes.len().min(max)]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A method that has not been called.
fn method(name: &str, listener: Option<&str>) -> MethodStats {
    MethodStats {
        name: name.to_owned(),
        listener: listener.map(str::to_owned),
        calls: 0,
        errors: 0,
        in_flight: 0,
        total: Duration::ZERO,
        max: Duration::ZERO,
        // One digit is always supported.
        times: Histogram::new(1).expect("a histogram of one digit"),
    }
}

impl Table {
    pub(super) fn empty_if_older(&mut self, recording: u32) {
        if self.recording == recording {
            return;
        }
        self.recording = recording;
        self.methods.clear();
        self.positions.clear();
        self.others = None;
        self.slowest.clear();
        // These began before. Their methods are found again at their end.
        for running in self.running.values() {
            running.position.set(None);
        }
    }

    pub(super) fn begin(
        &mut self,
        session: &Session,
        name: Option<&[u8]>,
        is_notification: bool,
        began: Instant,
    ) -> Rc<Running> {
        let key = match session.is_opened() {
            true => OPENED,
            false => session.accounts_key(),
        };
        let name = cut(name.unwrap_or(FUNCTIONS.as_bytes()), NAME_MAX);
        let known = self.positions.get(&key).and_then(|names| names.get(name));
        let position = known.copied();
        if let Some(position) = position {
            self.methods[position].in_flight += 1;
        }
        self.begun += 1;
        let running = Rc::new(Running {
            number: self.begun,
            key,
            name: name.into(),
            peer: text(cut(session.address().as_bytes(), ADDRESS_MAX)).into(),
            began,
            is_notification,
            position: Cell::new(position),
        });
        self.running.insert(running.number, running.clone());
        running
    }

    pub(super) fn forget(&mut self, running: &Running) {
        self.running.remove(&running.number);
        if let Some(position) = running.position.get() {
            self.methods[position].in_flight -= 1;
        }
    }

    pub(super) fn end(&mut self, running: &Running, failed: Option<Failed>, now: Instant) {
        self.forget(running);
        let duration = now.saturating_since(running.began);
        let is_missing = failed.as_ref().is_some_and(|failed| failed.no_method);
        let position = match running.position.get() {
            // A program may have removed the function since its last call.
            Some(position) => position,
            None if is_missing => self.position_of_others(),
            None => self.position(running),
        };
        let method = &mut self.methods[position];
        method.calls += 1;
        method.errors += u64::from(failed.is_some());
        method.total += duration;
        method.max = method.max.max(duration);
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // It resizes itself, so every value has room.
        let _ = method.times.record(ns);
        let error = failed.map(|failed| failed.error);
        self.show(running, duration, error, now);
    }

    /// Adds a request that has ended to the lists that want it.
    fn show(
        &mut self,
        running: &Running,
        duration: Duration,
        error: Option<Box<str>>,
        now: Instant,
    ) {
        if self.slowest.len() >= SLOWEST_MAX {
            self.forget_old(now);
        }
        let full = self.slowest.len() >= SLOWEST_MAX;
        let is_slow = !full
            || self
                .slowest
                .last()
                .is_some_and(|last| last.duration < duration);
        let wanted = || {
            let name = String::from_utf8_lossy(&running.name);
            self.traces.want(&name, duration, error.as_deref())
        };
        if !is_slow && !wanted() {
            return;
        }
        let mut call = self.describe(running, duration);
        call.error = error;
        self.traces.add(&call, now);
        if is_slow {
            self.slowest.truncate(SLOWEST_MAX - 1);
            let slower = |other: &ServedCall| other.duration >= duration;
            let index = self.slowest.partition_point(slower);
            self.slowest.insert(index, call);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let is_recent = |call: &ServedCall| {
            let ended = call.began.saturating_add(call.duration);
            now.saturating_since(ended) <= SLOWEST_AGE
        };
        self.slowest.retain(is_recent);
    }

    fn describe(&mut self, running: &Running, duration: Duration) -> ServedCall {
        ServedCall {
            method: text(&running.name).into(),
            peer: running.peer.clone(),
            listener: self.listener(running.key),
            began: running.began,
            duration,
            error: None,
            is_notification: running.is_notification,
        }
    }

    fn listener(&mut self, key: usize) -> Option<Arc<str>> {
        if key == OPENED {
            return None;
        }
        let find = || {
            let address = crate::inspect::listener_address(key)?;
            Some(text(cut(address.as_bytes(), ADDRESS_MAX)).into())
        };
        self.listeners.entry(key).or_insert_with(find).clone()
    }

    /// The position of a method that exists, which is added if there is room.
    fn position(&mut self, running: &Running) -> usize {
        // Another request of it may have added it since this one began.
        let names = self.positions.entry(running.key).or_default();
        if let Some(position) = names.get(&running.name) {
            return *position;
        }
        if self.methods.len() >= METHODS_MAX {
            return self.position_of_others();
        }
        let position = self.methods.len();
        names.insert(running.name.clone(), position);
        let listener = self.listener(running.key);
        let mut added = method(&text(&running.name), listener.as_deref());
        for other in self.running.values() {
            if (other.key, &other.name) == (running.key, &running.name) {
                other.position.set(Some(position));
                added.in_flight += 1;
            }
        }
        self.methods.push(added);
        position
    }

    fn position_of_others(&mut self) -> usize {
        *self.others.get_or_insert_with(|| {
            self.methods.push(method(OTHERS, None));
            self.methods.len() - 1
        })
    }

    pub(super) fn forget_listener(&mut self, key: usize) {
        self.listeners.remove(&key);
        self.positions.remove(&key);
    }

    pub(super) fn methods(&self, from: usize, max: usize) -> Vec<MethodStats> {
        self.methods.iter().skip(from).take(max).cloned().collect()
    }

    pub(super) fn slowest(&mut self, now: Instant) -> Vec<ServedCall> {
        self.forget_old(now);
        self.slowest.clone()
    }

    pub(super) fn running(&mut self, now: Instant, max: usize) -> RunningCalls {
        let some: Vec<_> = self.running.values().take(max).cloned().collect();
        let describe =
            |running: Rc<Running>| self.describe(&running, now.saturating_since(running.began));
        let mut oldest: Vec<ServedCall> = some.into_iter().map(describe).collect();
        oldest.sort_by_key(|call| Reverse(call.duration));
        RunningCalls {
            count: self.running.len(),
            oldest,
        }
    }
}

//! The method `wait_graph`: what each waiting fiber waits for, as edges of a graph.
//!
//! ```text
//!   for each loop:   calls that wait ─▶ fibers, by pages ─▶ Lua's description of some ─▶ these fibers again
//! ```
//!
//! The order matters. The last look at a fiber tells how long it has been waiting. If that is longer than the
//! collection took, the fiber was in the same wait at its beginning, and so were its calls and the holders that were
//! read in between. A deadlock of such waits exists: all of them have existed at one time. [`super::graph`] uses no
//! others.

use super::ask::ask;
use super::fibers::{PAGES_AT_ONCE, loops_from};
use super::graph::{Serves, Wait, Waits};
use super::{TEXT_MAX, cut};
use serde::Deserialize;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use yue_rpc::inspect::{self, ServedRequest, WaitingCall};
use yue_scheduler::inspect::{FiberInfo, FiberState};
use yue_scheduler::{FiberId, LoopHandle, now, this_loop};

/// Fibers in an answer.
const FIBERS_MAX: usize = 4000;

/// Connections whose calls a loop lists at once, and calls in an answer.
const CONNECTIONS_AT_ONCE: usize = 200;
const CALLS_MAX: usize = 20_000;

/// Fibers that Lua describes at once: 0.2 ms.
#[cfg(feature = "lua")]
const DESCRIBED_AT_ONCE: usize = 16;

/// The reasons of waits that a known fiber or call ends.
const REASONS: [&str; 5] = [
    "a future",
    "any of some futures",
    "a mutex",
    "a semaphore",
    "the answer of a remote call",
];

thread_local! {
    /// The number of collections so far. Only the endpoint's thread makes any.
    static COLLECTIONS: Cell<u32> = const { Cell::new(0) };
}

/// The arguments of `wait_graph`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// Only this loop.
    #[serde(rename = "loop")]
    number: Option<u32>,
}

pub(super) fn wait_graph(query: &Query) -> Waits {
    let (answering, silent) = loops_from(super::fibers::Offset::default(), query.number);
    let mut waits = Waits {
        blocked: silent.iter().map(|one| one.handle.id()).collect(),
        ..Waits::default()
    };
    let number = COLLECTIONS.get().wrapping_add(1);
    COLLECTIONS.set(number);
    for one in &answering {
        let mut collection = Collection {
            handle: &one.handle,
            number,
            waits: &mut waits,
            calls: HashMap::new(),
            described: HashMap::new(),
        };
        if collection.run().is_none() {
            waits.blocked.push(one.handle.id());
        }
    }
    waits
}

/// A wait as Lua describes it.
#[derive(Debug, Default)]
struct Description {
    kind: String,
    open: bool,
    text: String,
    fibers: Vec<FiberId>,
    calls: Vec<String>,
    method: String,
    place: String,
    work: String,
}

/// A fiber at the last look.
struct Look {
    info: FiberInfo,
    serves: Option<ServedRequest>,
    left_seconds: Option<f64>,
}

/// The collection of one loop.
struct Collection<'a> {
    handle: &'a LoopHandle,
    /// Its number among all.
    #[cfg_attr(not(feature = "lua"), allow(dead_code))]
    number: u32,
    waits: &'a mut Waits,
    /// The calls that fibers wait for.
    calls: HashMap<FiberId, WaitingCall>,
    described: HashMap<FiberId, Description>,
}

impl Collection<'_> {
    /// `None` if the loop does not answer.
    fn run(&mut self) -> Option<()> {
        let asynchronous = self.collect_calls()?;
        let first = self.interesting_fibers()?;
        self.describe(&first)?;
        // The fibers that others wait for, so that the end of each chain has a place.
        let known: HashSet<FiberId> = first.iter().copied().collect();
        let targets = self.described.values().flat_map(|one| &one.fibers);
        let targets: HashSet<FiberId> = targets.copied().filter(|id| !known.contains(id)).collect();
        let targets: Vec<FiberId> = targets.into_iter().collect();
        self.describe(&targets)?;
        let all: Vec<FiberId> = first.into_iter().chain(targets).collect();
        self.look(&all, &asynchronous)
    }

    /// Returns the seconds that the asynchronous calls have left, by their keys.
    fn collect_calls(&mut self) -> Option<HashMap<String, f64>> {
        let mut asynchronous = HashMap::new();
        let (mut after, mut count) = (0, 0);
        loop {
            let (calls, next) = ask(self.handle, move || {
                inspect::waiting_calls(after, CONNECTIONS_AT_ONCE)
            })
            .ok()?;
            count += calls.len();
            for call in calls {
                match (call.fiber, call.until) {
                    (Some(fiber), _) => drop(self.calls.insert(fiber, call)),
                    (None, Some(until)) => {
                        let left = until.saturating_since(now()).as_secs_f64();
                        asynchronous.insert(key_of(&call), left);
                    }
                    (None, None) => {}
                }
            }
            if count > CALLS_MAX {
                self.waits.cut = true;
                return Some(asynchronous);
            }
            match next {
                Some(next) => after = next,
                None => return Some(asynchronous),
            }
        }
    }

    /// The fibers that wait for something that a fiber or a call ends, and those that serve requests.
    fn interesting_fibers(&mut self) -> Option<Vec<FiberId>> {
        let mut found = Vec::new();
        let mut pages = 0..PAGES_AT_ONCE;
        loop {
            let range = pages.clone();
            let list = move || {
                let (fibers, more) = this_loop::fibers_of_pages(range);
                let wanted = fibers.iter().filter(|fiber| is_interesting(fiber));
                (wanted.map(|fiber| fiber.id).collect::<Vec<_>>(), more)
            };
            let (some, more) = ask(self.handle, list).ok()?;
            let room = FIBERS_MAX.saturating_sub(self.waits.fibers.len() + found.len());
            if some.len() > room {
                self.waits.cut = true;
                found.extend_from_slice(&some[..room]);
                return Some(found);
            }
            found.extend(some);
            if !more {
                return Some(found);
            }
            pages = pages.end..pages.end + PAGES_AT_ONCE;
        }
    }

    #[cfg(not(feature = "lua"))]
    fn describe(&mut self, _fibers: &[FiberId]) -> Option<()> {
        Some(())
    }

    /// Lets Lua describe the waits of the fibers.
    #[cfg(feature = "lua")]
    fn describe(&mut self, fibers: &[FiberId]) -> Option<()> {
        let collection = self.number;
        for some in fibers.chunks(DESCRIBED_AT_ONCE) {
            let some = some.to_vec();
            let (sender, receiver) = yue_scheduler::sync::oneshot();
            let answer = move |text: Option<String>| drop(sender.send(text));
            ask(self.handle, move || {
                crate::lua::describe_waits(collection, &some, answer)
            })
            .ok()?;
            let until = yue_scheduler::deadline_after(super::ask::PATIENCE);
            let text = yue_scheduler::with_deadline(until, || receiver.recv()).ok()?;
            // Without one the loop runs no Lua.
            let Some(text) = text else { return Some(()) };
            let loop_id = self.handle.id();
            let lines = text
                .split('\u{1e}')
                .filter_map(|line| Description::parse(line, loop_id));
            self.described.extend(lines);
        }
        Some(())
    }

    /// The last look at the fibers.
    fn look(&mut self, fibers: &[FiberId], asynchronous: &HashMap<String, f64>) -> Option<()> {
        let wanted: HashSet<FiberId> = fibers.iter().copied().collect();
        let mut pages = 0..PAGES_AT_ONCE;
        loop {
            let (range, wanted) = (pages.clone(), wanted.clone());
            let look = move || {
                let (fibers, more) = this_loop::fibers_of_pages(range);
                let time = now();
                let looks = fibers
                    .into_iter()
                    .filter(|fiber| wanted.contains(&fiber.id));
                let looks = looks.map(|info| Look {
                    serves: inspect::served_by(info.id),
                    left_seconds: info
                        .wait_until
                        .map(|at| at.saturating_since(time).as_secs_f64()),
                    info,
                });
                (looks.collect::<Vec<_>>(), more)
            };
            let (looks, more) = ask(self.handle, look).ok()?;
            for look in looks {
                let wait = self.wait_of(look, asynchronous);
                self.waits.fibers.push(wait);
            }
            if !more {
                return Some(());
            }
            pages = pages.end..pages.end + PAGES_AT_ONCE;
        }
    }

    fn wait_of(&mut self, look: Look, asynchronous: &HashMap<String, f64>) -> Wait {
        let info = look.info;
        let told = self.described.remove(&info.id).unwrap_or_default();
        let parked = info.state == FiberState::Parked;
        let call = self.calls.get(&info.id).filter(|_| parked);
        let is_call = info.reason == "the answer of a remote call";
        let mut calls = told.calls;
        let left = calls
            .iter()
            .filter_map(|key| asynchronous.get(key).copied());
        // A wait for any of several calls ends with the first of them.
        let left_seconds = left.chain(look.left_seconds).min_by(f64::total_cmp);
        let (mut open, mut kind) = (told.open, told.kind);
        if is_call {
            calls.extend(call.filter(|call| call.link != 0).map(key_of));
            "call".clone_into(&mut kind);
            open = false;
        } else if kind.is_empty() {
            "other".clone_into(&mut kind);
            open = true;
        }
        let waits_for = match (told.text.is_empty(), info.reason) {
            (true, reason) => reason.to_owned(),
            (false, _) => told.text,
        };
        Wait {
            loop_id: info.loop_id,
            fiber: info.id.to_string(),
            name: info.name.as_deref().map(|name| cut(name, TEXT_MAX)),
            place: match told.place.is_empty() {
                true => cut(info.origin.as_deref().unwrap_or_default(), TEXT_MAX),
                false => told.place,
            },
            waits: parked,
            seconds: info.duration.as_secs_f64(),
            left_seconds: left_seconds.filter(|_| parked),
            kind,
            waits_for,
            open,
            fibers: told.fibers.iter().map(FiberId::to_string).collect(),
            calls,
            method: told.method,
            address: call.map(|call| cut(&call.address, TEXT_MAX)),
            serves: look.serves.map(|request| Serves {
                call: request
                    .msgid
                    .filter(|_| request.link != 0)
                    // The peer calls from the other end.
                    .map(|msgid| super::call_key(request.link, !request.is_opened, msgid)),
                handler: told.work,
                chain: request.chain.map(|chain| chain.to_string()),
                address: cut(&request.address, TEXT_MAX),
            }),
        }
    }
}

fn is_interesting(fiber: &FiberInfo) -> bool {
    let waits = fiber.state == FiberState::Parked;
    waits && (REASONS.contains(&fiber.reason) || inspect::served_by(fiber.id).is_some())
}

fn key_of(call: &WaitingCall) -> String {
    super::call_key(call.link, call.is_opened, call.msgid)
}

#[cfg(feature = "lua")]
impl Description {
    /// Parses a line of `internal.describe_waits` (`../../lua/wait_graph.lua`).
    fn parse(line: &str, loop_id: u32) -> Option<(FiberId, Description)> {
        let fiber = |text: &str| {
            let number: f64 = text.parse().ok()?;
            Some(crate::lua::fiber_of_number(number, loop_id))
        };
        let list = |text: &str| -> Vec<String> {
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        let fields: Vec<&str> = line.split('\u{1f}').collect();
        let [id, kind, open, text, fibers, calls, method, place, work] = fields[..] else {
            return None;
        };
        let description = Description {
            kind: kind.to_owned(),
            open: open == "open",
            text: text.to_owned(),
            fibers: list(fibers).iter().filter_map(|text| fiber(text)).collect(),
            calls: list(calls),
            method: method.to_owned(),
            place: place.to_owned(),
            work: work.to_owned(),
        };
        Some((fiber(id)?, description))
    }
}

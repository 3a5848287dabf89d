//! The method `waits`: all fibers, in groups of the same state, wait and origin.

use super::ask::ask;
use super::fibers::{Offset, PAGES_AT_ONCE, loops_from};
use super::{TEXT_MAX, cut};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::panic::Location;
use std::time::Duration;
use yue_scheduler::inspect::{FiberInfo, FiberState, LoopInfo};
use yue_scheduler::this_loop;

/// Groups in an answer: those with the longest waits.
const GROUPS_MAX: usize = 200;

/// Groups that are distinguished while the fibers are counted. Further ones are counted together.
const GROUPS_COUNTED_MAX: usize = 10_000;

/// The arguments of `waits`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// Only this loop.
    #[serde(rename = "loop")]
    number: Option<u32>,
}

/// The answer of `waits`.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    groups: Vec<Line>,
    /// The number of fibers in groups that are left out.
    others: u64,
    /// The loops that do not answer, whose fibers are missing.
    blocked: Vec<u32>,
}

/// One group.
#[derive(Debug, Serialize)]
struct Line {
    state: String,
    /// The reason of their wait, if they wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<&'static str>,
    spawned_at: String,
    /// The function that they run, if the place of the spawn does not show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    count: u64,
    longest_seconds: f64,
    /// The fiber that has waited longest.
    #[serde(rename = "loop")]
    loop_id: u32,
    fiber: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    state: FiberState,
    waits_for: Option<&'static str>,
    location: &'static Location<'static>,
    origin: Option<Box<str>>,
}

struct Group {
    count: u64,
    longest: FiberInfo,
}

#[derive(Default)]
struct Groups {
    by_key: HashMap<Key, Group>,
    others: u64,
}

impl Groups {
    fn add(&mut self, mut fiber: FiberInfo) {
        let key = Key {
            state: fiber.state,
            waits_for: (fiber.state == FiberState::Parked).then_some(fiber.reason),
            location: fiber.location,
            origin: fiber.origin.take(),
        };
        if let Some(group) = self.by_key.get_mut(&key) {
            group.count += 1;
            if fiber.duration > group.longest.duration {
                group.longest = fiber;
            }
        } else if self.by_key.len() < GROUPS_COUNTED_MAX {
            let group = Group {
                count: 1,
                longest: fiber,
            };
            self.by_key.insert(key, group);
        } else {
            self.others += 1;
        }
    }

    /// Adds all fibers of a loop. Returns whether it has answered to the end.
    fn add_loop(&mut self, one: &LoopInfo) -> bool {
        let mut pages = 0..PAGES_AT_ONCE;
        loop {
            let range = pages.clone();
            let Ok((fibers, more)) = ask(&one.handle, || this_loop::fibers_of_pages(range)) else {
                return false;
            };
            fibers.into_iter().for_each(|fiber| self.add(fiber));
            if !more {
                return true;
            }
            pages = pages.end..pages.end + PAGES_AT_ONCE;
        }
    }

    fn into_lines(self) -> (Vec<Line>, u64) {
        let mut groups: Vec<(Key, Group)> = self.by_key.into_iter().collect();
        groups.sort_by_key(|(_, group)| Reverse((group.longest.duration, group.count)));
        let left_out = groups.split_off(groups.len().min(GROUPS_MAX));
        let others: u64 = left_out.iter().map(|(_, group)| group.count).sum();
        let lines = groups.into_iter().map(Line::of).collect();
        (lines, self.others + others)
    }
}

impl Line {
    fn of((key, group): (Key, Group)) -> Line {
        let Group { count, longest } = group;
        let seconds = |duration: Duration| duration.as_secs_f64();
        Line {
            state: key.state.to_string(),
            waits_for: key.waits_for,
            spawned_at: cut(&key.location.to_string(), TEXT_MAX),
            origin: key.origin.map(|origin| cut(&origin, TEXT_MAX)),
            count,
            longest_seconds: seconds(longest.duration),
            loop_id: longest.loop_id,
            fiber: longest.id.to_string(),
            name: longest.name.map(|name| cut(&name, TEXT_MAX)),
        }
    }
}

pub(super) fn waits(query: &Query) -> Answer {
    let (answering, silent) = loops_from(Offset::default(), query.number);
    let mut groups = Groups::default();
    let mut blocked: Vec<u32> = silent.iter().map(|one| one.handle.id()).collect();
    for one in &answering {
        if !groups.add_loop(one) {
            blocked.push(one.handle.id());
        }
    }
    let (groups, others) = groups.into_lines();
    Answer {
        groups,
        others,
        blocked,
    }
}

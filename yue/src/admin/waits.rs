//! The method `waits`: all fibers, in groups of the same state, wait and origin. The groups of the program's own fibers
//! come first; yue's own, such as that of a listener, mostly wait longer.

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

/// Groups in an answer: the program's before yue's own, and among these those with the longest waits.
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
        groups.sort_by_key(|(key, group)| {
            let longest = &group.longest;
            (
                is_of_yue(key, longest),
                Reverse((longest.duration, group.count)),
            )
        });
        let left_out = groups.split_off(groups.len().min(GROUPS_MAX));
        let others: u64 = left_out.iter().map(|(_, group)| group.count).sum();
        let lines = groups.into_iter().map(Line::of).collect();
        (lines, self.others + others)
    }
}

/// Fibers of yue that run the program's code, by the beginnings of their names, with the waits in which they do not.
const CARRIERS: [(&str, &[&str]); 4] = [
    (
        "main",
        &[
            "the end of the program",
            "the end of the runtime",
            "shutdown",
        ],
    ),
    ("rpc worker", &["a request to serve"]),
    ("http connection", &["an HTTP client"]),
    ("rpc on_", &[]),
];

/// Whether a fiber runs nothing of the program at present. `key` has its origin.
fn is_of_yue(key: &Key, fiber: &FiberInfo) -> bool {
    if key.origin.is_some() || !is_source_of_yue(fiber.location.file(), file!()) {
        return false;
    }
    let name = fiber.name.as_deref().unwrap_or_default();
    let carrier = CARRIERS.iter().find(|(begin, _)| name.starts_with(begin));
    carrier
        .is_none_or(|(_, idle)| fiber.state == FiberState::Parked && idle.contains(&fiber.reason))
}

/// Whether `file` belongs to one of yue's crates. `this` is a file of this crate: `yue/src/…` in the workspace,
/// `…/yue-0.1.0/src/…` elsewhere, and the other crates lie beside it.
fn is_source_of_yue(file: &str, this: &str) -> bool {
    // The folder of the crates, and that of the crate.
    fn parts(file: &str) -> Option<(&str, &str)> {
        let (package, _) = file.rsplit_once("/src/")?;
        Some(package.rsplit_once('/').unwrap_or(("", package)))
    }
    let (Some((place, package)), Some((here, _))) = (parts(file), parts(this)) else {
        return false;
    };
    let version = concat!("-", env!("CARGO_PKG_VERSION"));
    let package = package.strip_suffix(version).unwrap_or(package);
    let package = package.strip_prefix("yue-").unwrap_or(package);
    let packages = ["yue", "rpc", "scheduler", "io", "luajit", "luajit-bind"];
    place == here && packages.contains(&package)
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

#[cfg(test)]
mod tests {
    use super::is_source_of_yue;

    #[test]
    fn the_sources_of_yue_are_told_from_those_of_programs() {
        let version = env!("CARGO_PKG_VERSION");
        let registry = "/home/frodo/.cargo/registry/src/index-1";
        let this = format!("{registry}/yue-{version}/src/admin/waits.rs");
        for package in ["yue", "yue-rpc", "yue-scheduler", "yue-io", "yue-luajit"] {
            let file = format!("{registry}/{package}-{version}/src/session/worker.rs");
            assert!(is_source_of_yue(&file, &this), "{file}");
        }
        for file in ["rpc/src/listener.rs", "yue/src/lua/program/run.rs", file!()] {
            assert!(is_source_of_yue(file, "yue/src/admin/waits.rs"), "{file}");
            assert!(!is_source_of_yue(file, &this), "{file}");
        }
        let other = format!("{registry}/hyper-{version}/src/lib.rs");
        for file in ["src/main.rs", "game/src/io/main.rs", "main.rs", "", &other] {
            assert!(!is_source_of_yue(file, &this), "{file}");
            assert!(!is_source_of_yue(file, "yue/src/admin/waits.rs"), "{file}");
        }
    }
}

//! The method `fibers`: a page of the fibers of all loops, and what was found on the loops that do not answer.
//!
//! A place in the list is a loop and a slot of its table. A fiber keeps its slot, so a list that is made page by page
//! has each fiber that lived all the time once, and a page is found without passing over those before it.

use super::ask::{ask, by_answer, loops};
use super::{TEXT_MAX, cut};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;
use yue_rpc::{ErrorKind, Failure};
use yue_scheduler::inspect::{Backtrace, FiberInfo, FiberState, HeldLoop, LoopInfo};
use yue_scheduler::{FiberId, LoopHandle, Priority, this_loop};

/// Fibers on a page, unless the request says otherwise, and at most. With stacks a page has fewer.
const LIMIT: usize = 500;
const LIMIT_MAX: usize = 2000;
const LIMIT_WITH_STACKS: usize = 50;

/// Pages of a loop's table that it lists at once: 20 us, and for waiting Lua fibers up to 0.5 ms.
pub(super) const PAGES_AT_ONCE: usize = 4;

/// Stacks that a loop copies at once; up to 64 KiB each, though most have a few.
const STACKS_AT_ONCE: usize = 8;

/// Loops that do not answer whose threads are looked at. Each may take a quarter of a second.
const LOOKS_MAX: usize = 8;

/// Bytes of a stack that are shown.
const STACK_TEXT_MAX: usize = 8 << 10;

/// The arguments of `fibers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// Only this loop.
    #[serde(rename = "loop")]
    number: Option<u32>,
    /// The `next` of the previous page.
    offset: Option<String>,
    limit: Option<usize>,
    /// With the stacks: Lua's, or where there is none the native one.
    stacks: Option<bool>,
    /// With the native stack of each.
    native: Option<bool>,
}

/// The answer of `fibers`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Page {
    fibers: Vec<Line>,
    /// The offset of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The number of fibers of all loops, by their own counts.
    total: usize,
    /// The loops that do not answer, whose fibers are missing.
    blocked: Vec<Blocked>,
}

/// One fiber.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(rename = "loop")]
    loop_id: u32,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    state: String,
    /// The reason of its wait, if it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<&'static str>,
    /// The time that it has been waiting, or has been able to run.
    seconds: f64,
    spawned_at: String,
    /// The function that it runs, if the place of the spawn does not show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    switches: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_seconds: Option<f64>,
    cancelled: bool,
    shielded: bool,
    priority: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<String>,
    #[serde(skip)]
    fiber: FiberId,
}

impl Line {
    fn of(info: &FiberInfo) -> Line {
        Line {
            loop_id: info.loop_id,
            id: info.id.to_string(),
            name: info.name.as_deref().map(|name| cut(name, TEXT_MAX)),
            state: info.state.to_string(),
            waits_for: (info.state == FiberState::Parked).then_some(info.reason),
            seconds: info.duration.as_secs_f64(),
            spawned_at: cut(&info.location.to_string(), TEXT_MAX),
            origin: info.origin.as_deref().map(|origin| cut(origin, TEXT_MAX)),
            switches: info.switches,
            run_seconds: info.run_time.map(|time| time.as_secs_f64()),
            cancelled: info.cancelled,
            shielded: info.shielded,
            priority: match info.priority {
                Priority::High => "high",
                Priority::Normal => "normal",
                Priority::Low => "low",
            },
            stack: None,
            fiber: info.id,
        }
    }
}

/// A loop that does not answer.
#[derive(Debug, Serialize)]
pub(super) struct Blocked {
    #[serde(rename = "loop")]
    loop_id: u32,
    thread: String,
    /// The time that one fiber or callback has held it. Missing if nothing runs on it: it begins or ends, or the
    /// program does not tick it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// The fiber that runs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fiber: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<String>,
}

impl Blocked {
    /// Describes the loop. `looks`: looks at its thread, by a signal (see [`HeldLoop`]).
    fn of(info: &LoopInfo, looks: bool) -> Blocked {
        let duration = info.working_for.unwrap_or(Duration::ZERO);
        let held = looks
            .then(|| HeldLoop::of(&info.handle, duration))
            .flatten();
        let stack = held
            .as_ref()
            .map(|held| match (&held.note, &held.backtrace) {
                (Some(note), _) => note.clone(),
                (None, Ok(calls)) => calls.to_string(),
                (None, Err(why)) => format!("no stack: {why}"),
            });
        Blocked {
            loop_id: info.handle.id(),
            thread: cut(&info.thread, TEXT_MAX),
            seconds: info.working_for.map(|duration| duration.as_secs_f64()),
            fiber: held.as_ref().and_then(|held| Some(held.fiber?.to_string())),
            name: held.and_then(|held| held.name),
            stack: stack.map(|text| cut(text.trim_end(), STACK_TEXT_MAX)),
        }
    }
}

/// A place in a list that goes over all loops: `loop:position`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Offset {
    pub(super) loop_id: u32,
    pub(super) position: u64,
}

impl Offset {
    /// Parses the offset of a request; the beginning if there is none.
    pub(super) fn of(text: Option<&str>) -> Result<Offset, Failure> {
        match text {
            None => Ok(Offset::default()),
            Some(text) => text.parse(),
        }
    }

    /// The position at which the part of that loop begins.
    pub(super) fn position_in(self, loop_id: u32) -> u64 {
        if loop_id == self.loop_id {
            self.position
        } else {
            0
        }
    }
}

impl FromStr for Offset {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Offset, Failure> {
        let parse = || {
            let (loop_id, position) = text.split_once(':')?;
            Some(Offset {
                loop_id: loop_id.parse().ok()?,
                position: position.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            let text = "an offset is the `next` of the page before";
            Failure::of_kind(ErrorKind::Argument, text)
        })
    }
}

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.loop_id, self.position)
    }
}

/// The program's loops from that place on, or only one of them: those that answer, and the others.
pub(super) fn loops_from(offset: Offset, only: Option<u32>) -> (Vec<LoopInfo>, Vec<LoopInfo>) {
    let mut all = loops();
    all.retain(|one| {
        let id = one.handle.id();
        id >= offset.loop_id && only.is_none_or(|only| only == id)
    });
    by_answer(all)
}

pub(super) fn fibers(query: &Query) -> Result<Page, Failure> {
    let native = query.native == Some(true);
    let stacks = native || query.stacks == Some(true);
    let most = if stacks { LIMIT_WITH_STACKS } else { LIMIT_MAX };
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, most);
    let offset = Offset::of(query.offset.as_deref())?;
    let (answering, silent) = loops_from(offset, query.number);
    let mut page = Page {
        total: loops().iter().map(|one| one.counters.fibers).sum(),
        ..Page::default()
    };
    for one in &answering {
        match list(
            &one.handle,
            offset.position_in(one.handle.id()),
            limit,
            &mut page,
        ) {
            Ok(None) => {}
            Ok(next) => {
                page.next = next.map(|next| next.to_string());
                break;
            }
            Err(()) => page.blocked.push(Blocked::of(one, false)),
        }
    }
    if stacks {
        add_stacks(&answering, &mut page.fibers, native);
    }
    let silent = silent.iter().enumerate();
    page.blocked
        .extend(silent.map(|(index, one)| Blocked::of(one, index < LOOKS_MAX)));
    Ok(page)
}

/// Adds the fibers of a loop from that slot on. Returns the place at which the next page begins, if this one is full.
fn list(
    handle: &LoopHandle,
    slot: u64,
    limit: usize,
    page: &mut Page,
) -> Result<Option<Offset>, ()> {
    let slots = this_loop::PAGE_SLOTS as u64;
    let mut pages = (slot / slots) as usize;
    loop {
        let wanted = (limit - page.fibers.len()) / this_loop::PAGE_SLOTS + 1;
        let range = pages..pages.saturating_add(wanted.min(PAGES_AT_ONCE));
        pages = range.end;
        let asked = ask(handle, move || this_loop::fibers_of_pages(range));
        let (listed, more) = asked.map_err(drop)?;
        for info in listed.iter().filter(|info| slot_of(info) >= slot) {
            if page.fibers.len() == limit {
                return Ok(Some(Offset {
                    loop_id: handle.id(),
                    position: slot_of(info),
                }));
            }
            page.fibers.push(Line::of(info));
        }
        if !more {
            return Ok(None);
        }
    }
}

fn slot_of(info: &FiberInfo) -> u64 {
    u64::from(info.id.to_bits() as u32)
}

/// Adds the stacks of the fibers: copied on their loops, walked and named here.
fn add_stacks(loops: &[LoopInfo], lines: &mut [Line], native: bool) {
    for one in loops {
        let id = one.handle.id();
        let mut own: Vec<&mut Line> = lines.iter_mut().filter(|line| line.loop_id == id).collect();
        for some in own.chunks_mut(STACKS_AT_ONCE) {
            let fibers: Vec<FiberId> = some.iter().map(|line| line.fiber).collect();
            let copy = move || {
                let each = fibers.into_iter().map(|fiber| {
                    let notes = this_loop::describe(fiber);
                    let wanted = native || notes.is_empty();
                    (
                        notes,
                        wanted.then(|| this_loop::copied_stack(fiber)).flatten(),
                    )
                });
                each.collect::<Vec<_>>()
            };
            let Ok(stacks) = ask(&one.handle, copy) else {
                break;
            };
            for (line, (notes, walk)) in some.iter_mut().zip(stacks) {
                line.stack = stack_text(&notes, walk.map(|walk| walk()));
            }
        }
    }
}

fn stack_text(notes: &[String], calls: Option<Backtrace>) -> Option<String> {
    let mut text = notes.join("\n");
    if let Some(calls) = calls {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{calls}", if text.is_empty() { "" } else { "\n" });
    }
    (!text.is_empty()).then(|| cut(text.trim_end(), STACK_TEXT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_read_back() {
        let offset = Offset {
            loop_id: 3,
            position: u64::MAX,
        };
        assert_eq!(offset.to_string().parse::<Offset>().ok(), Some(offset));
        assert_eq!(offset.position_in(3), u64::MAX);
        assert_eq!(offset.position_in(4), 0);
    }

    #[test]
    fn what_is_no_offset_is_refused() {
        for text in ["", "1", "1:", ":1", "1:-1", "1:2:3", "4294967296:1", "a:b"] {
            assert!(Offset::of(Some(text)).is_err(), "{text}");
        }
        assert_eq!(Offset::of(None).ok(), Some(Offset::default()));
    }
}

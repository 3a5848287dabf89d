//! Totals of all sessions of the process, as lines of [`metrics_text`](yue_scheduler::inspect::metrics_text).
//!
//! A session counts in its own counters (`options.rs`), which it shares with a list of all sessions. A reader sums
//! them, and adds the totals of the sessions that have ended. So counting adds no cost to a call. The list is locked
//! only when a session begins, when it ends, and for a reader.
//!
//! Invariant: a session is counted either in the list or in the totals of ended sessions, never in both, so no
//! sum ever falls.

use super::options::{Counters, Stats};
use super::state::phase::Role;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Deref;
use std::sync::{Arc, Mutex, Once};
use yue_scheduler::simulation::PerHost;

/// The sessions of one role.
struct Sessions {
    live: BTreeMap<usize, Arc<Counters>>,
    gone: Stats,
}

impl Sessions {
    const NONE: Sessions = Sessions {
        live: BTreeMap::new(),
        gone: Stats::NONE,
    };

    fn sum(&self) -> Stats {
        let live = self.live.values().map(|counters| counters.snapshot());
        live.fold(self.gone, Stats::plus)
    }
}

/// The sessions that were opened, and those that were accepted.
static ALL: PerHost<Mutex<[Sessions; 2]>> = PerHost::new(|| Mutex::new([Sessions::NONE; 2]));

fn with_all<R>(f: impl FnOnce(&mut [Sessions; 2]) -> R) -> R {
    f(&mut yue_scheduler::lock(&ALL.get()))
}

/// A session's counters, which stay in the list as long as it lives.
pub(super) struct Counted {
    counters: Arc<Counters>,
    role: Role,
}

impl Counted {
    pub(super) fn new(role: Role) -> Counted {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| yue_scheduler::inspect::add_metrics(write));
        let counters = Arc::new(Counters::default());
        let key = Arc::as_ptr(&counters) as usize;
        with_all(|all| all[role as usize].live.insert(key, counters.clone()));
        Counted { counters, role }
    }
}

impl Deref for Counted {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut left = self.counters.snapshot();
        // Dropping a session together with its link ends the link.
        left.links_ended = left.links;
        with_all(|all| {
            let sessions = &mut all[self.role as usize];
            sessions
                .live
                .remove(&(Arc::as_ptr(&self.counters) as usize));
            sessions.gone = sessions.gone.plus(left);
        });
    }
}

type Value = fn(&Stats) -> u64;

/// Name, help, and the counter.
const COUNTERS: &[(&str, &str, Value)] = &[
    ("links_total", "Links that came up.", |s| s.links),
    ("links_ended_total", "Links that ended.", |s| s.links_ended),
    ("calls_total", "Calls made.", |s| s.calls),
    (
        "calls_held_total",
        "Calls that had to wait for a link, or for its grant.",
        |s| s.calls_held,
    ),
    ("call_timeouts_total", "Calls that timed out.", |s| {
        s.timeouts
    }),
    (
        "call_errors_total",
        "Calls that the peer answered with an error.",
        |s| s.calls_failed,
    ),
    (
        "request_errors_total",
        "Requests and notifications of the peer that ended with an error.",
        |s| s.requests_failed,
    ),
    ("notifications_total", "Notifications queued.", |s| {
        s.notifications
    }),
    (
        "notifications_dropped_total",
        "Notifications dropped because too much was waiting to be sent.",
        |s| s.notifications_dropped,
    ),
    (
        "notifications_late_total",
        "Notifications that expired before there was room to send them.",
        |s| s.notifications_late,
    ),
    (
        "requests_total",
        "Requests and notifications of the peer that were started.",
        |s| s.requests,
    ),
    ("received_bytes_total", "Bytes read.", |s| s.bytes_in),
    (
        "datagrams_dropped_total",
        "Datagrams dropped: they held no whole message, or nothing was read at that time.",
        |s| s.datagrams_dropped,
    ),
    ("sent_bytes_total", "Bytes handed to the transport.", |s| {
        s.bytes_out
    }),
    ("writes_total", "Buffers handed to the transport.", |s| {
        s.writes
    }),
    (
        "reading_stopped_total",
        "The number of times reading stopped because too much input was waiting.",
        |s| s.reading_stopped,
    ),
    (
        "handshake_timeouts_total",
        "Handshakes that timed out.",
        |s| s.handshake_timeouts,
    ),
    (
        "stalls_total",
        "Links ended because the peer did not read.",
        |s| s.stalls,
    ),
    (
        "too_slow_total",
        "Links ended because the peer read its messages too slowly.",
        |s| s.too_slow,
    ),
    ("pings_total", "Pings sent after silence.", |s| s.pings),
    (
        "silences_total",
        "Links ended because the peer was silent and did not answer a ping.",
        |s| s.silences,
    ),
    (
        "memory_stopped_total",
        "The number of times reading stopped because the connections of a listener held too much memory.",
        |s| s.memory_stopped,
    ),
];

/// Refusals, by reason.
const REFUSED: [(&str, Value); 12] = [
    ("connections", |s| s.refused_connections),
    ("handlers", |s| s.refused_handlers),
    ("ungranted", |s| s.refused_ungranted),
    ("unfinished", |s| s.refused_unfinished),
    ("pending_input", |s| s.refused_pending_input),
    ("in_flight", |s| s.refused_in_flight),
    ("too_large", |s| s.refused_too_large),
    ("malformed", |s| s.refused_malformed),
    ("calls", |s| s.refused_calls),
    ("held", |s| s.refused_held),
    ("references", |s| s.refused_references),
    ("rate", |s| s.refused_rate),
];

/// The sums over all sessions of the process, ended ones included.
pub(crate) fn totals() -> Stats {
    let sums = with_all(|all| all.each_ref().map(Sessions::sum));
    sums.into_iter().fold(Stats::NONE, Stats::plus)
}

fn write(out: &mut String) {
    let (live, sums) = with_all(|all| {
        let live = all.each_ref().map(|sessions| sessions.live.len() as u64);
        (live, all.each_ref().map(Sessions::sum))
    });
    family(
        out,
        "sessions",
        "gauge",
        "Connections that a program holds.",
    );
    each(out, "sessions", "", |role| live[role]);
    family(out, "links", "gauge", "Links that are up.");
    each(out, "links", "", |role| {
        sums[role].links - sums[role].links_ended
    });
    for (name, help, value) in COUNTERS {
        family(out, name, "counter", help);
        each(out, name, "", |role| value(&sums[role]));
    }
    let name = "refused_total";
    let help = "Calls, requests, messages and connections that a limit refused, by limit.";
    family(out, name, "counter", help);
    for (reason, value) in REFUSED {
        let label = format!(",limit=\"{reason}\"");
        each(out, name, &label, |role| value(&sums[role]));
    }
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP yue_rpc_{name} {help}");
    let _ = writeln!(out, "# TYPE yue_rpc_{name} {kind}");
}

/// One line for each role.
fn each(out: &mut String, name: &str, labels: &str, value: impl Fn(usize) -> u64) {
    for (label, role) in [("opened", Role::Opened), ("accepted", Role::Accepted)] {
        let value = value(role as usize);
        let _ = writeln!(out, "yue_rpc_{name}{{role=\"{label}\"{labels}}} {value}");
    }
}

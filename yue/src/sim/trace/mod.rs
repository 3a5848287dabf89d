//! The trace of a run for readers: as text, and as a timeline.
//!
//! ```text
//!   Report: records of the network, marks (faults, notes, the failure)
//!        │
//!        ├──▶ text.rs       a line for each, repeats elided
//!        └──▶ timeline/     a page with a drawing
//! ```

mod text;
mod timeline;

pub(super) use text::text;
pub(super) use timeline::timeline;

use super::recorder::Mark;
use super::{Happened, Record, Report};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use yue_scheduler::Instant;

/// An entry of the trace: a record of the network, or a mark.
#[derive(Debug, Clone, Copy)]
enum Entry<'a> {
    Record(&'a Record),
    Mark(&'a Mark),
}

/// Returns records and marks in the order in which they happened.
fn entries(report: &Report) -> Vec<Entry<'_>> {
    let mut all = Vec::with_capacity(report.trace.len() + report.marks.len());
    let mut marks = report.marks.iter().peekable();
    for (index, record) in report.trace.iter().enumerate() {
        while let Some(mark) = marks.next_if(|mark| mark.records <= index) {
            all.push(Entry::Mark(mark));
        }
        all.push(Entry::Record(record));
    }
    all.extend(marks.map(Entry::Mark));
    all
}

/// Facts about records that only other records tell.
struct Context {
    began: Instant,
    /// The port of the service, by connection.
    ports: HashMap<u64, u16>,
    /// The packets with bytes that were sent before.
    repeated: HashSet<u64>,
}

impl Context {
    fn new(report: &Report) -> Context {
        let mut context = Context {
            began: report.began,
            ports: HashMap::new(),
            repeated: HashSet::new(),
        };
        let mut retransmits = false;
        for record in &report.trace {
            if record.port != 0 && record.connection != 0 {
                context.ports.insert(record.connection, record.port);
            }
            match record.happened {
                Happened::Retransmitted => retransmits = true,
                // The record of a repetition is followed by that of its packet.
                Happened::SegmentSent if std::mem::take(&mut retransmits) => {
                    context.repeated.insert(record.packet);
                }
                _ => {}
            }
        }
        context
    }

    fn time(&self, at: Instant) -> Duration {
        at.saturating_since(self.began)
    }

    /// The protocol and the port of the service: `tcp 7000`.
    fn service(&self, record: &Record) -> String {
        let port = match record.connection {
            0 => Some(record.port),
            connection => self.ports.get(&connection).copied(),
        };
        match (record.connection, port) {
            (0, Some(0)) | (_, None) => "unix".to_owned(),
            (0, Some(port)) => format!("udp {port}"),
            (_, Some(port)) => format!("tcp {port}"),
        }
    }
}

/// The name of an error of the network.
fn error_name(error: i32) -> String {
    // Those that a simulated network has, by their numbers on Linux.
    match error {
        32 => "EPIPE".to_owned(),
        101 => "ENETUNREACH".to_owned(),
        103 => "ECONNABORTED".to_owned(),
        104 => "ECONNRESET".to_owned(),
        110 => "ETIMEDOUT".to_owned(),
        111 => "ECONNREFUSED".to_owned(),
        113 => "EHOSTUNREACH".to_owned(),
        other => format!("error {other}"),
    }
}

/// Whether a mark tells the same as this record, and better.
fn has_mark(happened: Happened) -> bool {
    matches!(
        happened,
        Happened::Crashed
            | Happened::Restarted
            | Happened::Frozen
            | Happened::Thawed
            | Happened::Partitioned
            | Happened::Healed
    )
}

/// Replaces characters that would break a line, or write to a terminal what nobody wants there.
fn one_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(clean).collect()
}

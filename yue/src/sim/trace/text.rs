//! The trace as text, a line for each entry, of at most 80 columns unless a note is longer.
//!
//! ```text
//!   time         hosts             connection, service   what
//!     1.203114s  customer -> bank  #1 tcp 7000           sent 31 B
//! ```
//!
//! A group of up to eight lines that repeats is shown once. The time and the sizes may differ, so that a poll every
//! second is one group, and not a page.

use super::{Context, Entry, entries, error_name, has_mark, one_line};
use crate::sim::recorder::{Mark, MarkKind, NO_HOST};
use crate::sim::{Happened, Record, Report};
use std::fmt::Write;
use std::time::Duration;

/// The longest group of lines whose repetitions are found.
const LONGEST_GROUP: usize = 8;

/// Longer names of hosts push their lines out of the columns.
const WIDEST_HOSTS: usize = 34;

struct Line {
    at: Duration,
    hosts: String,
    /// The rest, without sizes: lines of one group have the same.
    subject: String,
    bytes: Option<usize>,
    /// Marks are never elided.
    is_mark: bool,
}

/// Writes the last `most` lines of the trace.
pub(in crate::sim) fn text(report: &Report, most: usize) -> String {
    let context = Context::new(report);
    let lines: Vec<Line> = (entries(report).into_iter())
        .filter_map(|entry| match entry {
            Entry::Record(record) => record_line(report, &context, record),
            Entry::Mark(mark) => Some(mark_line(report, &context, mark)),
        })
        .collect();
    let widths = lines.iter().filter(|line| !line.is_mark);
    let widths = widths.map(|line| line.hosts.chars().count());
    let width = widths
        .filter(|width| *width <= WIDEST_HOSTS)
        .max()
        .unwrap_or(0);
    let shown = elide(&lines, width);
    let skipped = shown.len().saturating_sub(most);
    shown[skipped..].concat()
}

fn record_line(report: &Report, context: &Context, record: &Record) -> Option<Line> {
    let happened = record.happened;
    let again = context.repeated.contains(&record.packet);
    let what = match happened {
        Happened::ConnectStarted => "connects".to_owned(),
        Happened::Connected => "connected".to_owned(),
        Happened::ConnectFailed(error) => format!("cannot connect: {}", error_name(error)),
        Happened::Accepted => "accepted".to_owned(),
        Happened::SegmentSent | Happened::DatagramSent if again => "sent again".to_owned(),
        Happened::SegmentSent | Happened::DatagramSent => "sent".to_owned(),
        Happened::SegmentDelivered | Happened::DatagramDelivered => "arrived".to_owned(),
        Happened::SegmentLost | Happened::DatagramLost => "LOST".to_owned(),
        Happened::DatagramDuplicated => "duplicated".to_owned(),
        Happened::ResetSent => "resets".to_owned(),
        Happened::Broken(error) => format!("broken: {}", error_name(error)),
        Happened::Closed => "closes".to_owned(),
        Happened::Retransmitted => return None,
        _ if has_mark(happened) => return None,
        other => format!("{other:?}"),
    };
    let is_packet = record.packet != 0 || matches!(happened, Happened::SegmentDelivered);
    let is_lost = matches!(happened, Happened::SegmentLost | Happened::DatagramLost);
    // Handshakes, and acknowledgments of the end: the lines of their connection say the same.
    if is_packet && record.bytes == 0 && !is_lost && happened != Happened::ResetSent {
        return None;
    }
    let (from, to) = (report.host(record.from), report.host(record.to));
    let connection = match record.connection {
        0 => String::new(),
        number => format!("#{number} "),
    };
    let service = context.service(record);
    Some(Line {
        at: context.time(record.at),
        hosts: match record.from == record.to {
            true => from.to_owned(),
            false => format!("{from} -> {to}"),
        },
        subject: format!("{:<15} {what}", format!("{connection}{service}")),
        bytes: (is_packet && happened != Happened::ResetSent).then_some(record.bytes),
        is_mark: false,
    })
}

fn mark_line(report: &Report, context: &Context, mark: &Mark) -> Line {
    let text = one_line(&mark.text);
    let host = mark.hosts.first().copied().unwrap_or(NO_HOST);
    Line {
        at: context.time(mark.at),
        hosts: String::new(),
        subject: match mark.kind {
            MarkKind::Note => format!("{}: {text}", report.host(host)),
            MarkKind::Failure => format!("FAILED: {text}"),
            MarkKind::FaultBegins | MarkKind::FaultEnds | MarkKind::Instant => {
                format!("*** {text}")
            }
        },
        bytes: None,
        is_mark: true,
    }
}

/// Writes the lines, and a remark in place of repetitions.
fn elide(lines: &[Line], width: usize) -> Vec<String> {
    let mut shown = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let (length, times) = repetition(&lines[index..]);
        let group = &lines[index..index + length];
        shown.extend(group.iter().map(|line| write_line(line, width)));
        index += length;
        if times > 1 {
            let rest = &lines[index..index + length * (times - 1)];
            shown.push(write_repetition(rest, length, times - 1));
            index += rest.len();
        }
    }
    shown
}

/// Returns the length of the group that begins here, and how often it stands here. A single line is a group, too.
fn repetition(lines: &[Line]) -> (usize, usize) {
    let same = |one: &Line, other: &Line| {
        !one.is_mark && !other.is_mark && one.subject == other.subject && one.hosts == other.hosts
    };
    let mut best = (1, 1);
    for length in 1..=LONGEST_GROUP.min(lines.len() / 2) {
        let (group, rest) = lines.split_at(length);
        let repeats = |chunk: &&[Line]| group.iter().zip(*chunk).all(|(a, b)| same(a, b));
        let times = 1 + rest.chunks_exact(length).take_while(repeats).count();
        // One line takes the place of the repetitions, so there must be two lines at least.
        let saved = (times - 1) * length;
        if saved >= 2 && saved > (best.1 - 1) * best.0 {
            best = (length, times);
        }
    }
    best
}

fn write_line(line: &Line, width: usize) -> String {
    let mut text = time(line.at);
    // Writing to a String cannot fail.
    let _ = match line.is_mark {
        true => write!(text, "  {}", line.subject),
        false => write!(text, "  {:<width$}  {}", line.hosts, line.subject),
    };
    if let Some(bytes) = line.bytes {
        let _ = write!(text, " {bytes} B");
    }
    text.push('\n');
    text
}

fn write_repetition(rest: &[Line], length: usize, times: usize) -> String {
    let until = rest.last().map_or(Duration::ZERO, |line| line.at);
    let lines = match length {
        1 => "the last line".to_owned(),
        _ => format!("the last {length} lines"),
    };
    let times = match times {
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    format!(
        "{:>12}  {lines} {times} more, until {}\n",
        "…",
        time(until).trim_start()
    )
}

fn time(at: Duration) -> String {
    format!("{:>5}.{:06}s", at.as_secs(), at.subsec_micros())
}

//! The contents of the screen, as lines: the same for a terminal and for text.

use super::sampler::Sample;
use crate::answers::Request;
use crate::table::{self, Column, extra, long, number, path, text};

/// A view of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Overview,
    Fibers,
    Connections,
    Calls,
}

impl View {
    pub(super) const ALL: [View; 4] =
        [View::Overview, View::Fibers, View::Connections, View::Calls];

    pub(super) fn name(self) -> &'static str {
        match self {
            View::Overview => "Overview",
            View::Fibers => "Fibers",
            View::Connections => "Connections",
            View::Calls => "Calls",
        }
    }

    /// The view `step` further, around the end.
    pub(super) fn after(self, step: usize) -> View {
        View::ALL[(self as usize + step) % View::ALL.len()]
    }
}

/// The importance of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// The title of a table.
    Title,
    /// The names of columns.
    Names,
    /// Something is wrong.
    Alarm,
    /// A remark.
    Faint,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

fn line(tone: Tone, text: impl Into<String>) -> Line {
    Line {
        text: text.into(),
        tone,
    }
}

/// The first lines, which all views have in common.
pub(super) fn head(sample: &Sample, width: usize) -> Vec<Line> {
    let info = &sample.info;
    let up = table::duration((sample.at_seconds - info.start_time_seconds).max(0.0));
    let driver = info.driver.as_deref().unwrap_or("no driver");
    let loops = match info.loops {
        1 => "1 loop".to_owned(),
        count => format!("{count} loops"),
    };
    let rest = format!("  process {}, up {up}, {loops}, {driver}", info.pid);
    let room = width.saturating_sub(rest.chars().count()).max(12);
    let name = table::cut(&table::plain(&info.name), room);
    let counts = format!(
        "fibers {}  connections {}  memory {}  served {}/s  called {}/s",
        table::count(info.fibers as f64),
        table::count(info.connections as f64),
        table::bytes(info.memory_bytes),
        table::count(sample.requests_rate),
        table::count(sample.calls_rate),
    );
    let lines = [
        line(Tone::Title, table::cut(&(name + &rest), width)),
        line(Tone::Plain, table::cut(&counts, width)),
    ];
    lines.into()
}

/// The lines of a view.
pub(super) fn body(sample: &Sample, view: View, width: usize) -> Vec<Line> {
    match view {
        View::Overview => {
            let mut lines = loops(sample, width);
            lines.push(line(Tone::Plain, ""));
            lines.extend(methods(sample, width));
            lines
        }
        View::Fibers => fibers(sample, width),
        View::Connections => connections(sample, width),
        View::Calls => calls(sample, width),
    }
}

/// All views, one below the other.
pub(super) fn as_text(sample: &Sample, width: usize) -> Vec<String> {
    let mut lines = head(sample, width);
    let bodies = [
        loops(sample, width),
        fibers(sample, width),
        connections(sample, width),
        calls(sample, width),
    ];
    for body in bodies {
        lines.push(line(Tone::Plain, ""));
        lines.extend(body);
    }
    lines.into_iter().map(|line| line.text).collect()
}

/// A table under its title. The rows for which `alarms` is set are shown so.
fn titled(
    title: &str,
    columns: &[Column],
    rows: &[Vec<String>],
    alarms: &[bool],
    width: usize,
) -> Vec<Line> {
    let mut lines = vec![line(Tone::Title, table::cut(title, width))];
    let texts = table::lay_out(columns, rows, width);
    for (index, text) in texts.into_iter().enumerate() {
        let alarm = index > 0 && alarms.get(index - 1).is_some_and(|alarm| *alarm);
        let tone = match (index, alarm) {
            (0, _) => Tone::Names,
            (_, true) => Tone::Alarm,
            (_, false) => Tone::Plain,
        };
        lines.push(line(tone, text));
    }
    lines
}

fn loops(sample: &Sample, width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 9] = [
        number("LOOP"),
        long("THREAD", 4),
        number("BUSY"),
        number("TICKS/S"),
        number("FIBERS"),
        extra(number("READY")),
        extra(number("TIMERS")),
        extra(number("LATENCY")),
        text("STATE"),
    ];
    let state = |blocked: Option<f64>, answers: bool| match (blocked, answers) {
        (Some(seconds), _) => format!("held {}", table::duration(seconds)),
        (None, true) => "ok".to_owned(),
        (None, false) => "silent".to_owned(),
    };
    let row = |(one, rate): &(crate::answers::Loop, super::sampler::LoopRate)| {
        vec![
            one.number.to_string(),
            table::plain(&one.thread),
            format!("{:.0} %", rate.busy * 100.0),
            table::count(rate.ticks),
            table::count(one.fibers as f64),
            table::count(one.ready as f64),
            table::count(one.timers as f64),
            one.latency_seconds
                .map_or_else(|| "-".to_owned(), table::duration),
            state(one.blocked_seconds, one.answers),
        ]
    };
    let rows: Vec<_> = sample.loops.iter().map(row).collect();
    let alarms: Vec<_> = sample.loops.iter().map(|(one, _)| !one.answers).collect();
    titled("Loops", &COLUMNS, &rows, &alarms, width)
}

fn none(title: &str, text: &str) -> Vec<Line> {
    vec![line(Tone::Title, title), line(Tone::Faint, text)]
}

fn methods(sample: &Sample, width: usize) -> Vec<Line> {
    const TITLE: &str = "Handlers, those that took most time in total first";
    const COLUMNS: [Column; 9] = [
        long("METHOD", 16),
        number("CALLS/S"),
        extra(number("CALLS")),
        number("ERRORS"),
        extra(number("NOW")),
        number("P50"),
        number("P99"),
        number("MAX"),
        extra(text("LISTENER")),
    ];
    if sample.calls.methods.is_empty() {
        return none(TITLE, "no request has ended since this program watches");
    }
    let methods = sample.calls.methods.iter().zip(&sample.method_rates);
    let row = |(one, rate): (&crate::answers::Method, &f64)| {
        vec![
            table::plain(&one.method),
            table::count(*rate),
            table::count(one.calls as f64),
            table::count(one.errors as f64),
            table::count(one.in_flight as f64),
            table::duration(one.p50_seconds),
            table::duration(one.p99_seconds),
            table::duration(one.max_seconds),
            table::plain(one.listener.as_deref().unwrap_or("")),
        ]
    };
    let rows: Vec<_> = methods.map(row).collect();
    titled(TITLE, &COLUMNS, &rows, &[], width)
}

fn fibers(sample: &Sample, width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 5] = [
        number("COUNT"),
        long("WAITS FOR", 14),
        number("LONGEST"),
        path("AT", 12),
        extra(long("NAME", 8)),
    ];
    let title = "Fibers, by what they wait for";
    let Some(waits) = &sample.waits else {
        return none(title, "asking …");
    };
    let row = |group: &crate::answers::WaitGroup| {
        let waits_for = group.waits_for.as_ref().unwrap_or(&group.state);
        let at = group.origin.as_ref().unwrap_or(&group.spawned_at);
        vec![
            table::count(group.count as f64),
            table::plain(waits_for),
            table::duration(group.longest_seconds),
            table::plain(at),
            table::plain(group.name.as_deref().unwrap_or("")),
        ]
    };
    let rows: Vec<_> = waits.groups.iter().map(row).collect();
    let mut lines = titled(title, &COLUMNS, &rows, &[], width);
    if waits.others != 0 {
        lines.push(line(
            Tone::Faint,
            format!("{} in other groups", waits.others),
        ));
    }
    lines
}

fn connections(sample: &Sample, width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 9] = [
        extra(number("LOOP")),
        path("PEER", 14),
        text("STATE"),
        number("QUEUED"),
        number("NOW"),
        number("SERVED"),
        number("CALLED"),
        extra(number("TRAFFIC")),
        number("AGE"),
    ];
    let Some(page) = &sample.connections else {
        return none("Connections", "asking …");
    };
    let title = match &page.next {
        None => format!("{} connections, the fullest first", page.connections.len()),
        Some(_) => format!(
            "{} connections, of which the first {} are listed",
            sample.info.connections,
            page.connections.len()
        ),
    };
    if page.connections.is_empty() {
        return none("Connections", "there are none");
    }
    let row = |one: &crate::answers::Connection| {
        let arrow = if one.role == "opened" { "→ " } else { "" };
        vec![
            one.loop_id.to_string(),
            format!("{arrow}{}", table::peer(&one.address)),
            one.state.clone(),
            table::bytes(one.queued_bytes),
            table::count((one.requests_in_flight + one.calls_in_flight) as f64),
            table::count(one.requests as f64),
            table::count(one.calls as f64),
            table::bytes(one.received_bytes + one.sent_bytes),
            table::duration(one.age_seconds),
        ]
    };
    let rows: Vec<_> = page.connections.iter().map(row).collect();
    titled(&title, &COLUMNS, &rows, &[], width)
}

fn calls(sample: &Sample, width: usize) -> Vec<Line> {
    let calls = &sample.calls;
    let mut lines = methods(sample, width);
    if calls.left_out != 0 {
        lines.push(line(
            Tone::Faint,
            format!("{} more methods", calls.left_out),
        ));
    }
    if calls.running_count != 0 {
        lines.push(line(Tone::Plain, ""));
        let title = format!("{} requests run now, the oldest first", calls.running_count);
        lines.extend(requests(&title, &calls.running, false, width));
    }
    if !calls.slowest.is_empty() {
        lines.push(line(Tone::Plain, ""));
        let title = "The slowest requests of the last minute";
        lines.extend(requests(title, &calls.slowest, true, width));
    }
    lines
}

fn requests(title: &str, list: &[Request], ended: bool, width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 5] = [
        text("END (UTC)"),
        long("METHOD", 10),
        number("TIME"),
        extra(path("PEER", 12)),
        text("OUTCOME"),
    ];
    let row = |one: &Request| {
        vec![
            one.at_seconds.map_or_else(|| "-".to_owned(), table::clock),
            table::plain(&one.method),
            table::duration(one.seconds),
            table::peer(&one.peer),
            if ended {
                one.outcome().to_owned()
            } else {
                "runs".to_owned()
            },
        ]
    };
    let rows: Vec<_> = list.iter().map(row).collect();
    let alarms: Vec<_> = list.iter().map(|one| one.error.is_some()).collect();
    titled(title, &COLUMNS, &rows, &alarms, width)
}

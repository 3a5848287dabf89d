//! Schedules as text: a line for each fault, which people read and write, and shells pass on in one word.

use super::options::{set_option, write_options};
use super::values::{parse_time, seconds, signed_milliseconds, signed_time};
use super::{Fault, Schedule, Scheduled};
use crate::sim::{DiskFaults, DiskLatency, Link, NetworkFaults};
use std::fmt;
use std::str::{FromStr, SplitWhitespace};

/// A line that describes no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the faults: {problem}")]
pub struct ScheduleError {
    /// The number of the line, from 1.
    pub line: usize,
    /// A description of what is wrong with it.
    pub problem: String,
}

const KINDS: &str = "partition, reset, crash, freeze, link, short-transfers, drift, jump-clock, network-faults, \
                     disk-faults, disk-latency, disk-full, freeze-disk and crash-at-operation";

impl fmt::Display for Schedule {
    /// Writes one line for each fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.faults.iter().try_for_each(|one| writeln!(f, "{one}"))
    }
}

impl fmt::Display for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", seconds(self.at), self.fault)?;
        match self.until {
            Some(until) => write!(f, " until {}", seconds(until)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Partition(one, other) => write!(f, "partition {one} {other}"),
            Fault::PartitionOneWay(from, to) => write!(f, "partition {from} -> {to}"),
            Fault::ResetConnections(one, other) => write!(f, "reset {one} {other}"),
            Fault::Crash(host) => write!(f, "crash {host}"),
            Fault::Freeze(host) => write!(f, "freeze {host}"),
            Fault::Link(one, other, _) => write!(f, "link {one} {other}"),
            Fault::ShortTransfers(host, ..) => write!(f, "short-transfers {host}"),
            Fault::ClockDrift(host, ppm) => write!(f, "drift {host} {ppm}ppm"),
            Fault::ClockJump(host, by_ms) => write!(f, "jump-clock {host} {}", signed_time(*by_ms)),
            Fault::NetworkFaults(host, _) => write!(f, "network-faults {host}"),
            Fault::DiskFaults(host, _) => write!(f, "disk-faults {host}"),
            Fault::DiskLatency(host, _) => write!(f, "disk-latency {host}"),
            Fault::DiskFull(host) => write!(f, "disk-full {host}"),
            Fault::FreezeDisk(host) => write!(f, "freeze-disk {host}"),
            Fault::CrashAtOperation(host, nth) => write!(f, "crash-at-operation {host} {nth}"),
        }?;
        write_options(self, f)
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let mut schedule = Schedule::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("");
            for part in line.split(';').filter(|part| !part.trim().is_empty()) {
                let parsed = parse_line(part).map_err(|problem| ScheduleError {
                    line: index + 1,
                    problem,
                })?;
                schedule.faults.push(parsed);
            }
        }
        schedule.faults.sort_by_key(|scheduled| scheduled.at);
        Ok(schedule)
    }
}

fn parse_line(line: &str) -> Result<Scheduled, String> {
    let mut words = line.split_whitespace();
    let at = parse_time(words.next().unwrap_or(""))?;
    let mut fault = parse_fault(&mut words)?;
    let mut until = None;
    while let Some(word) = words.next() {
        match word {
            "until" => until = Some(parse_time(words.next().unwrap_or(""))?),
            _ => set_option(&mut fault, word)?,
        }
    }
    match until {
        Some(_) if fault.is_instant() => Err(format!("'{fault}' has no end")),
        Some(end) if end < at => Err(format!("'{}' ends before it begins", line.trim())),
        _ => Ok(Scheduled { at, fault, until }),
    }
}

fn parse_fault(words: &mut SplitWhitespace<'_>) -> Result<Fault, String> {
    let kind = words.next().unwrap_or("");
    let mut host = || match words.next() {
        None | Some("until") => Err(format!("'{kind}' needs the name of a host")),
        Some(name) if name.contains('=') => Err(format!("'{name}' cannot be a host")),
        Some(name) => Ok(name.to_owned()),
    };
    Ok(match kind {
        "partition" => match (host()?, host()?) {
            (from, arrow) if arrow == "->" => Fault::PartitionOneWay(from, host()?),
            (one, other) => Fault::Partition(one, other),
        },
        "reset" => Fault::ResetConnections(host()?, host()?),
        "crash" => Fault::Crash(host()?),
        "freeze" => Fault::Freeze(host()?),
        "link" => Fault::Link(host()?, host()?, Link::default()),
        "short-transfers" => Fault::ShortTransfers(host()?, 0.0, 0.0),
        "drift" => {
            let host = host()?;
            let text = words.next().unwrap_or("");
            let ppm = text.strip_suffix("ppm").and_then(|ppm| ppm.parse().ok());
            let ppm = ppm.ok_or_else(|| format!("'{text}' is not a drift; write 200ppm"))?;
            Fault::ClockDrift(host, ppm)
        }
        "jump-clock" => Fault::ClockJump(host()?, signed_milliseconds(words.next().unwrap_or(""))?),
        "network-faults" => Fault::NetworkFaults(host()?, NetworkFaults::default()),
        "disk-faults" => Fault::DiskFaults(host()?, DiskFaults::default()),
        "disk-latency" => Fault::DiskLatency(host()?, DiskLatency::default()),
        "disk-full" => Fault::DiskFull(host()?),
        "freeze-disk" => Fault::FreezeDisk(host()?),
        "crash-at-operation" => {
            let host = host()?;
            let text = words.next().unwrap_or("");
            let nth = text.parse().ok().filter(|nth| *nth > 0);
            let problem =
                || format!("'{text}' is not the number of an operation; write 1 for the next one");
            Fault::CrashAtOperation(host, nth.ok_or_else(problem)?)
        }
        _ => return Err(format!("'{kind}' is not a fault; there are {KINDS}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "\
0.000120031s partition bank customer until 4.5s
1s partition bank -> customer2 until 2s
1s reset bank customer
2s crash bank until 2.4s
2.5s crash bank
3s freeze bank until 4s
4s link bank customer latency=50ms jitter=1500us loss=0.1 duplicate=0.01 reorder=0.05 bandwidth=10000 until 9s
5s short-transfers bank read=0.3 write=0.25 until 9s
6s drift bank -200ppm until 9s
7s jump-clock bank -3600s
7s jump-clock bank 1500ms
7s network-faults bank socket=0.1 accept=0.2 send=0.3 until 9s
7s disk-faults bank read=0.1 sync=0.5 no-space=0.01 short-write=1 until 9s
7s disk-latency bank operation=20ms jitter=80us sync=1s until 9s
7s disk-full bank until 9s
8s freeze-disk bank until 9s
8s crash-at-operation bank 17 until 9s
";

    #[test]
    fn a_schedule_is_read_back_from_its_text() {
        let schedule: Schedule = ALL.parse().unwrap();
        assert_eq!(schedule.len(), 17);
        assert_eq!(schedule.to_string(), ALL);
        let one_line = ALL.trim().replace('\n', "; ");
        assert_eq!(one_line.parse(), Ok(schedule));
        let comments = "# nothing\n\n 2s crash a # here\n1s crash b;;";
        let schedule: Schedule = comments.parse().unwrap();
        assert_eq!(schedule.to_string(), "1s crash b\n2s crash a\n");
        assert_eq!("".parse(), Ok(Schedule::new()));
    }

    #[test]
    fn a_line_that_is_no_fault_is_named_with_its_problem() {
        for (line, problem) in [
            ("crash bank", "'crash' is not a time"),
            ("1 crash bank", "'1' is not a time"),
            ("1.s crash bank", "'1.s' is not a time"),
            ("1h crash bank", "'1h' is not a time"),
            ("-1s crash bank", "'-1s' is not a time"),
            ("99999999999s crash bank", "longer than a century"),
            ("99999999999999999999s crash bank", "is not a time"),
            ("1s", "'' is not a fault"),
            (
                "1s explode bank",
                "'explode' is not a fault; there are partition",
            ),
            ("1s crash", "'crash' needs the name of a host"),
            ("1s crash until 2s", "'crash' needs the name of a host"),
            ("1s partition a", "'partition' needs the name of a host"),
            ("1s partition a ->", "'partition' needs the name of a host"),
            ("1s crash a b", "'b' is unexpected"),
            ("1s crash a until", "'' is not a time"),
            ("3s crash a until 2s", "ends before it begins"),
            ("1s reset a b until 2s", "'reset a b' has no end"),
            ("1s link a b loss=2", "'2' is not a probability"),
            ("1s link a b loss=NaN", "'NaN' is not a probability"),
            ("1s link a b speed=2", "no option 'speed'"),
            ("1s link a b bandwidth=0", "'0' is not a bandwidth"),
            ("1s drift a 200", "'200' is not a drift"),
            ("1s jump-clock a 1", "'1' is not a time"),
            (
                "1s jump-clock a 1us",
                "'1us' is not a whole number of milliseconds",
            ),
            ("1s jump-clock a until 2s", "'until' is not a time"),
            ("1s jump-clock a 1s until 2s", "has no end"),
            ("1s disk-faults a write=2", "'2' is not a probability"),
            ("1s disk-faults a loss=0.1", "no option 'loss'"),
            ("1s disk-latency a sync=1", "'1' is not a time"),
            ("1s network-faults a read=0.1", "no option 'read'"),
            (
                "1s crash-at-operation a",
                "'' is not the number of an operation",
            ),
            (
                "1s crash-at-operation a 0",
                "'0' is not the number of an operation",
            ),
            ("1s disk-full a 7", "'7' is unexpected"),
        ] {
            let text = format!("1s crash fine\n{line}");
            let error = text.parse::<Schedule>().unwrap_err();
            assert_eq!(error.line, 2, "{line}");
            assert!(error.to_string().contains(problem), "{line}: {error}");
        }
    }
}

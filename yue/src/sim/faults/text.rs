//! Schedules as text: a line for each fault, which people read and write, and shells pass on in one word.

use super::{Fault, Schedule, Scheduled};
use crate::sim::Link;
use std::fmt;
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

/// A line that describes no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the faults: {problem}")]
pub struct ScheduleError {
    /// The number of the line, from 1.
    pub line: usize,
    /// A description of what is wrong with it.
    pub problem: String,
}

const KINDS: &str = "partition, reset, crash, freeze, link, short-transfers and drift";

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
            Fault::Link(one, other, link) => write!(f, "link {one} {other} {}", link_text(link)),
            Fault::ShortTransfers(host, read, write) => {
                write!(f, "short-transfers {host} read={read} write={write}")
            }
            Fault::ClockDrift(host, ppm) => write!(f, "drift {host} {ppm}ppm"),
        }
    }
}

/// Writes a link as the line of a schedule does.
pub(in crate::sim) fn link_text(link: &Link) -> String {
    let mut text = format!("latency={}", short(link.latency));
    if !link.jitter.is_zero() {
        text += &format!(" jitter={}", short(link.jitter));
    }
    for (name, value) in [
        ("loss", link.loss),
        ("duplicate", link.duplicate),
        ("reorder", link.reorder),
    ] {
        if value != 0.0 {
            text += &format!(" {name}={value}");
        }
    }
    if let Some(bandwidth) = link.bandwidth {
        text += &format!(" bandwidth={bandwidth}");
    }
    text
}

/// Writes a time in seconds, exactly: `1.203s`.
fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Writes a short time in the unit in which it is a whole number: `50ms`, `200us`.
fn short(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        _ if nanos.is_multiple_of(1_000_000_000) => format!("{}s", nanos / 1_000_000_000),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!("{}us", nanos / 1_000),
        _ => format!("{nanos}ns"),
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
        _ => return Err(format!("'{kind}' is not a fault; there are {KINDS}")),
    })
}

/// Sets what stands as `name=value` behind the hosts.
fn set_option(fault: &mut Fault, word: &str) -> Result<(), String> {
    let Some((name, value)) = word.split_once('=') else {
        return Err(format!(
            "'{word}' is unexpected; 'until' and a time may stand there"
        ));
    };
    match (fault, name) {
        (Fault::Link(.., link), "latency") => link.latency = parse_time(value)?,
        (Fault::Link(.., link), "jitter") => link.jitter = parse_time(value)?,
        (Fault::Link(.., link), "loss") => link.loss = parse_probability(value)?,
        (Fault::Link(.., link), "duplicate") => link.duplicate = parse_probability(value)?,
        (Fault::Link(.., link), "reorder") => link.reorder = parse_probability(value)?,
        (Fault::Link(.., link), "bandwidth") => {
            let bandwidth = value.parse().ok().filter(|bandwidth| *bandwidth > 0);
            let problem = || format!("'{value}' is not a bandwidth; write bytes per second");
            link.bandwidth = Some(bandwidth.ok_or_else(problem)?);
        }
        (Fault::ShortTransfers(_, read, _), "read") => *read = parse_probability(value)?,
        (Fault::ShortTransfers(.., write), "write") => *write = parse_probability(value)?,
        _ => return Err(format!("there is no option '{name}' there")),
    }
    Ok(())
}

fn parse_probability(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let valid = number.filter(|number| (0.0..=1.0).contains(number));
    valid.ok_or_else(|| format!("'{text}' is not a probability; write a number from 0 to 1"))
}

/// The longest time that a line may name: about a century.
const LONGEST_SECONDS: u64 = 100 * 366 * 86_400;

/// Parses a decimal number with a unit, without rounding.
fn parse_time(text: &str) -> Result<Duration, String> {
    let problem = || format!("'{text}' is not a time; write it as 1.5s, 20ms, 300us or 40ns");
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(unit_at.ok_or_else(problem)?);
    let (digits, unit_ns): (usize, u128) = match unit {
        "s" => (9, 1_000_000_000),
        "ms" => (6, 1_000_000),
        "us" | "µs" => (3, 1_000),
        "ns" => (0, 1),
        _ => return Err(problem()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.contains('.') && (fraction.is_empty() || fraction.len() > digits) {
        return Err(problem());
    }
    let whole: u64 = whole.parse().map_err(|_| problem())?;
    // Filled up with zeros, the digits of the fraction are a number of nanoseconds.
    let fraction: u64 = format!("{fraction:0<digits$}0")
        .parse()
        .map_err(|_| problem())?;
    let nanos = u128::from(whole) * unit_ns + u128::from(fraction / 10);
    let longest = u128::from(LONGEST_SECONDS) * 1_000_000_000;
    match u64::try_from(nanos).ok().filter(|_| nanos <= longest) {
        Some(nanos) => Ok(Duration::from_nanos(nanos)),
        None => Err(format!("'{text}' is longer than a century")),
    }
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
";

    #[test]
    fn a_schedule_is_read_back_from_its_text() {
        let schedule: Schedule = ALL.parse().unwrap();
        assert_eq!(schedule.len(), 9);
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
        ] {
            let text = format!("1s crash fine\n{line}");
            let error = text.parse::<Schedule>().unwrap_err();
            assert_eq!(error.line, 2, "{line}");
            assert!(error.to_string().contains(problem), "{line}: {error}");
        }
    }
}

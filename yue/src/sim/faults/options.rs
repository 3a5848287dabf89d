//! The options of faults, which stand as `name=value` behind the hosts.

use super::Fault;
use super::values::{parse_probability, parse_time, short};
use std::fmt;
use std::time::Duration;

/// The probabilities of a fault, by their names.
pub(super) fn probabilities(fault: &mut Fault) -> Vec<(&'static str, &mut f64)> {
    match fault {
        Fault::Link(.., link) => vec![
            ("loss", &mut link.loss),
            ("duplicate", &mut link.duplicate),
            ("reorder", &mut link.reorder),
        ],
        Fault::ShortTransfers(_, read, write) => vec![("read", read), ("write", write)],
        Fault::NetworkFaults(_, faults) => vec![
            ("socket", &mut faults.socket),
            ("accept", &mut faults.accept),
            ("send", &mut faults.send),
        ],
        Fault::DiskFaults(_, faults) => vec![
            ("open", &mut faults.open),
            ("read", &mut faults.read),
            ("write", &mut faults.write),
            ("sync", &mut faults.sync),
            ("inspect", &mut faults.inspect),
            ("change", &mut faults.change),
            ("no-space", &mut faults.no_space),
            ("short-read", &mut faults.short_read),
            ("short-write", &mut faults.short_write),
        ],
        _ => Vec::new(),
    }
}

/// The times of a fault, by their names.
fn times(fault: &mut Fault) -> Vec<(&'static str, &mut Duration)> {
    match fault {
        Fault::Link(.., link) => {
            vec![("latency", &mut link.latency), ("jitter", &mut link.jitter)]
        }
        Fault::DiskLatency(_, latency) => vec![
            ("operation", &mut latency.operation),
            ("jitter", &mut latency.jitter),
            ("sync", &mut latency.sync),
        ],
        _ => Vec::new(),
    }
}

/// Writes the options, each after a blank. Those are left out that have the value which a line without them has.
pub(super) fn write_options(fault: &Fault, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut fault = fault.clone();
    let is_latency = matches!(fault, Fault::DiskLatency(..));
    for (name, time) in times(&mut fault) {
        // A disk has a default for each of its times.
        if !time.is_zero() || is_latency || name == "latency" {
            write!(f, " {name}={}", short(*time))?;
        }
    }
    let is_short = matches!(fault, Fault::ShortTransfers(..));
    for (name, probability) in probabilities(&mut fault) {
        if *probability != 0.0 || is_short {
            write!(f, " {name}={probability}")?;
        }
    }
    match fault {
        Fault::Link(.., link) => link
            .bandwidth
            .map_or(Ok(()), |bandwidth| write!(f, " bandwidth={bandwidth}")),
        _ => Ok(()),
    }
}

/// Sets an option of a fault.
///
/// # Errors
/// A text about the problem.
pub(super) fn set_option(fault: &mut Fault, word: &str) -> Result<(), String> {
    let Some((name, value)) = word.split_once('=') else {
        return Err(format!(
            "'{word}' is unexpected; 'until' and a time may stand there"
        ));
    };
    if let Some((_, time)) = times(fault).into_iter().find(|(known, _)| *known == name) {
        *time = parse_time(value)?;
        return Ok(());
    }
    if let Some((_, probability)) = probabilities(fault)
        .into_iter()
        .find(|(known, _)| *known == name)
    {
        *probability = parse_probability(value)?;
        return Ok(());
    }
    match fault {
        Fault::Link(.., link) if name == "bandwidth" => {
            let bandwidth = value.parse().ok().filter(|bandwidth| *bandwidth > 0);
            let problem = || format!("'{value}' is not a bandwidth; write bytes per second");
            link.bandwidth = Some(bandwidth.ok_or_else(problem)?);
            Ok(())
        }
        _ => Err(format!("there is no option '{name}' there")),
    }
}

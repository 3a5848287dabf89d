//! Times and probabilities in the lines of a schedule.

use std::time::Duration;

/// Writes a time in seconds, exactly: `1.203s`.
pub(super) fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Writes a short time in the unit in which it is a whole number: `50ms`, `200us`.
pub(super) fn short(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        _ if nanos.is_multiple_of(1_000_000_000) => format!("{}s", nanos / 1_000_000_000),
        _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!("{}us", nanos / 1_000),
        _ => format!("{nanos}ns"),
    }
}

/// Writes a number of milliseconds, which may be negative: `-3600s`, `1500ms`.
pub(super) fn signed_time(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}", short(Duration::from_millis(ms.unsigned_abs())))
}

/// Parses a time that may be negative, in whole milliseconds.
pub(super) fn signed_milliseconds(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let time = parse_time(digits)?;
    match i64::try_from(time.as_millis()) {
        Ok(ms) if time.subsec_nanos().is_multiple_of(1_000_000) => Ok(sign * ms),
        _ => Err(format!("'{text}' is not a whole number of milliseconds")),
    }
}

pub(super) fn parse_probability(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let valid = number.filter(|number| (0.0..=1.0).contains(number));
    valid.ok_or_else(|| format!("'{text}' is not a probability; write a number from 0 to 1"))
}

/// The longest time that a line may name: about a century.
const LONGEST_SECONDS: u64 = 100 * 366 * 86_400;

/// Parses a decimal number with a unit, without rounding.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
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

//! Options that take seconds.

/// Parses seconds, up to a day.
pub(crate) fn parse(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to 86400 is needed".to_owned()),
    }
}

/// Like [`parse`], for a time that something may take.
pub(crate) fn parse_above_0(text: &str) -> Result<f64, String> {
    // The clock's resolution is a nanosecond.
    parse(text)
        .ok()
        .filter(|seconds| *seconds >= 1e-9)
        .ok_or_else(|| "a number of seconds above 0, up to 86400, is needed".to_owned())
}

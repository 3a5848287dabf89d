//! Cuts texts that a peer may have chosen to the length that an error may carry.

use std::borrow::Cow;

/// The longest message, and the longest traceback, of an error. The peer may have chosen them, and each answer that
/// carries one holds a copy.
pub(crate) const TEXT_MAX: usize = 64 * 1024;

/// The longest text of an error that many calls receive at once.
pub(crate) const SHARED_TEXT_MAX: usize = 1024;

/// The longest part of a name that an error quotes.
const NAME_MAX: usize = 256;

/// The text, cut to about `max` bytes; a cut is marked with the amount that is missing.
pub(crate) fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(max)];
    let missing = text.len() - kept.len();
    Cow::Owned(format!("{kept}… ({missing} bytes more)"))
}

/// A method's name, as errors quote it.
pub(crate) fn quoted(name: &[u8]) -> Cow<'_, str> {
    if name.len() <= NAME_MAX {
        return String::from_utf8_lossy(name);
    }
    let missing = name.len() - NAME_MAX;
    let kept = String::from_utf8_lossy(&name[..NAME_MAX]);
    Cow::Owned(format!("{kept}… ({missing} bytes more)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_falls_between_characters_and_says_what_is_missing() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("ab\u{e9}cd", 3), "ab… (4 bytes more)");
        assert_eq!(cut("", 0), "");
        let name = [0xff; 1_000_000];
        assert!(quoted(&name).len() < 1000 && quoted(&name).ends_with("(999744 bytes more)"));
    }
}

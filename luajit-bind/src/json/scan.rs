//! Finds the end of the plain part of a string, eight bytes at a time.
//!
//! The tests of bytes in a word are those of <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>. A
//! borrow may mark a byte above the first that is marked rightly, so only the first mark is used.

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// Marks the bytes of `word` that are control characters, quotes or backslashes; with `ASCII`, also those above 0x7f.
#[inline(always)]
fn special<const ASCII: bool>(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    let above = if ASCII { word } else { 0 };
    (control | quote | backslash | above) & HIGH
}

#[inline(always)]
fn is_special<const ASCII: bool>(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || (ASCII && byte >= 0x80)
}

/// The length of the leading bytes that need no attention in a string: no control characters, quotes or backslashes;
/// with `ASCII`, no bytes above 0x7f either.
#[inline]
pub(super) fn plain_prefix<const ASCII: bool>(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marks = special::<ASCII>(u64::from_le_bytes(*word));
        if marks != 0 {
            return index * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let at = words.len() * 8;
    let rest = &bytes[at..];
    at + rest
        .iter()
        .position(|byte| is_special::<ASCII>(*byte))
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_agree_with_the_bytes() {
        for byte in 0..=255 {
            for at in 0..20 {
                for filler in [b'a', 0x7f, 0xc3, b'!', b'#'] {
                    let mut text = [filler; 20];
                    text[at] = byte;
                    let plain = |ascii: fn(u8) -> bool| text.iter().position(|b| ascii(*b));
                    let first = plain(is_special::<true>).unwrap_or(20);
                    assert_eq!(plain_prefix::<true>(&text), first, "{text:?}");
                    let first = plain(is_special::<false>).unwrap_or(20);
                    assert_eq!(plain_prefix::<false>(&text), first, "{text:?}");
                }
            }
        }
    }
}

//! The bytes of a file: the pages that were written, and holes of zeros between them.

use std::collections::BTreeMap;

/// Bytes of a page: the unit in which space is taken.
pub(super) const PAGE_BYTES: u64 = 4096;

/// A file's contents and length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    length: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// The pages that a range touches.
pub(super) fn pages_of(offset: u64, length: u64) -> std::ops::Range<u64> {
    let end = offset.saturating_add(length).div_ceil(PAGE_BYTES);
    (offset / PAGE_BYTES).min(end)..end
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// The number of pages that take space.
    pub(super) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }

    /// The number of pages of a range that take no space yet.
    pub(super) fn missing(&self, offset: u64, length: u64) -> u64 {
        let range = pages_of(offset, length);
        let present = self.pages.range(range.clone()).count() as u64;
        range.end - range.start - present
    }

    /// Reads up to the end of the file. Returns the number of bytes.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let left = self.length.saturating_sub(offset);
        let count = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let start = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - start).min(count - done);
            let into = &mut buffer[done..done + part];
            match self.pages.get(&(at / PAGE_BYTES)) {
                Some(page) => into.copy_from_slice(&page[start..start + part]),
                None => into.fill(0),
            }
            done += part;
        }
        count
    }

    /// Writes, and extends the file if necessary.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let start = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - start).min(bytes.len() - done);
            self.page(at / PAGE_BYTES)[start..start + part]
                .copy_from_slice(&bytes[done..done + part]);
            done += part;
        }
        if !bytes.is_empty() {
            self.length = self.length.max(offset + bytes.len() as u64);
        }
    }

    /// Takes space for a range, without a change of the length.
    pub(super) fn reserve(&mut self, offset: u64, length: u64) {
        for number in pages_of(offset, length) {
            self.page(number);
        }
    }

    pub(super) fn set_len(&mut self, length: u64) {
        if length < self.length {
            drop(self.pages.split_off(&length.div_ceil(PAGE_BYTES)));
            let kept = (length % PAGE_BYTES) as usize;
            if kept > 0
                && let Some(last) = self.pages.get_mut(&(length / PAGE_BYTES))
            {
                last[kept..].fill(0);
            }
        }
        self.length = length;
    }

    fn page(&mut self, number: u64) -> &mut [u8] {
        let empty = || vec![0; PAGE_BYTES as usize].into_boxed_slice();
        self.pages.entry(number).or_insert_with(empty)
    }

    /// All bytes. A hole of many gigabytes does not fit in memory.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(usize::MAX)];
        self.read(0, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros_and_take_no_space() {
        let mut content = Content::default();
        content.write(10_000, b"end");
        assert_eq!((content.len(), content.page_count()), (10_003, 1));
        let mut bytes = [1; 8];
        assert_eq!(content.read(9_996, &mut bytes), 7);
        assert_eq!(&bytes[..7], b"\0\0\0\0end");
        assert_eq!(content.read(20_000, &mut bytes), 0);
        assert_eq!(content.missing(0, 10_003), 2);
        content.reserve(0, 1);
        assert_eq!(content.missing(0, 10_003), 1);
        content.write(1 << 62, b"");
        assert_eq!(content.len(), 10_003);
    }

    #[test]
    fn what_was_cut_off_is_zero_when_the_file_grows_again() {
        let mut content = Content::default();
        content.write(0, &[7; 9_000]);
        content.set_len(5_000);
        assert_eq!(content.page_count(), 2);
        content.set_len(9_000);
        let bytes = content.to_vec();
        assert!(bytes[..5_000].iter().all(|byte| *byte == 7));
        assert!(bytes[5_000..].iter().all(|byte| *byte == 0));
    }
}

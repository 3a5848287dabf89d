//! Bytes between calls, and copies between them and the buffers of vectored calls.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};

/// The total length of the buffers of a call.
pub(crate) fn length_mut(slices: &[IoSliceMut<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// The total length of the buffers of a call.
pub(crate) fn length(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// Copies bytes from `from` into the buffers, up to `limit`. Returns their number.
pub(crate) fn scatter(from: &[u8], into: &mut [IoSliceMut<'_>], limit: usize) -> usize {
    let mut rest = &from[..from.len().min(limit)];
    let before = rest.len();
    for slice in into {
        let count = rest.len().min(slice.len());
        slice[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
    }
    before - rest.len()
}

/// Returns the first `limit` bytes of the buffers.
pub(crate) fn gather(from: &[IoSlice<'_>], limit: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length(from).min(limit));
    for slice in from {
        let count = slice.len().min(limit - bytes.len());
        bytes.extend_from_slice(&slice[..count]);
    }
    bytes
}

/// Bytes in order.
#[derive(Debug, Default)]
pub(crate) struct Bytes(VecDeque<u8>);

impl Bytes {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    pub(crate) fn drop_front(&mut self, count: usize) {
        self.0.drain(..count.min(self.0.len()));
        if self.0.is_empty() && self.0.capacity() > KEPT_BYTES {
            self.0 = VecDeque::new();
        }
    }

    /// Returns a copy of up to `count` bytes from `start` on.
    pub(crate) fn copy(&self, start: usize, count: usize) -> Vec<u8> {
        let end = start.saturating_add(count).min(self.0.len());
        self.0.range(start.min(end)..end).copied().collect()
    }

    /// Copies bytes into the buffers, up to `limit`, and removes them unless `peek`. Returns their number.
    pub(crate) fn read(&mut self, into: &mut [IoSliceMut<'_>], limit: usize, peek: bool) -> usize {
        let count = length_mut(into).min(limit).min(self.len());
        let (one, other) = self.0.as_slices();
        let (first, second) = match count <= one.len() {
            true => (&one[..count], &other[..0]),
            false => (one, &other[..count - one.len()]),
        };
        let mut rest = first;
        let mut follows = second;
        for slice in into {
            let mut filled = 0;
            while filled < slice.len() {
                if rest.is_empty() {
                    rest = std::mem::take(&mut follows);
                    if rest.is_empty() {
                        break;
                    }
                }
                let part = rest.len().min(slice.len() - filled);
                slice[filled..filled + part].copy_from_slice(&rest[..part]);
                rest = &rest[part..];
                filled += part;
            }
        }
        if !peek {
            self.drop_front(count);
        }
        count
    }
}

/// The capacity that an empty buffer keeps: idle sockets should not hold the memory of their busiest moment.
const KEPT_BYTES: usize = 4096;

//! Received bytes on their way to Lua.
//!
//! A read that waits has a small buffer, so that thousands of idle streams cost little. A stream whose reads fill that
//! buffer sends much: then a read waits without a buffer, and takes a large one from the loop's pool when bytes are
//! there.

use crate::lua::native::Results;
use std::cell::RefCell;
use std::ffi::c_int;
use yue_luajit::Stack;

/// Bytes of a buffer with which a read waits. Most messages of a protocol in conversation fit.
pub(super) const SMALL: usize = 2 << 10;

/// Bytes of a large buffer: a datagram fits, and larger reads of a stream are hardly faster.
pub(super) const LARGE: usize = 64 << 10;

/// Large buffers that a loop keeps. A fiber holds one for as long as a read takes that need not wait.
const POOLED_MAX: usize = 4;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Frees the pool, at the end of the loop.
pub(super) fn clear() {
    POOL.take();
}

/// A buffer, and the number of bytes received into it.
pub(crate) struct Chunk {
    buffer: Vec<u8>,
    length: usize,
}

impl Chunk {
    /// A buffer with which a read may wait.
    pub(super) fn small() -> Chunk {
        Chunk {
            buffer: vec![0; SMALL],
            length: 0,
        }
    }

    /// A buffer of the pool.
    pub(super) fn large() -> Chunk {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        Chunk {
            buffer: pooled.unwrap_or_else(|| vec![0; LARGE]),
            length: 0,
        }
    }

    /// Fills the buffer by `receive`, which returns the number of bytes.
    pub(super) fn fill<E>(
        &mut self,
        receive: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.length = receive(&mut self.buffer)?;
        Ok(self.length)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.buffer.len() < LARGE {
            return;
        }
        let buffer = std::mem::take(&mut self.buffer);
        // At the end of the thread the pool is gone.
        let _ = POOL.try_with(|pool| {
            if let Ok(mut pool) = pool.try_borrow_mut()
                && pool.len() < POOLED_MAX
            {
                pool.push(buffer);
            }
        });
    }
}

impl Results for Chunk {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_bytes(&self.buffer[..self.length]);
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_used_again_and_a_small_one_is_not() {
        clear();
        let mut large = Chunk::large();
        assert_eq!(large.fill(|buffer| Ok::<_, ()>(buffer.len())), Ok(LARGE));
        drop(large);
        drop(Chunk::small());
        assert_eq!(POOL.with_borrow(Vec::len), 1);
        let all: Vec<_> = (0..2 * POOLED_MAX).map(|_| Chunk::large()).collect();
        assert_eq!(POOL.with_borrow(Vec::len), 0);
        drop(all);
        assert_eq!(POOL.with_borrow(Vec::len), POOLED_MAX);
    }
}

//! Masking keys of clients: random, from the system, a block at a time.
//!
//! A key must not be predictable (RFC 6455, section 10.3): otherwise a page could choose payloads that look like HTTP
//! to a cache between client and server. A system call for each frame would cost as much as the frame.

use super::frame::Key;
use std::cell::RefCell;
use std::io;
use yue_scheduler::simulation;

/// The bytes that are fetched at a time: keys for 64 frames.
const BLOCK_BYTES: usize = 256;

struct Block {
    bytes: [u8; BLOCK_BYTES],
    used: usize,
}

thread_local! {
    static BLOCK: RefCell<Block> = const {
        RefCell::new(Block {
            bytes: [0; BLOCK_BYTES],
            used: BLOCK_BYTES,
        })
    };
}

/// Fills `bytes` with random ones.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    simulation::fill_random(&mut bytes)?;
    Ok(bytes)
}

/// A key that was never used.
pub(super) fn fresh() -> io::Result<Key> {
    BLOCK.with_borrow_mut(|block| {
        if block.used == BLOCK_BYTES {
            block.bytes = random()?;
            block.used = 0;
        }
        let mut key = [0; 4];
        key.copy_from_slice(&block.bytes[block.used..block.used + 4]);
        block.used += 4;
        Ok(Key(key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_differ() {
        let keys: HashSet<[u8; 4]> = (0..1000).map(|_| fresh().unwrap().0).collect();
        // Of a thousand random ones two may be the same.
        assert!(keys.len() > 990);
    }
}

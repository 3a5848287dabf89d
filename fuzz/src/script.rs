//! An input as a script: decisions are read from its bytes, one after another, and are zeros when it has ended. So any
//! bytes are a script, and a small change of the bytes is a small change of what happens.

/// Bytes that decide what happens.
#[derive(Debug, Clone, Default)]
pub struct Script {
    bytes: Vec<u8>,
    at: usize,
}

impl Script {
    /// A script at its beginning.
    pub fn new(bytes: &[u8]) -> Script {
        Script {
            bytes: bytes.to_vec(),
            at: 0,
        }
    }

    /// Whether all bytes have been read.
    pub fn has_ended(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next byte; 0 when the script has ended.
    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end <= 256 {
            usize::from(self.byte()) % end
        } else {
            (usize::from(self.byte()) << 8 | usize::from(self.byte())) % end
        }
    }

    /// The next `count` bytes, or as many as are left.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let start = self.at.min(self.bytes.len());
        let end = start.saturating_add(count).min(self.bytes.len());
        self.at = end;
        self.bytes[start..end].to_vec()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Vec<u8> {
        self.take(usize::MAX)
    }
}

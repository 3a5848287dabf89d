//! Answers that are sent in chunks: those that wait to be sent, and those that are being put together.
//!
//! An answer's bytes are a *stream*. A stream is opened with its number and its length, and then each chunk appends to
//! it. The sender takes the next chunk from each of its streams in turn. The numbers count from 0 for each link and
//! direction, so the receiver notices every chunk that is not due.

use crate::proto::ProtocolError;
use crate::release_order::Era;
use std::collections::VecDeque;
use std::rc::Rc;

/// Streams of a direction that may be open at once, in addition to the limit on their bytes.
pub(crate) const STREAMS_MAX: usize = 128;

/// An answer that is sent in chunks.
pub(crate) struct Stream {
    pub(crate) number: u32,
    /// The msgid of the request that it answers.
    pub(crate) msgid: u32,
    /// The whole message.
    pub(crate) message: Vec<u8>,
    /// The bytes of it that were sent.
    sent: usize,
}

impl Stream {
    pub(crate) fn unsent(&self) -> usize {
        self.message.len() - self.sent
    }
}

/// The answers of this side that are not completely sent.
#[derive(Default)]
pub(crate) struct Outgoing {
    streams: VecDeque<Stream>,
    /// The number of the next stream.
    next: u32,
    /// The length of all open streams.
    open_bytes: usize,
}

impl Outgoing {
    /// Whether a stream of that length may be opened, if the peer takes `peer_max` bytes in open streams.
    pub(crate) fn may_open(&self, length: usize, peer_max: usize) -> bool {
        self.streams.len() < STREAMS_MAX && self.open_bytes.saturating_add(length) <= peer_max
    }

    /// Opens a stream and returns its number.
    pub(crate) fn open(&mut self, msgid: u32, message: Vec<u8>) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.open_bytes += message.len();
        self.streams.push_back(Stream {
            number,
            msgid,
            message,
            sent: 0,
        });
        number
    }

    /// Passes the next chunk, of at most `bytes_max`, to `write`, with its stream's number. The streams take turns.
    /// Returns the chunk's length; 0 if there is no stream.
    pub(crate) fn next_chunk(&mut self, bytes_max: usize, write: impl FnOnce(u32, &[u8])) -> usize {
        let Some(mut stream) = self.streams.pop_front() else {
            return 0;
        };
        let length = stream.unsent().min(bytes_max);
        debug_assert!(length != 0, "a stream that is sent is not open");
        write(stream.number, &stream.message[stream.sent..][..length]);
        stream.sent += length;
        if stream.unsent() == 0 {
            self.open_bytes -= stream.message.len();
        } else {
            self.streams.push_back(stream);
        }
        length
    }

    /// Removes the stream that answers `msgid`.
    pub(crate) fn remove(&mut self, msgid: u32) -> Option<Stream> {
        let index = self.streams.iter().position(|s| s.msgid == msgid)?;
        let stream = self.streams.remove(index)?;
        self.open_bytes -= stream.message.len();
        Some(stream)
    }
}

/// An answer of the peer of which chunks are missing.
struct Assembly {
    number: u32,
    length: usize,
    bytes: Vec<u8>,
    /// The era in which the stream was opened: releases that came after that must wait until the answer is decoded.
    era: Option<Rc<Era>>,
}

/// An answer that is put together, and the era in which its stream was opened.
pub(crate) type Whole = (Vec<u8>, Option<Rc<Era>>);

/// The answers of the peer that are being put together.
#[derive(Default)]
pub(crate) struct Incoming {
    streams: Vec<Assembly>,
    next: u32,
    /// The length of all open streams,
    open_bytes: usize,
    /// and the memory that holds what has arrived of them.
    memory: usize,
    /// Bytes that have arrived, and `PROGRESS_MIN` for each opening.
    progress: u64,
}

/// A message that has begun must grow by this number of bytes in time. An open stream is one, and opening it counts.
pub(crate) const PROGRESS_MIN: u64 = 1024;

fn fault(fault: &'static str) -> ProtocolError {
    ProtocolError::Chunk { fault }
}

impl Incoming {
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// The peer opens a stream. Nothing is reserved: a peer may claim any length.
    pub(crate) fn open(
        &mut self,
        number: u64,
        length: usize,
        bytes_max: usize,
        era: Option<Rc<Era>>,
    ) -> Result<(), ProtocolError> {
        if number != u64::from(self.next) {
            return Err(fault("opens a stream whose number is not the next one"));
        }
        if length == 0 {
            return Err(fault("opens a stream of no bytes"));
        }
        if self.streams.len() >= STREAMS_MAX || length > bytes_max.saturating_sub(self.open_bytes) {
            return Err(fault("opens more streams than this side takes at once"));
        }
        self.streams.push(Assembly {
            number: self.next,
            length,
            bytes: Vec::new(),
            era,
        });
        self.next = self.next.wrapping_add(1);
        self.open_bytes += length;
        self.progress += PROGRESS_MIN;
        Ok(())
    }

    /// A chunk has arrived. Returns the answer if it was the last.
    pub(crate) fn append(
        &mut self,
        number: u64,
        chunk: &[u8],
    ) -> Result<Option<Whole>, ProtocolError> {
        let index = self.find(number)?;
        let stream = &mut self.streams[index];
        let lacking = stream.length - stream.bytes.len();
        if chunk.is_empty() || chunk.len() > lacking {
            return Err(fault("has no bytes, or more than its stream lacks"));
        }
        let before = stream.bytes.capacity();
        if before - stream.bytes.len() < chunk.len() {
            // Twice as much each time, but never more than the whole.
            let more = chunk.len().max(stream.bytes.len()).min(lacking);
            stream.bytes.reserve_exact(more);
        }
        stream.bytes.extend_from_slice(chunk);
        self.memory += stream.bytes.capacity() - before;
        self.progress += chunk.len() as u64;
        if chunk.len() < lacking {
            return Ok(None);
        }
        let stream = self.remove(index);
        Ok(Some((stream.bytes, stream.era)))
    }

    /// The peer gives a stream up.
    pub(crate) fn abort(&mut self, number: u64) -> Result<(), ProtocolError> {
        let index = self.find(number)?;
        self.remove(index);
        Ok(())
    }

    fn find(&self, number: u64) -> Result<usize, ProtocolError> {
        let same = |stream: &Assembly| u64::from(stream.number) == number;
        let found = self.streams.iter().position(same);
        found.ok_or(fault("belongs to no open stream"))
    }

    fn remove(&mut self, index: usize) -> Assembly {
        let stream = self.streams.swap_remove(index);
        self.open_bytes -= stream.length;
        self.memory -= stream.bytes.capacity();
        stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One step of a link's sender.
    #[derive(Debug, Clone)]
    enum Step {
        Open(usize),
        Chunk(usize),
        Abort(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..300usize).prop_map(Step::Open),
            6 => (1..100usize).prop_map(Step::Chunk),
            1 => (0..200usize).prop_map(Step::Abort),
        ]
    }

    proptest! {
        #[test]
        fn every_answer_comes_out_whole_in_any_interleaving(steps in prop::collection::vec(step(), 0..200)) {
            const MAX: usize = 1000;
            let (mut sender, mut receiver) = (Outgoing::default(), Incoming::default());
            let (mut expected, mut opened) = (Vec::new(), 0u32);
            let mut got = Vec::new();
            let mut send = |sender: &mut Outgoing, receiver: &mut Incoming, max| {
                let mut chunk = None;
                let length = sender.next_chunk(max, |number, bytes| chunk = Some((number, bytes.to_vec())));
                if let Some((number, bytes)) = chunk {
                    assert!(length == bytes.len() && length <= max);
                    if let Some((whole, _)) = receiver.append(number.into(), &bytes).unwrap() {
                        got.push((number, whole));
                    }
                }
                length != 0
            };
            for step in steps {
                match step {
                    Step::Open(length) if sender.may_open(length, MAX) => {
                        let message: Vec<u8> = (0..length).map(|n| (n as u32 ^ opened) as u8).collect();
                        expected.push((opened, message.clone()));
                        let number = sender.open(opened, message);
                        assert_eq!(number, opened);
                        receiver.open(number.into(), length, MAX, None).unwrap();
                        opened += 1;
                    }
                    Step::Open(_) => {}
                    Step::Chunk(max) => _ = send(&mut sender, &mut receiver, max),
                    Step::Abort(at) => {
                        if let Some(stream) = sender.remove(at as u32) {
                            receiver.abort(stream.number.into()).unwrap();
                            expected.retain(|(number, _)| *number != stream.number);
                        }
                    }
                }
                assert_eq!(sender.open_bytes, receiver.open_bytes);
                assert!(receiver.memory() <= receiver.open_bytes && receiver.open_bytes <= MAX);
            }
            while send(&mut sender, &mut receiver, 64) {}
            got.sort();
            prop_assert_eq!(got, expected);
            prop_assert_eq!((sender.open_bytes, receiver.open_bytes, receiver.memory()), (0, 0, 0));
            prop_assert!(receiver.is_empty());
        }
    }

    #[test]
    fn streams_take_turns() {
        let mut sender = Outgoing::default();
        for length in [25, 10, 15] {
            sender.open(0, vec![0; length]);
        }
        let mut order = Vec::new();
        while sender.next_chunk(10, |number, _| order.push(number)) != 0 {}
        assert_eq!(order, [0, 1, 2, 0, 2, 0]);
    }

    #[test]
    fn chunks_that_are_not_due_are_refused() {
        let mut receiver = Incoming::default();
        assert!(receiver.append(0, b"x").is_err());
        assert!(receiver.abort(0).is_err());
        assert!(receiver.open(1, 10, 100, None).is_err());
        assert!(receiver.open(0, 0, 100, None).is_err());
        assert!(receiver.open(0, 101, 100, None).is_err());
        receiver.open(0, 10, 100, None).unwrap();
        assert!(receiver.open(0, 10, 100, None).is_err());
        assert!(receiver.open(1, 91, 100, None).is_err());
        assert!(receiver.append(0, b"").is_err());
        assert!(receiver.append(0, &[0; 11]).is_err());
        assert!(receiver.append(1 << 32, b"x").is_err());
        assert!(receiver.append(0, &[7; 9]).unwrap().is_none());
        let (bytes, _) = receiver.append(0, &[8]).unwrap().unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 7, 7, 7, 7, 8]);
        assert!(receiver.append(0, b"x").is_err());
        receiver.open(1, 100, 100, None).unwrap();
    }

    #[test]
    fn only_so_many_streams_are_open() {
        let (mut sender, mut receiver) = (Outgoing::default(), Incoming::default());
        for number in 0..STREAMS_MAX as u64 {
            assert!(sender.may_open(1, 1000));
            sender.open(0, vec![0]);
            receiver.open(number, 1, 1000, None).unwrap();
        }
        assert!(!sender.may_open(1, 1000));
        assert!(receiver.open(STREAMS_MAX as u64, 1, 1000, None).is_err());
    }
}

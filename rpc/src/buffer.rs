//! Reused buffers for reading and writing, and answers that point into the bytes that were read.
//!
//! Every loop (thread) keeps a small stack of empty buffers. A transport fills one, the session cuts messages out of it
//! as ranges of a reference-counted `Segment`, and the buffer returns to the stack when the last range is dropped.
//! Output buffers come from the same stack, and return to it when the transport has written them. So the steady state
//! allocates nothing for bytes. The reference counts are not atomic: a segment belongs to one loop.

use crate::release_order::{Era, LinkNumber};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

/// The capacity of a fresh buffer: what a busy connection reads or writes at a time.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// Smaller buffers are freed: they are cheap to make, and would grow step by step in their next use.
const KEEP_BYTES_MIN: usize = 8 * 1024;

/// Larger buffers are freed, so that one big message does not hold its memory forever.
const KEEP_BYTES_MAX: usize = 256 * 1024;

/// The number of empty buffers that a loop keeps.
const KEEP_COUNT_MAX: usize = 64;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room.
pub(crate) fn take() -> Vec<u8> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// The capacity of a buffer for one message to one of many sessions. With a large one for each, a message to ten
/// thousand of them would touch as many new pages.
const SMALL_BYTES: usize = 512;

/// An empty buffer for a message of that length: from the pool, or a small one that grows.
pub(crate) fn take_for(length: usize) -> Vec<u8> {
    let pooled = POOL.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
    pooled.unwrap_or_else(|| Vec::with_capacity(length.max(SMALL_BYTES)))
}

/// Returns a buffer to the pool.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    if buffer.capacity() < KEEP_BYTES_MIN || buffer.capacity() > KEEP_BYTES_MAX {
        return;
    }
    buffer.clear();
    // At the end of a thread the pool may be gone; then the buffer is freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEEP_COUNT_MAX {
            pool.push(buffer);
        }
    });
}

/// Bytes that were read, shared by the messages in them.
#[derive(Clone)]
pub(crate) struct Segment(Rc<SegmentBytes>);

struct SegmentBytes {
    bytes: Vec<u8>,
    /// The era in which they were received. Releases of references depend on it.
    era: Option<Rc<Era>>,
}

impl Drop for SegmentBytes {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.bytes));
    }
}

impl Segment {
    pub(crate) fn new(bytes: Vec<u8>, era: Option<Rc<Era>>) -> Segment {
        Segment(Rc::new(SegmentBytes { bytes, era }))
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Mutable access to the bytes if no message points into them. Bytes that are written there belong to `era`.
    pub(crate) fn unique(&mut self, era: &Option<Rc<Era>>) -> Option<&mut Vec<u8>> {
        let segment = Rc::get_mut(&mut self.0)?;
        if let (Some(old), Some(new)) = (&segment.era, era)
            && !Rc::ptr_eq(old, new)
        {
            segment.era = Some(new.clone());
        }
        Some(&mut segment.bytes)
    }

    pub(crate) fn is_same(&self, other: &Segment) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The memory that the segment holds, in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.0.bytes.capacity()
    }

    /// Copies a part of the bytes into a new segment.
    pub(crate) fn copy_of(&self, range: Range<usize>) -> Segment {
        Segment::new(self.0.bytes[range].to_vec(), self.0.era.clone())
    }
}

/// The values that answered a call: `count` of them, one after another, in msgpack.
///
/// It points into the buffer that was read, and keeps that buffer alive. Take what you need from it soon, or
/// [`detach`](Response::detach) it. It may name functions, so functions that the peer releases later stay known as long
/// as this lives.
///
/// ```
/// use yue_rpc::session::{Service, Session};
/// use yue_rpc::typed::Server;
/// use yue_rpc::{Error, Options, Timeout, transport};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new().handler("pair", |()| Ok(("a", 1))).listen("tcp://127.0.0.1:0")?;
///     let connector = transport::connector(listener.address());
///     let session = Session::open(connector, Service::none(), Options::default());
///     let answer = session.call("pair", Timeout::Default, |_| Ok(0))?;
///     assert_eq!(answer.count(), 1);
///     assert_eq!(answer.bytes(), b"\x92\xa1a\x01"); // the array ["a", 1]
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Response {
    segment: Segment,
    start: u32,
    end: u32,
    count: u32,
}

impl Response {
    pub(crate) fn new(segment: Segment, range: Range<usize>, count: u32) -> Response {
        // Segments are bounded by the message size limit plus a read, both far below 4 GiB.
        Response {
            segment,
            start: range.start as u32,
            end: range.end as u32,
            count,
        }
    }

    /// The values' bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.segment.bytes()[self.start as usize..self.end as usize]
    }

    /// The number of values.
    #[inline]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Copies the bytes, so that a response that is kept for long holds no more memory than it needs.
    pub fn detach(&mut self) {
        let segment = self.segment.copy_of(self.start as usize..self.end as usize);
        let end = segment.bytes().len();
        *self = Response::new(segment, 0..end, self.count);
    }

    /// The link that it came over. References in it belong to that link.
    #[inline]
    pub fn link(&self) -> LinkNumber {
        let era = self.segment.0.era.as_ref();
        era.map_or(LinkNumber(0), |era| era.link())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("count", &self.count)
            .field("bytes", &self.bytes().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_buffer_returns_when_its_last_answer_is_dropped() {
        POOL.with(|pool| pool.borrow_mut().clear());
        let mut buffer = take();
        buffer.extend_from_slice(&[1, 2, 3]);
        let response = Response::new(Segment::new(buffer, None), 1..3, 2);
        assert_eq!(response.bytes(), [2, 3]);
        let copy = response.clone();
        drop(response);
        assert_eq!(POOL.with(|pool| pool.borrow().len()), 0);
        drop(copy);
        assert_eq!(POOL.with(|pool| pool.borrow().len()), 1);
    }

    #[test]
    fn a_detached_answer_holds_only_its_own_bytes() {
        let mut response = Response::new(Segment::new(vec![7; 4096], None), 10..12, 1);
        response.detach();
        assert_eq!(response.bytes(), [7, 7]);
        assert_eq!(response.segment.bytes().len(), 2);
    }
}

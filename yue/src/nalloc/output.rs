//! The output of nodes and their carriers: always read, line by line, for the owner's log or a function of the program.
//!
//! A node that floods its output costs its owner reading, but neither memory nor log: lines are cut at [`LINE_MAX`],
//! and above [`LINES_PER_SECOND`] they are counted instead of passed on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::rc::Rc;
use std::time::Duration;
use yue_scheduler::sync::local::Notify;
use yue_scheduler::{Instant, deadline_after, is_past};

/// A longer line is cut into several.
const LINE_MAX: usize = 4096;

/// The number of last lines that an error shows.
const LAST_LINES: usize = 10;

/// The number of lines of one node that are passed on in a second.
const LINES_PER_SECOND: u32 = 1000;

/// The receiver of a line, which it may keep.
pub(crate) type Receiver = Rc<dyn Fn(&[u8])>;

/// The lines of one allocation.
pub(crate) struct Lines {
    receiver: Option<Receiver>,
    last: RefCell<VecDeque<Vec<u8>>>,
    /// The lines that may still be passed on until the second ends.
    left: Cell<u32>,
    second_ends: Cell<Option<Instant>>,
    dropped: Cell<u64>,
    /// The beginning of a line that was pushed.
    pushed: RefCell<Vec<u8>>,
    /// The number of streams that are being read.
    reading: Cell<u32>,
    ended: Notify,
}

impl Lines {
    /// Lines that go to the receiver, if there is one.
    pub(crate) fn new(receiver: Option<Receiver>) -> Lines {
        Lines {
            receiver,
            last: RefCell::default(),
            left: Cell::new(0),
            second_ends: Cell::new(None),
            dropped: Cell::new(0),
            pushed: RefCell::default(),
            reading: Cell::new(0),
            ended: Notify::new(),
        }
    }

    /// Forgets the last lines, which were another node's.
    pub(crate) fn clear(&self) {
        self.last.take();
        self.pushed.take();
    }

    /// The last lines, the newest last.
    pub(crate) fn last(&self) -> Vec<Vec<u8>> {
        self.last.borrow().iter().cloned().collect()
    }

    /// Reads a stream to its end.
    pub(crate) fn read_all(&self, mut stream: impl Read) {
        self.reading.set(self.reading.get() + 1);
        let mut line = Vec::new();
        let mut piece = [0; LINE_MAX];
        loop {
            let count = match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            self.split(&mut line, &piece[..count]);
        }
        if !line.is_empty() {
            self.take(&line);
        }
        self.report_dropped();
        self.reading.set(self.reading.get() - 1);
        self.ended.notify_all();
    }

    /// Takes bytes of a stream that somebody else reads.
    #[cfg(feature = "lua")]
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut line = self.pushed.take();
        for piece in bytes.chunks(LINE_MAX) {
            self.split(&mut line, piece);
        }
        *self.pushed.borrow_mut() = line;
    }

    /// Takes the lines that end in `bytes`; the rest stays in `line`.
    fn split(&self, line: &mut Vec<u8>, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = part.last() == Some(&b'\n');
            line.extend_from_slice(part.strip_suffix(b"\n").unwrap_or(part));
            if ended || line.len() >= LINE_MAX {
                self.take(line);
                line.clear();
            }
        }
    }

    /// Waits until no stream is being read any more, or the fiber is stopped.
    #[cfg(feature = "lua")]
    pub(crate) fn wait_for_end(&self) {
        while self.reading.get() > 0 && self.ended.notified().is_ok() {}
    }

    /// Takes a line, without its end.
    pub(super) fn take(&self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        {
            let mut last = self.last.borrow_mut();
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.to_vec());
        }
        if self.second_ends.get().is_none_or(is_past) {
            self.report_dropped();
            self.second_ends
                .set(Some(deadline_after(Duration::from_secs(1))));
            self.left.set(LINES_PER_SECOND);
        }
        match (self.left.get(), &self.receiver) {
            (0, _) => self.dropped.set(self.dropped.get() + 1),
            (left, receiver) => {
                self.left.set(left - 1);
                if let Some(receiver) = receiver {
                    receiver(line);
                }
            }
        }
    }

    fn report_dropped(&self) {
        let dropped = self.dropped.replace(0);
        if let (1.., Some(receiver)) = (dropped, &self.receiver) {
            let text =
                format!("({dropped} lines were dropped, above {LINES_PER_SECOND} in a second)");
            receiver(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(input: &[u8]) -> (Vec<Vec<u8>>, Lines) {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let copy = seen.clone();
        let lines = Lines::new(Some(Rc::new(move |line: &[u8]| {
            copy.borrow_mut().push(line.to_vec());
        })));
        yue_io::run(|| ()).ok();
        lines.read_all(input);
        (seen.take(), lines)
    }

    #[test]
    fn a_line_without_an_end_is_a_line() {
        let (seen, _) = lines_of(b"one\r\ntwo\n\nthree");
        assert_eq!(seen, [&b"one"[..], b"two", b"", b"three"]);
    }

    #[test]
    fn long_lines_are_cut_and_floods_are_counted() {
        let long = [b'x'; 3 * LINE_MAX];
        let (seen, _) = lines_of(&long);
        assert_eq!(seen.len(), 3);
        let many = "y\n".repeat(LINES_PER_SECOND as usize + 500);
        let (seen, lines) = lines_of(many.as_bytes());
        assert_eq!(seen.len(), LINES_PER_SECOND as usize + 1);
        assert!(
            seen.last()
                .is_some_and(|line| line.starts_with(b"(500 lines were dropped"))
        );
        assert_eq!(lines.last().len(), LAST_LINES);
    }
}

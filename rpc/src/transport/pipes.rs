//! Links over two descriptors, one to read from and one to write to: a child's standard output and input, or the
//! process's own.
//!
//! Two fibers carry the bytes: a process has few such links. The session's events must run outside fibers. So the
//! fibers leave what happened in [`Pipes`], and the tick's end tells the session.
//!
//! Invariant: the reader holds at most one piece that the session has not taken, so a session that does not read stops
//! the pipe.

use super::traits::{Events, Incoming, Transport};
use crate::transport::spawn_own;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::{Rc, Weak};
use yue_scheduler::sync::local::Notify;
use yue_scheduler::{FiberId, TickEnd, cancel, this_loop};

/// The most bytes that are read at a time: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Turns two streams of bytes, such as two pipes, into a link. Two fibers of the loop carry the bytes.
///
/// # Errors
/// If no fiber can be spawned.
pub fn start_pipes(
    reader: impl Read + 'static,
    writer: impl Write + 'static,
    events: Rc<dyn Events>,
) -> io::Result<Rc<dyn Transport>> {
    Ok(Pipes::start(reader, writer, || Ok(()), events)?)
}

/// A link over two descriptors.
pub(crate) struct Pipes {
    this: Weak<Pipes>,
    /// `None` once the session knows that the link has ended.
    events: RefCell<Option<Rc<dyn Events>>>,
    reading: Cell<bool>,
    /// The piece that the reader has read, and its length; 0: the session has taken it.
    piece: RefCell<Vec<u8>>,
    piece_bytes: Cell<usize>,
    input: Cell<Input>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued_bytes: Cell<usize>,
    /// Buffers that were written, and whether a part of another was.
    written: RefCell<Vec<Vec<u8>>>,
    progress: Cell<bool>,
    /// The sending direction ends when the queue is empty,
    shut_down: Cell<bool>,
    /// and the whole link with it.
    ends_when_written: Cell<bool>,
    /// The result of the link, to be told.
    result: RefCell<Option<io::Result<()>>>,
    reader_wakes: Notify,
    writer_wakes: Notify,
    fibers: RefCell<Vec<FiberId>>,
    scheduled: Cell<bool>,
}

/// The state of the direction in which a link reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// The peer sends no more, and the session does not know it yet.
    Ended,
    /// The session knows it.
    Told,
}

impl Pipes {
    /// Starts a link. `at_end` runs in a fiber when the input has ended, and says how: an error is the link's result;
    /// otherwise the session decides whether to continue sending.
    ///
    /// # Errors
    /// If no fiber can be spawned.
    pub(crate) fn start(
        reader: impl Read + 'static,
        writer: impl Write + 'static,
        at_end: impl FnOnce() -> io::Result<()> + 'static,
        events: Rc<dyn Events>,
    ) -> io::Result<Rc<Pipes>> {
        let pipes = Rc::new_cyclic(|this| Pipes {
            this: this.clone(),
            events: RefCell::new(Some(events)),
            reading: Cell::new(true),
            piece: RefCell::new(vec![0; READ_BYTES]),
            piece_bytes: Cell::new(0),
            input: Cell::new(Input::Open),
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            written: RefCell::default(),
            progress: Cell::new(false),
            shut_down: Cell::new(false),
            ends_when_written: Cell::new(false),
            result: RefCell::default(),
            reader_wakes: Notify::new(),
            writer_wakes: Notify::new(),
            fibers: RefCell::default(),
            scheduled: Cell::new(false),
        });
        let (of_reader, of_writer) = (pipes.clone(), pipes.clone());
        pipes.spawn("rpc pipe reader", move || {
            of_reader.read_all(reader, at_end)
        })?;
        let writing = pipes.spawn("rpc pipe writer", move || of_writer.write_all(writer));
        if let Err(error) = writing {
            pipes.stop();
            return Err(error);
        }
        Ok(pipes)
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + 'static) -> io::Result<()> {
        let fiber = spawn_own(name, body)?;
        self.fibers.borrow_mut().push(fiber);
        Ok(())
    }

    /// The body of the reading fiber.
    fn read_all(&self, mut reader: impl Read, at_end: impl FnOnce() -> io::Result<()>) {
        while !self.has_ended() {
            if self.piece_bytes.get() != 0 || !self.reading.get() {
                if self.reader_wakes.notified().is_err() {
                    return;
                }
                continue;
            }
            let mut piece = std::mem::take(&mut *self.piece.borrow_mut());
            let outcome = reader.read(&mut piece);
            *self.piece.borrow_mut() = piece;
            match outcome {
                Ok(0) => break,
                Ok(count) => {
                    self.piece_bytes.set(count);
                    self.schedule();
                }
                Err(_) if self.has_ended() => return,
                Err(error) => return self.finish(Err(error)),
            }
        }
        if self.has_ended() {
            return;
        }
        match at_end() {
            Ok(()) => {
                self.input.set(Input::Ended);
                self.schedule();
            }
            Err(error) => self.finish(Err(error)),
        }
    }

    /// The body of the writing fiber. The writer is closed with the sending direction.
    fn write_all(&self, mut writer: impl Write) {
        while !self.has_ended() {
            let Some(buffer) = self.queue.borrow_mut().pop_front() else {
                if self.shut_down.get() {
                    break;
                }
                if self.writer_wakes.notified().is_err() {
                    return;
                }
                continue;
            };
            let mut at = 0;
            while at < buffer.len() {
                match writer.write(&buffer[at..]) {
                    Ok(0) => return self.finish(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => {
                        at += count;
                        self.queued_bytes
                            .set(self.queued_bytes.get().saturating_sub(count));
                        self.progress.set(true);
                        self.schedule();
                    }
                    Err(_) if self.has_ended() => return,
                    // The reader finds out how the peer ended, and says it better.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        self.shut_down.set(true);
                        self.drop_queue();
                        self.progress.set(true);
                        self.schedule();
                        return;
                    }
                    Err(error) => return self.finish(Err(error)),
                }
            }
            self.written.borrow_mut().push(buffer);
            self.schedule();
        }
        drop(writer);
        if self.ends_when_written.get() {
            self.finish(Ok(()));
        }
    }

    fn has_ended(&self) -> bool {
        self.result.borrow().is_some() || self.events.borrow().is_none()
    }

    fn drop_queue(&self) {
        self.queue.borrow_mut().clear();
        self.queued_bytes.set(0);
    }

    /// Sets the link's result, unless it has one.
    fn finish(&self, result: io::Result<()>) {
        if !self.has_ended() {
            *self.result.borrow_mut() = Some(result);
            self.schedule();
        }
    }

    /// Arranges that the tick's end tells the session what happened.
    fn schedule(&self) {
        if let Some(this) = self.this.upgrade()
            && !self.scheduled.replace(true)
        {
            this_loop::at_tick_end(this);
        }
    }

    /// Ends the fibers, and with them the descriptors.
    fn stop(&self) {
        self.drop_queue();
        for fiber in self.fibers.take() {
            cancel(fiber);
        }
    }

    fn session(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }
}

impl TickEnd for Pipes {
    fn tick_end(&self) {
        self.scheduled.set(false);
        // Each event may close the link, so the events are looked up for each.
        let written = self.written.take();
        let progress = self.progress.take() && written.is_empty();
        for buffer in written {
            if let Some(events) = self.session() {
                events.sent(Some(buffer));
            }
        }
        if progress && let Some(events) = self.session() {
            events.sent(None);
        }
        let count = self.piece_bytes.get();
        if count != 0
            && self.reading.get()
            && let Some(events) = self.session()
        {
            let piece = std::mem::take(&mut *self.piece.borrow_mut());
            events.data(Incoming::Borrowed(&piece[..count]));
            *self.piece.borrow_mut() = piece;
            self.piece_bytes.set(0);
            self.reader_wakes.notify_one();
        }
        if self.piece_bytes.get() == 0
            && self.input.get() == Input::Ended
            && let Some(events) = self.session()
        {
            self.input.set(Input::Told);
            if !events.end_of_input() {
                self.ends_when_written.set(true);
                self.shutdown_write();
            }
        }
        let result = self.result.take();
        if let Some(result) = result
            && let Some(events) = self.events.take()
        {
            self.stop();
            events.closed(result);
        }
    }
}

impl Transport for Pipes {
    fn send(&self, buffer: Vec<u8>) {
        if self.has_ended() || self.shut_down.get() {
            return;
        }
        self.queued_bytes
            .set(self.queued_bytes.get() + buffer.len());
        self.queue.borrow_mut().push_back(buffer);
        self.writer_wakes.notify_one();
    }

    fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    fn set_reading(&self, on: bool) {
        self.reading.set(on);
        if on {
            self.schedule();
            self.reader_wakes.notify_one();
        }
    }

    fn shutdown_write(&self) {
        self.shut_down.set(true);
        self.writer_wakes.notify_one();
        // The writer may have ended already.
        if self.ends_when_written.get() && self.queued_bytes.get() == 0 {
            self.finish(Ok(()));
        }
    }

    fn close(&self) {
        self.drop_queue();
        self.finish(Ok(()));
    }
}

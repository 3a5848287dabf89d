//! A connection on io_uring: one multishot receive, and at most one send at a time.
//!
//! A multishot receive may end by itself (no buffers left, full completion queue). That is normal, and the next turn
//! restarts it. Where the kernel lacks multishot receives or buffer rings, each receive is a single operation into the
//! connection's own buffer.
//!
//! A multishot receive may stall at TCP's urgent mark: the kernel's receive fails there with `EAGAIN` if a signal is
//! pending, and the kernel does not poll again before it waits (`io_recv`, `io_poll_check_events`). It reports nothing,
//! so we could only find out by asking after every receive. See "Urgent data" in the book's `drivers.md`.
//!
//! ```text
//!   receive:  none ──start──▶ running ──last completion──▶ none
//!                                └─ unwanted, closing ─▶ ending (cancel submitted) ─┘
//! ```

use super::state::{OperationState, Phase, RING_SLICES, State};
use crate::driver::Backend;
use crate::errors::was_cancelled;
use crate::sys;
use crate::uring::{CompletionOwner, Core, GROUP};
use io_uring::{opcode, types};
use std::io;
use std::rc::Rc;

/// The maximum bytes of one send. A send completes when all of its bytes have left, and only then shows that the peer
/// reads: a peer that reads slowly must not look like one that does not read.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a single receive, used without buffer rings.
const SINGLE_BYTES: usize = 16 * 1024;

const RECEIVE: u8 = 0;
const SEND: u8 = 1;

impl State {
    pub(super) fn make_socket_blocking(&self) -> io::Result<()> {
        match self.socket() {
            Some(socket) => socket.set_blocking(),
            None => Ok(()),
        }
    }

    /// Starts and cancels operations according to the current state. Makes no callbacks.
    pub(super) fn drive_ring(self: &Rc<Self>, core: &Rc<Core>) -> bool {
        let open = self.is_open();
        // An operation that is ending is left alone: its last completion defers the connection, which then comes here
        // again. So a receive that was stopped and is wanted again starts only after the old one has ended.
        match self.ring.receive.get() {
            OperationState::None if open && self.reading.get() && !self.input_ended.get() => {
                self.start_receive(core)
            }
            OperationState::Running(id) if !open || !self.reading.get() => {
                core.cancel(id);
                self.ring.receive.set(OperationState::Ending);
            }
            _ => {}
        }
        match self.ring.send.get() {
            OperationState::None if open => self.start_send(core),
            OperationState::Running(id) if !open => {
                core.cancel(id);
                self.ring.send.set(OperationState::Ending);
            }
            _ => {}
        }
        false
    }

    fn start_receive(self: &Rc<Self>, core: &Rc<Core>) {
        let Some(socket) = self.socket() else { return };
        let fd = types::Fd(socket.raw());
        let entry = if core.multishot.get() && core.buffers().is_some() {
            opcode::RecvMulti::new(fd, GROUP).build()
        } else {
            let mut single = self.ring.single.borrow_mut();
            single.resize(SINGLE_BYTES, 0);
            opcode::Recv::new(fd, single.as_mut_ptr(), SINGLE_BYTES as u32).build()
        };
        debug_assert_eq!(
            self.ring.receive.get(),
            OperationState::None,
            "one receive at a time"
        );
        debug_assert!(
            self.is_open() && !self.input_ended.get(),
            "no receive starts at the end of input or of the connection"
        );
        // SAFETY: a multishot receive points to no memory of this process. A single one points to `single`, which is
        // not touched until its completion, and the operation keeps `self` alive until then.
        let id = unsafe { core.start_operation(entry, self.clone(), RECEIVE) };
        self.ring.receive.set(OperationState::Running(id));
    }

    /// Sends as much of the queue as fits in one operation.
    fn start_send(self: &Rc<Self>, core: &Rc<Core>) {
        let (queue, Some(socket)) = (self.queue.borrow(), self.socket()) else {
            return;
        };
        if queue.is_empty() {
            return;
        }
        let fd = types::Fd(socket.raw());
        // The kernel itself continues after a short write, unless an error interrupts it (`io_uring_prep_send(3)`). A
        // short count is possible nevertheless: <https://github.com/axboe/liburing/issues/1337>.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let first = &queue[0][self.first_sent.get()..];
        let entry = if queue.len() == 1 || first.len() >= SEND_BYTES_MAX {
            opcode::Send::new(fd, first.as_ptr(), first.len().min(SEND_BYTES_MAX) as u32)
                .flags(flags)
                .build()
        } else {
            let slices = self.ring.slices.get();
            let rest = queue.iter().skip(1).map(Vec::as_slice);
            let (mut count, mut total) = (0, 0);
            for bytes in std::iter::once(first).chain(rest).take(RING_SLICES) {
                // SAFETY: no send is in flight, so nothing else uses the array; `count` is below RING_SLICES.
                unsafe {
                    (*slices)[count] = libc::iovec {
                        iov_base: bytes.as_ptr().cast_mut().cast(),
                        iov_len: bytes.len(),
                    };
                }
                count += 1;
                total += bytes.len();
                if total >= SEND_BYTES_MAX {
                    break;
                }
            }
            // SAFETY: as above.
            unsafe { *self.ring.message.get() = sys::header_of(slices.cast(), count) };
            opcode::SendMsg::new(fd, self.ring.message.get())
                .flags(flags as u32)
                .build()
        };
        debug_assert_eq!(
            self.ring.send.get(),
            OperationState::None,
            "one send at a time"
        );
        debug_assert!(self.is_open(), "no send starts while the connection closes");
        debug_assert!(!first.is_empty(), "an empty send would look like progress");
        // SAFETY: buffers stay in the queue, where their bytes do not move, until the completion removes them. Header
        // and slices are in `self`, which the operation keeps alive, and are written only when no send is in flight.
        let id = unsafe { core.start_operation(entry, self.clone(), SEND) };
        self.ring.send.set(OperationState::Running(id));
    }

    fn handle_received(self: &Rc<Self>, core: &Rc<Core>, result: i32, flags: u32, last: bool) {
        debug_assert_ne!(
            self.ring.receive.get(),
            OperationState::None,
            "a receive completed that was not started"
        );
        debug_assert_ne!(
            self.phase.get(),
            Phase::Closed,
            "a connection ends after its receive"
        );
        if last {
            self.ring.receive.set(OperationState::None);
        }
        match usize::try_from(result) {
            Ok(0) => self.input_ended.set(true),
            Ok(count) if io_uring::cqueue::buffer_select(flags).is_some() => {
                if let Some(buffers) = core.buffers() {
                    buffers.lend(flags, count, |bytes| self.deliver(bytes));
                }
            }
            Ok(count) => {
                // Taken out during the callback, so that no borrow is live. No receive starts before the next turn.
                let bytes = self.ring.single.take();
                self.deliver(&bytes[..count.min(bytes.len())]);
                self.ring.single.replace(bytes);
            }
            Err(_) => self.handle_receive_error(core, -result),
        }
        if last {
            self.defer();
        }
    }

    fn handle_receive_error(self: &Rc<Self>, core: &Rc<Core>, error: i32) {
        match error {
            libc::ENOBUFS => core.buffers_exhausted.set(core.buffers_exhausted.get() + 1),
            // Cancelled by this connection, or by `cancel_all`, and then the abort follows.
            error if was_cancelled(error) => {}
            // A clone made the descriptor non-blocking: then the ring does not wait for it
            // (<https://github.com/axboe/liburing/issues/364>).
            libc::EAGAIN => {
                if let Err(error) = self.make_socket_blocking() {
                    self.begin_closing(Some(error));
                }
            }
            // The kernel lacks multishot receives (Linux 6.0), and says so only now. The next receive is a single one.
            libc::EINVAL if core.multishot.get() => core.multishot.set(false),
            error => self.begin_closing(Some(io::Error::from_raw_os_error(error))),
        }
    }

    fn handle_sent(self: &Rc<Self>, core: &Rc<Core>, result: i32) {
        debug_assert!(
            self.ring.is_sending(),
            "a send completed that was not started"
        );
        debug_assert!(
            !self.queue.borrow().is_empty(),
            "the queue kept the buffers of the send"
        );
        self.ring.send.set(OperationState::None);
        match usize::try_from(result) {
            Ok(count) => {
                self.remove_sent(count);
                // The next send leaves in this turn. `sent`, which was called, may have closed the connection.
                if self.is_open() && self.ring.send.get() == OperationState::None {
                    self.start_send(core);
                }
            }
            // Nothing was sent. `EAGAIN` also without `MSG_DONTWAIT`: the kernel limits its own retries
            // (<https://git.kernel.org/torvalds/c/c16bda37594f>). The next turn sends again, if the connection is open.
            Err(_) if was_cancelled(-result) || -result == libc::EAGAIN => {}
            Err(_) => self.begin_closing(Some(io::Error::from_raw_os_error(-result))),
        }
        self.handle_empty_queue();
        if self.phase.get() != Phase::Open || self.ring.send.get() == OperationState::None {
            self.defer();
        }
    }
}

impl CompletionOwner for State {
    fn on_completion(self: Rc<Self>, tag: u8, result: i32, flags: u32, last: bool) {
        let Backend::Uring(core) = &self.backend else {
            return;
        };
        match tag {
            RECEIVE => self.handle_received(core, result, flags, last),
            _ => self.handle_sent(core, result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Connection, Sink};
    use crate::driver::{Backend, backend};
    use crate::net::UnixStream;
    use crate::{Choice, driver};
    use std::cell::{Cell, RefCell};
    use std::io::{self, Read, Write};
    use std::rc::Rc;
    use yue_scheduler::{Config, LocalWaker, Loop, park, prepare_park};

    #[derive(Default)]
    struct Echo {
        connection: RefCell<Option<Connection>>,
        waker: Cell<Option<LocalWaker>>,
    }

    impl Sink for Echo {
        fn data(&self, bytes: &[u8]) {
            if let Some(connection) = &*self.connection.borrow() {
                connection.send(bytes.to_vec());
            }
        }

        fn sent(&self, _: Vec<u8>) {}

        fn closed(&self, result: io::Result<()>) {
            result.unwrap();
            self.connection.take();
            self.waker.take().unwrap().wake();
        }
    }

    #[test]
    fn single_receives_replace_a_multishot_one() {
        let Ok(driver) = driver(Choice::Uring) else {
            eprintln!("skipped: io_uring is not available");
            return;
        };
        Loop::new(Config {
            driver,
            ..Config::default()
        })
        .unwrap()
        .run(|| {
            let Ok(Backend::Uring(core)) = backend() else {
                unreachable!("the loop was made with io_uring")
            };
            core.multishot.set(false);
            let (one, mut other) = UnixStream::pair().unwrap();
            let echo = Rc::new(Echo::default());
            let connection = Connection::start_unix(one, echo.clone()).unwrap();
            *echo.connection.borrow_mut() = Some(connection.clone());
            for size in [1, 100, 40_000] {
                let sent = vec![size as u8; size];
                other.write_all(&sent).unwrap();
                let mut got = vec![0; size];
                other.read_exact(&mut got).unwrap();
                assert!(got == sent);
            }
            connection.set_reading(false);
            connection.set_reading(true);
            echo.waker.set(Some(prepare_park()));
            // The wait begins before the end can arrive: both happen in this turn.
            std::mem::drop(other);
            park("end of input").unwrap();
            assert!(!core.multishot.get());
        });
    }
}

//! A connection on mio: reads while the socket is readable, writes until it is full.
//!
//! Edges come once, so readiness is remembered until a call returns `WouldBlock`. All connections of a loop read into
//! one buffer. A connection that has used up its reads in one turn continues in the next.

use super::state::State;
use crate::mio::{Core, DescriptorEvent, EventOwner, READ_BYTES};
use crate::sys;
use std::io::{self, IoSlice};
use std::rc::Rc;

/// The maximum number of buffers in one send.
const GATHER: usize = sys::SLICES_MAX;

/// The maximum number of reads of one connection in one turn, of up to [`READ_BYTES`] each. Other connections run in
/// between.
const READS_PER_TURN: u32 = 4;

impl State {
    pub(super) fn register_with_mio(self: &Rc<Self>, core: &Core) -> io::Result<()> {
        match self.socket() {
            Some(socket) => core.set_owner(socket.identity(), self.clone()),
            None => Ok(()),
        }
    }

    /// Reads and writes as far as the socket is ready and the program wants it. Returns whether callbacks were made.
    pub(super) fn drive_mio(self: &Rc<Self>, core: &Rc<Core>) -> bool {
        let mut called = self.read_while_readable(core);
        called |= self.write_while_writable();
        called |= self.report_end_of_input();
        called
    }

    fn read_while_readable(self: &Rc<Self>, core: &Rc<Core>) -> bool {
        let mut called = false;
        // Taken out of the driver during the callbacks, so that no borrow is live.
        let mut buffer = core.read_buffer.take();
        buffer.resize(READ_BYTES, 0);
        for _ in 0..READS_PER_TURN {
            if !self.wants_data() {
                break;
            }
            let Some(socket) = self.socket() else { break };
            debug_assert!(
                !self.end_reported.get(),
                "no read after the end of input was reported"
            );
            match sys::recv(socket.raw(), &mut buffer, 0) {
                Ok(0) => self.input_ended.set(true),
                Ok(count) => {
                    // After a short read, further bytes bring a new edge (`epoll(7)`, questions and answers, 9). Not on
                    // a Unix socket, which also ends a read after a message with descriptors (`unix(7)`, `SCM_RIGHTS`).
                    let may_have_more = count == buffer.len()
                        || !socket.kind().is_tcp()
                        || self.mio.short_reads_may_lie.get();
                    self.mio.readable.set(may_have_more);
                    called = true;
                    self.deliver(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mistaken = self.mio.met_urgent_data.get() && sys::has_input(socket.raw());
                    self.mio.readable.set(mistaken);
                }
                Err(error) => self.begin_closing(Some(error)),
            }
        }
        core.read_buffer.set(buffer);
        // Readable still, and no edge will say so again: continue in the next turn.
        if self.wants_data() {
            self.defer();
        }
        called
    }

    fn wants_data(&self) -> bool {
        self.is_open() && self.reading.get() && self.mio.readable.get() && !self.input_ended.get()
    }

    fn write_while_writable(self: &Rc<Self>) -> bool {
        let mut called = false;
        while self.is_open() && self.mio.writable.get() {
            let Some(socket) = self.socket() else { break };
            let written = {
                // Borrowed for the call only: `remove_sent` makes callbacks, which may send.
                let queue = self.queue.borrow();
                let Some(first) = queue.front() else { break };
                let first = &first[self.first_sent.get()..];
                if queue.len() == 1 {
                    sys::send(socket.raw(), first)
                } else {
                    let rest = queue.iter().skip(1).map(Vec::as_slice);
                    let all = std::iter::once(first).chain(rest).map(IoSlice::new);
                    let slices: smallvec::SmallVec<[IoSlice<'_>; GATHER]> =
                        all.take(GATHER).collect();
                    sys::send_vectored(socket.raw(), &slices)
                }
            };
            match written {
                Ok(count) => {
                    called = true;
                    let whole = || self.queue.borrow().iter().map(Vec::len).sum::<usize>();
                    let lost = yue_scheduler::planted!("short send taken as whole");
                    self.remove_sent(if lost {
                        whole() - self.first_sent.get()
                    } else {
                        count
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.mio.writable.set(false)
                }
                Err(error) => self.begin_closing(Some(error)),
            }
        }
        called
    }
}

impl EventOwner for State {
    fn on_event(self: Rc<Self>, event: DescriptorEvent) {
        debug_assert!(
            !self.ring.in_flight(),
            "a connection on mio has no operation in a ring"
        );
        // Readiness is only added here. A call that returns `WouldBlock` removes it. A broken socket counts as ready
        // for both, so that the next call reports the error.
        let state = &self.mio;
        state
            .readable
            .set(state.readable.get() || event.readable || event.hung_up);
        state
            .writable
            .set(state.writable.get() || event.writable || event.hung_up);
        state
            .short_reads_may_lie
            .set(state.short_reads_may_lie.get() || event.hung_up || event.urgent);
        state
            .met_urgent_data
            .set(state.met_urgent_data.get() || event.urgent);
        self.defer();
    }
}

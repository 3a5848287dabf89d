//! Calls to all members of a multicast group, each of which may answer.

use super::call::{CallId, Target};
use super::inner::Session;
use super::options::{Timeout, count};
use super::state::in_flight::{Each, Waiter};
use crate::buffer::Response;
use crate::error::{Error, ErrorKind};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;

/// An event of a call to all members of a group.
#[derive(Debug)]
pub enum MemberAnswer {
    /// A member's answer, and the address from which it came. `udp://` with that address reaches the member.
    From(SocketAddr, Result<Response, Error>),
    /// No more answers are taken. `TimeoutError`: the time has passed, as it must, since nobody knows how many members
    /// there are. Any other error is a failure of this side.
    End(Error),
}

impl Session {
    /// Calls all members of the group that a session to `mcast://` reaches. The loop calls `each` outside fibers, so it
    /// cannot park: once for each member that answers, and once at the end of the time. Never waits.
    ///
    /// Further answers of a member that has answered are ignored. So are answers above
    /// [`Limits::in_flight_max`](crate::Limits::in_flight_max), or above
    /// [`Limits::pending_input_bytes_max`](crate::Limits::pending_input_bytes_max) in all.
    ///
    /// # Errors
    /// `ArgumentError` if the session does not lead to a group; else like [`Session::call_async`]. `each` is not called
    /// then.
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn call_members<'a>(
        &self,
        target: impl Into<Target<'a>>,
        timeout: Timeout,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
        each: impl Fn(MemberAnswer) + 'static,
    ) -> Result<CallId, Error> {
        let inner = &*self.inner;
        if !inner.connector.leads_to_group() {
            let text = format!(
                "a call to all members needs an mcast:// address, not {}",
                inner.address
            );
            return Err(Error::new(ErrorKind::Argument, text));
        }
        let limits = &inner.options.limits;
        let (answers_max, bytes_max) = (limits.in_flight_max, limits.pending_input_bytes_max);
        let this = inner.this.clone();
        let senders = RefCell::new(HashSet::new());
        let bytes = Cell::new(0);
        let each: Each = Rc::new(move |sender: Option<SocketAddr>, outcome| match sender {
            None => {
                let end = |outcome: Result<Response, Error>| outcome.err();
                if let Some(error) = end(outcome) {
                    each(MemberAnswer::End(error));
                }
            }
            Some(sender) => {
                let length = match &outcome {
                    Ok(response) => response.bytes().len(),
                    Err(_) => 0,
                };
                let fits =
                    senders.borrow().len() < answers_max && bytes.get() + length <= bytes_max;
                if fits && senders.borrow_mut().insert(sender) {
                    bytes.set(bytes.get() + length);
                    each(MemberAnswer::From(sender, outcome));
                } else if let Some(inner) = this.upgrade() {
                    count(&inner.counters.answers_ignored);
                }
            }
        });
        self.start_async(target.into(), timeout, params, Waiter::Each(each))
    }
}

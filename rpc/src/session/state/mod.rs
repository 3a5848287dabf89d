//! The parts of a session's state.
//!
//! A part does not know the session, and only the inbox knows another part, the accounts. So each can be read and
//! tested alone. The session's work with a part is in the file of the same name one folder up.

pub(crate) mod accounts;
pub(crate) mod changes;
pub(crate) mod connector;
pub(crate) mod handshake;
pub(crate) mod in_flight;
pub(crate) mod inbox;
pub(crate) mod input;
pub(crate) mod keepalive;
pub(crate) mod link;
pub(crate) mod memberships;
pub(crate) mod phase;
pub(crate) mod queued_calls;
pub(crate) mod rate_limit;
pub(crate) mod references;
pub(crate) mod streams;
pub(crate) mod write_buffer;

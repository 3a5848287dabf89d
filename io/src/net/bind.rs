//! Binds an address that a killed process may still hold.
//!
//! io_uring ends the operations of a killed process only after the process itself is gone, and they hold its sockets: 6
//! to 15 ms later on the development machine. A server that is restarted at once would find its own port in use.

use super::listening_socket::cannot_pause;
use super::socket::Socket;
use socket2::SockAddr;
use std::io;
use std::time::Duration;
use yue_scheduler::{in_fiber, sleep};

/// The time that the kernel gets to end a killed process, and the pause between two attempts to bind.
const END_OF_A_PROCESS: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(2);

/// Binds a TCP or UDP socket. An address that is in use is tried again for a moment; meanwhile the calling fiber waits.
pub(super) fn bind(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let mut waited = Duration::ZERO;
    loop {
        match socket.options().bind(address) {
            Err(error) if may_become_free(&error, address) && waited < END_OF_A_PROCESS => {
                if !pause() {
                    return Err(error);
                }
                waited += PAUSE;
            }
            other => return other,
        }
    }
}

/// With port 0 the error means that the system has no port left.
fn may_become_free(error: &io::Error, address: &SockAddr) -> bool {
    let port = address.as_socket().map_or(0, |address| address.port());
    error.kind() == io::ErrorKind::AddrInUse && port != 0
}

/// Waits before the next attempt. False if the caller cannot wait, or was cancelled.
fn pause() -> bool {
    match in_fiber() {
        _ if cannot_pause() => return false,
        true => return sleep(PAUSE).is_ok(),
        false => std::thread::sleep(PAUSE),
    }
    true
}

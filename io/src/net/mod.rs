//! TCP, UDP and Unix sockets for fibers, like `std::net`. A call that waits parks its fiber, and the loop runs others.
//!
//! ```
//! use std::io::{Read, Write};
//! use yue_io::net::{TcpListener, TcpStream};
//! use yue_scheduler::spawn;
//!
//! let answer = yue_io::run(|| -> std::io::Result<String> {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     spawn(move || -> std::io::Result<()> {
//!         let (mut peer, _) = listener.accept()?;
//!         let mut bytes = [0; 5];
//!         peer.read_exact(&mut bytes)?;
//!         peer.write_all(&bytes)
//!     });
//!     let mut stream = TcpStream::connect(address)?;
//!     stream.write_all(b"hello")?;
//!     std::io::read_to_string(stream)
//! })??;
//! assert_eq!(answer, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The effect of a call that waits depends on the caller. In a fiber it parks the fiber. On a thread without a loop it
//! blocks the thread. In a callback of a loop it fails with `WouldBlock`, because a callback cannot wait. The types are
//! `Send` and `Sync`. An operation borrows the socket, so dropping a socket is a plain close.
//!
//! A fiber that is cancelled, or whose deadline passes, gets the error from the operation it waits in. If that
//! operation has already moved bytes, it returns them, and the next operation returns the error.

mod attempt;
mod bind;
mod connect;
mod datagram_batch;
mod halves;
pub(crate) mod kind;
mod listening_socket;
mod multicast;
pub(crate) mod options;
mod resolve;
mod scm_rights;
pub(crate) mod socket;
mod stream;
mod tcp;
mod tcp_listener;
mod udp;
mod unix;
mod unix_datagram;

pub use connect::ConnectOptions;
pub use datagram_batch::{Datagram, Datagrams};
pub use halves::{Duplex, NotTheSame, OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf};
pub use multicast::interface_index;
pub use resolve::ToSocketAddrs;
pub use scm_rights::Received;
pub use std::net::Shutdown;
pub use tcp::{Keepalive, TcpStream};
pub use tcp_listener::{Incoming, ListenOptions, TcpListener};
pub use udp::UdpSocket;
pub use unix::{PeerCredentials, UnixIncoming, UnixListener, UnixStream};
pub use unix_datagram::UnixDatagram;

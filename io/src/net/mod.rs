//! TCP, UDP and Unix sockets, as in `std::net`, on fibers: a call that waits parks the fiber, and the loop runs others.
//!
//! ```
//! use std::io::{Read, Write};
//! use yue::net::{TcpListener, TcpStream};
//! use yue::spawn;
//!
//! let answer = yue::Runtime::new()?.run(|| -> std::io::Result<String> {
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
//! })?;
//! assert_eq!(answer, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Where the types are used: in a fiber they park it; on a thread without a loop they block it; in a callback of a loop
//! nothing can wait, and what would is an error of the kind `WouldBlock`. They are `Send` and `Sync`: an operation
//! borrows the socket, so that dropping one is a plain close.
//!
//! A fiber that is cancelled, or whose deadline passes, gets the error from the operation it waits in; bytes that an
//! operation had moved by then are its result instead, and the next one gets the error.

mod attempt;
mod batch;
mod connect;
mod halves;
pub(crate) mod kind;
mod listener;
mod listening;
mod resolve;
mod rights;
pub(crate) mod socket;
mod stream;
mod tcp;
mod udp;
mod unix;
mod unix_datagram;

pub use batch::{Datagram, Datagrams};
pub use connect::ConnectOptions;
pub use halves::{Duplex, NotTheSame, OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf};
pub use listener::{Incoming, ListenOptions, TcpListener};
pub use resolve::ToSocketAddrs;
pub use rights::Received;
pub use std::net::Shutdown;
pub use tcp::{Keepalive, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixIncoming, UnixListener, UnixStream};
pub use unix_datagram::UnixDatagram;

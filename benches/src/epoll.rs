//! Thin wrappers of the few system calls that the handwritten loops and the load generators use.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// The maximum number of events that one wait returns.
const EVENTS: usize = 1024;

/// An epoll instance with edge-triggered registrations and tokens chosen by the caller.
#[derive(Debug)]
pub struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// A readiness event.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token given at registration.
    pub token: u64,
    /// Whether the peer will send no more (or the connection broke).
    pub ended: bool,
}

impl Epoll {
    /// Creates an instance.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: creates a new descriptor; no memory is passed.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and has no other owner.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Epoll {
            descriptor,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
        })
    }

    /// Watches a descriptor for input, and with `writing` also for room to write.
    pub fn add(&self, descriptor: RawFd, token: u64, writing: bool) -> io::Result<()> {
        let write = if writing { libc::EPOLLOUT } else { 0 };
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET | write;
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        let epoll = self.descriptor.as_raw_fd();
        // SAFETY: the event is only read; an invalid descriptor yields an error.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &mut event) })
            .map(drop)
    }

    /// Waits for at most `timeout` (`None`: forever) and passes each event to `each`.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut each: impl FnMut(Ready) -> io::Result<()>,
    ) -> io::Result<()> {
        // Rounded down: a caller that waits for an instant prefers one more look to being late.
        let timeout_ms = timeout.map_or(-1, |timeout| timeout.as_millis() as libc::c_int);
        let epoll = self.descriptor.as_raw_fd();
        // SAFETY: the kernel writes at most `EVENTS` events into a vector of that length.
        let count = unsafe {
            libc::epoll_wait(
                epoll,
                self.events.as_mut_ptr(),
                EVENTS as libc::c_int,
                timeout_ms,
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        let over = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        for event in &self.events[..count] {
            each(Ready {
                token: event.u64,
                ended: event.events & over != 0,
            })?;
        }
        Ok(())
    }
}

/// The outcome of a non-blocking transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The number of bytes; never zero for a receive.
    Bytes(usize),
    /// It would have to wait.
    Later,
    /// The peer has closed the stream.
    Ended,
}

/// Receives the available bytes.
#[inline]
pub fn receive(descriptor: RawFd, buffer: &mut [u8]) -> io::Result<Moved> {
    // SAFETY: the kernel writes at most the buffer's length into it.
    let count = unsafe {
        libc::recv(
            descriptor,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_DONTWAIT,
        )
    };
    match count {
        0 => Ok(Moved::Ended),
        _ => moved(count),
    }
}

/// Sends as many bytes as there is room for.
#[inline]
pub fn send(descriptor: RawFd, bytes: &[u8]) -> io::Result<Moved> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads at most the slice's length from it.
    moved(unsafe { libc::send(descriptor, bytes.as_ptr().cast(), bytes.len(), flags) })
}

#[inline]
fn moved(count: isize) -> io::Result<Moved> {
    if count >= 0 {
        return Ok(Moved::Bytes(count as usize));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Moved::Later),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Ok(Moved::Ended),
        _ => Err(error),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Raises this process's descriptor limit, and that of children started later, for this many connections.
///
/// # Errors
///
/// When the system's hard limit is lower.
pub fn allow_descriptors(connections: usize) -> io::Result<()> {
    /// Descriptors besides the connections: standard streams, epoll, rings, bells, a listener.
    const OTHERS: usize = 100;
    let wanted = (connections + OTHERS) as libc::rlim_t;
    // SAFETY: a zeroed limit is valid; the calls write to it and read it.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        if limit.rlim_cur < wanted {
            limit.rlim_cur = wanted;
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
        }
    }
    Ok(())
}

/// Creates a listener on a free local port, with a backlog for a thousand simultaneous connects.
///
/// Accepted connections send small messages at once: they inherit the option.
pub fn listen() -> io::Result<TcpListener> {
    const BACKLOG: libc::c_int = 4096;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let descriptor = listener.as_raw_fd();
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that is only read; listening again only changes the backlog.
    unsafe {
        check(libc::listen(descriptor, BACKLOG))?;
        check(libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        ))?;
    }
    Ok(listener)
}

/// Connects to a local port. Small messages are sent at once.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

//! Passing open descriptors to another process over a Unix socket (`SCM_RIGHTS`).
//!
//! ```text
//!   control data:  [ cmsghdr: length, SOL_SOCKET, SCM_RIGHTS ][ fd ][ fd ] …      aligned as a cmsghdr
//! ```

use super::socket::Socket;
use super::unix::UnixStream;
use super::unix_datagram::UnixDatagram;
use crate::sys;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The maximum number of descriptors in one message: the kernel's limit (`SCM_MAX_FD`).
const DESCRIPTORS_MAX: usize = 253;

/// The result of one receive: bytes and descriptors.
///
/// ```
/// use std::io::Write;
/// use std::os::fd::AsFd;
/// use yue_io::net::{TcpListener, UnixStream};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     // A server hands its listener over to its successor.
///     let (old, new) = UnixStream::pair()?;
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     old.send_with_fds(b"!", &[listener.as_fd()])?;
///     let received = new.recv_with_fds(&mut [0; 1])?;
///     assert_eq!((received.count, received.descriptors.len(), received.lost), (1, 1, false));
///     let descriptor = received.descriptors.into_iter().next().unwrap();
///     let inherited = TcpListener::from(descriptor);
///     assert_eq!(inherited.local_addr()?, listener.local_addr()?);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Received {
    /// The number of bytes received.
    pub count: usize,
    /// The descriptors received with them, with close-on-exec set.
    pub descriptors: Vec<OwnedFd>,
    /// Whether descriptors were lost because this process is at its descriptor limit.
    pub lost: bool,
}

/// Control data for the maximum number of descriptors, aligned as the kernel requires.
#[repr(C, align(8))]
struct Control([u8; control_bytes(DESCRIPTORS_MAX)]);

const fn control_bytes(descriptors: usize) -> usize {
    // SAFETY: `CMSG_SPACE` only computes.
    unsafe { libc::CMSG_SPACE((descriptors * size_of::<RawFd>()) as u32) as usize }
}

impl Control {
    fn new() -> Self {
        Control([0; control_bytes(DESCRIPTORS_MAX)])
    }
}

fn send(socket: &Socket, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > DESCRIPTORS_MAX {
        let text = format!(
            "cannot send {} descriptors in one message; send at most {DESCRIPTORS_MAX} at a time",
            descriptors.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let slice = [IoSlice::new(bytes)];
    let mut header = sys::write_header(&slice);
    let mut control = Control::new();
    if !descriptors.is_empty() {
        let data_bytes = size_of_val(descriptors) as u32;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control_bytes(descriptors.len());
        // SAFETY: the control data has room for a header and the descriptors, and is aligned for the header.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(data_bytes) as usize;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            for (n, descriptor) in descriptors.iter().enumerate() {
                data.add(n).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    // SAFETY: header, slice and control data live in this frame; bytes and descriptors are borrowed.
    unsafe { socket.send_message(&header) }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut slice = [IoSliceMut::new(buffer)];
    let mut header = sys::read_header(&mut slice);
    let mut control = Control::new();
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: header, slice and control data live in this frame, and the buffer is borrowed until the call returns.
    let count = unsafe { socket.recv_message(&mut header, libc::MSG_CMSG_CLOEXEC)? };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled in the control data and its length. Each descriptor in it is new, and nothing else
    // owns it.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while !message.is_null() {
            if ((*message).cmsg_level, (*message).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
            {
                let bytes = (*message).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                for n in 0..bytes / size_of::<RawFd>() {
                    descriptors.push(sys::own_fd(data.add(n).read_unaligned() as u32));
                }
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Ok(Received {
        count,
        descriptors,
        lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

impl UnixStream {
    /// Writes bytes and passes open descriptors along. The peer receives the descriptors with the first of the bytes.
    /// They stay open here as well.
    ///
    /// # Errors
    /// The errors of a write; when there are no bytes to carry the descriptors, or more than 253 descriptors.
    ///
    /// ```
    /// use std::io::Write;
    /// use std::os::fd::AsFd;
    /// use yue_io::net::UnixStream;
    /// use yue_io::pipe::{PipeWriter, pipe};
    ///
    /// yue_io::run(|| -> std::io::Result<()> {
    ///     let (here, there) = UnixStream::pair()?;
    ///     let (reader, writer) = pipe()?;
    ///     here.send_with_fds(b"a pipe", &[writer.as_fd()])?;
    ///     drop(writer);
    ///     let mut got = there.recv_with_fds(&mut [0; 16])?;
    ///     let mut writer = PipeWriter::from(got.descriptors.remove(0));
    ///     writer.write_all(b"through it")?;
    ///     drop(writer);
    ///     assert_eq!(std::io::read_to_string(reader)?, "through it");
    ///     Ok(())
    /// })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_with_fds(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        if bytes.is_empty() && !descriptors.is_empty() {
            let text = "cannot send descriptors without bytes on a stream; add at least one byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        send(&self.socket, bytes, descriptors)
    }

    /// Reads bytes and receives the descriptors sent with them. A plain read would close the descriptors.
    ///
    /// # Errors
    /// The errors of a read.
    pub fn recv_with_fds(&self, buffer: &mut [u8]) -> io::Result<Received> {
        receive(&self.socket, buffer)
    }
}

impl UnixDatagram {
    /// Sends a datagram to the peer and passes open descriptors along. They stay open here as well.
    ///
    /// # Errors
    /// The errors of [`UnixDatagram::send`]; for more than 253 descriptors.
    pub fn send_with_fds(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        send(&self.socket, bytes, descriptors)
    }

    /// Receives a datagram and the descriptors sent with it.
    ///
    /// # Errors
    /// See [`UnixDatagram::recv`].
    pub fn recv_with_fds(&self, buffer: &mut [u8]) -> io::Result<Received> {
        receive(&self.socket, buffer)
    }
}

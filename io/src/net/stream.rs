//! What the types of sockets have in common, written once: `Read`, `Write`, descriptors, timeouts, halves.

/// `Read` and `Write` for a stream and for references to it, over its field `socket`.
macro_rules! read_and_write {
    ($($stream:ty),+) => {$(
        impl std::io::Read for $stream {
            #[inline]
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.socket.recv(buffer, 0)
            }

            fn read_vectored(
                &mut self,
                buffers: &mut [std::io::IoSliceMut<'_>],
            ) -> std::io::Result<usize> {
                self.socket.recv_vectored(buffers)
            }
        }

        impl std::io::Write for $stream {
            #[inline]
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.socket.send(bytes)
            }

            fn write_vectored(
                &mut self,
                buffers: &[std::io::IoSlice<'_>],
            ) -> std::io::Result<usize> {
                self.socket.send_vectored(buffers)
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
    )+};
}

/// Access to the descriptor, and taking one over, for a type with a field `socket` and nothing else.
macro_rules! descriptor_of {
    ($socket:ty, $standard:ty) => {
        impl std::os::fd::AsFd for $socket {
            fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
                self.socket.as_fd()
            }
        }

        impl std::os::fd::AsRawFd for $socket {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.socket.raw()
            }
        }

        impl From<std::os::fd::OwnedFd> for $socket {
            fn from(fd: std::os::fd::OwnedFd) -> Self {
                Self { socket: fd.into() }
            }
        }

        impl From<$standard> for $socket {
            fn from(socket: $standard) -> Self {
                Self::from(std::os::fd::OwnedFd::from(socket))
            }
        }

        impl $socket {
            /// A second handle on the same socket, for another fiber or loop.
            ///
            /// # Errors
            /// When the process is out of descriptors.
            pub fn try_clone(&self) -> std::io::Result<Self> {
                Ok(Self {
                    socket: self.socket.try_clone()?,
                })
            }

            /// The standard library's type, in blocking mode.
            ///
            /// The mode belongs to the socket, not to the handle. Where a clone of a listener goes on to accept, on the
            /// mio driver, outside a loop or by `accept_many`, the socket becomes non-blocking again, and the std
            /// listener's `accept` may say `WouldBlock`.
            ///
            /// # Errors
            /// When the process is out of descriptors. For the last handle of a listener also when connections that
            /// `incoming` took are left, which would be lost: take them by `accept_taken` first.
            pub fn into_std(self) -> std::io::Result<$standard> {
                Ok(<$standard>::from(self.socket.into_fd()?))
            }

            /// The error that the socket keeps, which is then forgotten (`SO_ERROR`).
            ///
            /// # Errors
            /// The system's, for the question itself.
            pub fn take_error(&self) -> std::io::Result<Option<std::io::Error>> {
                self.socket.options().take_error()
            }
        }
    };
}

/// Timeouts of reading and writing, for a type with a field `socket`.
macro_rules! timeouts {
    ($socket:ty) => {
        impl $socket {
            /// Has reads end with an error of the kind `TimedOut` when nothing comes for that long; `None`, as at the
            /// start, waits without an end. It concerns this handle and the clones made of it later. For one read,
            /// or for several together, use a deadline of the fiber's.
            ///
            /// # Errors
            /// For a timeout of zero.
            pub fn set_read_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket.read_limit.set(timeout)
            }

            /// As `set_read_timeout`, for writes.
            ///
            /// # Errors
            /// For a timeout of zero.
            pub fn set_write_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket.write_limit.set(timeout)
            }

            /// What `set_read_timeout` has set.
            ///
            /// # Errors
            /// None; the standard library's signature.
            pub fn read_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.read_limit.get())
            }

            /// What `set_write_timeout` has set.
            ///
            /// # Errors
            /// None; the standard library's signature.
            pub fn write_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.write_limit.get())
            }
        }
    };
}

/// The sizes of the kernel's buffers, for a type with a field `socket`.
macro_rules! buffer_sizes {
    ($socket:ty) => {
        impl $socket {
            /// Asks for a size of the kernel's receive buffer in bytes (`SO_RCVBUF`); the kernel doubles it for its
            /// own needs and has limits (`net.core.rmem_max`).
            ///
            /// # Errors
            /// The system's.
            pub fn set_recv_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.options().set_recv_buffer_size(bytes)
            }

            /// The size of the kernel's receive buffer in bytes.
            ///
            /// # Errors
            /// The system's.
            pub fn recv_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.options().recv_buffer_size()
            }

            /// Asks for a size of the kernel's send buffer in bytes (`SO_SNDBUF`).
            ///
            /// # Errors
            /// The system's.
            pub fn set_send_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.options().set_send_buffer_size(bytes)
            }

            /// The size of the kernel's send buffer in bytes.
            ///
            /// # Errors
            /// The system's.
            pub fn send_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.options().send_buffer_size()
            }
        }
    };
}

pub(super) use {buffer_sizes, descriptor_of, read_and_write, timeouts};

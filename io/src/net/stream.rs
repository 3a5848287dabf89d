//! Macros for what all socket types have in common: `Read`, `Write`, descriptors, timeouts, buffer sizes.

/// Implements `Read` and `Write` for a stream and for references to it, through its field `socket`.
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

/// Implements access to the descriptor and conversions, for a type whose only field is `socket`.
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
            /// Returns a second handle on the same socket, for another fiber or loop.
            ///
            /// # Errors
            /// When the process is out of descriptors.
            pub fn try_clone(&self) -> std::io::Result<Self> {
                Ok(Self {
                    socket: self.socket.try_clone()?,
                })
            }

            /// Converts to the standard library's type, in blocking mode.
            ///
            /// The mode belongs to the socket, not to the handle. If a clone of a listener keeps accepting on the mio
            /// driver, outside a loop or with `accept_many`, the socket becomes non-blocking again, and the std
            /// listener's `accept` may return `WouldBlock`.
            ///
            /// # Errors
            /// When the process is out of descriptors. For the last handle of a listener also when connections that
            /// `incoming` accepted would be lost: take them with `accept_queued` first.
            pub fn into_std(self) -> std::io::Result<$standard> {
                Ok(<$standard>::from(self.socket.into_fd()?))
            }

            /// Returns and clears the socket's pending error (`SO_ERROR`).
            ///
            /// # Errors
            /// The system's error for the query itself.
            pub fn take_error(&self) -> std::io::Result<Option<std::io::Error>> {
                self.socket.options().take_error()
            }
        }
    };
}

/// Implements read and write timeouts, for a type with a field `socket`.
macro_rules! timeouts {
    ($socket:ty) => {
        impl $socket {
            /// Sets the time after which a read without data fails with `TimedOut`; `None`, the default, waits without
            /// a limit. Applies to this handle and to clones made of it later. To limit one read, or several together,
            /// use a deadline of the fiber.
            ///
            /// # Errors
            /// For a timeout of zero.
            pub fn set_read_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket.read_limit.set(timeout)
            }

            /// Sets the timeout of writes; see `set_read_timeout`.
            ///
            /// # Errors
            /// For a timeout of zero.
            pub fn set_write_timeout(
                &self,
                timeout: Option<std::time::Duration>,
            ) -> std::io::Result<()> {
                self.socket.write_limit.set(timeout)
            }

            /// Returns the timeout set by `set_read_timeout`.
            ///
            /// # Errors
            /// Never; the signature matches the standard library.
            pub fn read_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.read_limit.get())
            }

            /// Returns the timeout set by `set_write_timeout`.
            ///
            /// # Errors
            /// Never; the signature matches the standard library.
            pub fn write_timeout(&self) -> std::io::Result<Option<std::time::Duration>> {
                Ok(self.socket.write_limit.get())
            }
        }
    };
}

/// Implements access to the kernel's buffer sizes, for a type with a field `socket`.
macro_rules! buffer_sizes {
    ($socket:ty) => {
        impl $socket {
            /// Requests a size of the kernel's receive buffer in bytes (`SO_RCVBUF`). The kernel doubles it for its
            /// bookkeeping and has limits (`net.core.rmem_max`).
            ///
            /// # Errors
            /// The system's error.
            pub fn set_recv_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.options().set_recv_buffer_size(bytes)
            }

            /// Returns the size of the kernel's receive buffer in bytes.
            ///
            /// # Errors
            /// The system's error.
            pub fn recv_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.options().recv_buffer_size()
            }

            /// Requests a size of the kernel's send buffer in bytes (`SO_SNDBUF`).
            ///
            /// # Errors
            /// The system's error.
            pub fn set_send_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.options().set_send_buffer_size(bytes)
            }

            /// Returns the size of the kernel's send buffer in bytes.
            ///
            /// # Errors
            /// The system's error.
            pub fn send_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.options().send_buffer_size()
            }
        }
    };
}

pub(super) use {buffer_sizes, descriptor_of, read_and_write, timeouts};

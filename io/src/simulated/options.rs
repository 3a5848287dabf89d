//! The options of a socket, with the defaults and limits of Linux.

use super::network::Network;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// The sizes of the buffers of TCP: what Linux's automatic tuning begins with, rounded.
const TCP_BUFFER: usize = 128 * 1024;

/// The sizes of the buffers of other sockets (`net.core.rmem_default`, `wmem_default`).
const BUFFER: usize = 212_992;

/// The largest value that a program may set (`net.core.rmem_max`, `wmem_max`), which the kernel doubles.
const BUFFER_MAX: usize = 212_992;

/// The smallest sizes (`SOCK_MIN_SNDBUF`, `SOCK_MIN_RCVBUF`).
const SEND_BUFFER_MIN: usize = 4608;
const RECEIVE_BUFFER_MIN: usize = 2304;

/// The options that a program can set and read back.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: bool,
    pub(crate) nodelay: bool,
    pub(crate) broadcast: bool,
    pub(crate) linger: Option<Duration>,
    /// The time without an answer after which a connection breaks.
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) ttl: u32,
    pub(crate) keepalive: Keepalive,
    pub(super) send_buffer: usize,
    pub(super) receive_buffer: usize,
}

/// The options of TCP's probes of an idle connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) on: bool,
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    pub(crate) retries: u32,
}

impl Options {
    pub(super) fn new(is_tcp: bool) -> Options {
        let buffer = if is_tcp { TCP_BUFFER } else { BUFFER };
        Options {
            reuse_address: false,
            reuse_port: false,
            only_v6: false,
            nodelay: false,
            broadcast: false,
            linger: None,
            user_timeout: None,
            ttl: 64,
            keepalive: Keepalive {
                on: false,
                idle: Duration::from_secs(7200),
                interval: Duration::from_secs(75),
                retries: 9,
            },
            send_buffer: buffer,
            receive_buffer: buffer,
        }
    }
}

impl Network {
    pub(crate) fn options(&self, fd: RawFd) -> io::Result<&Options> {
        Ok(&self.find_socket(fd)?.options)
    }

    /// Returns the options, to change them. Keepalive and buffers have their own functions.
    pub(crate) fn options_mut(&mut self, fd: RawFd) -> io::Result<&mut Options> {
        Ok(&mut self.find_mut(fd)?.options)
    }

    pub(crate) fn set_send_buffer(&mut self, fd: RawFd, bytes: usize) -> io::Result<()> {
        let size = (bytes.min(BUFFER_MAX) * 2).max(SEND_BUFFER_MIN);
        self.options_mut(fd)?.send_buffer = size;
        let id = self.find(fd)?;
        self.wake_if_room(id);
        Ok(())
    }

    pub(crate) fn send_buffer(&self, fd: RawFd) -> io::Result<usize> {
        Ok(self.options(fd)?.send_buffer)
    }

    pub(crate) fn set_receive_buffer(&mut self, fd: RawFd, bytes: usize) -> io::Result<()> {
        let size = (bytes.min(BUFFER_MAX) * 2).max(RECEIVE_BUFFER_MIN);
        self.options_mut(fd)?.receive_buffer = size;
        let id = self.find(fd)?;
        self.update_window(id);
        Ok(())
    }

    pub(crate) fn receive_buffer(&self, fd: RawFd) -> io::Result<usize> {
        Ok(self.options(fd)?.receive_buffer)
    }

    pub(crate) fn set_keepalive(&mut self, fd: RawFd, keepalive: Keepalive) -> io::Result<()> {
        self.options_mut(fd)?.keepalive = keepalive;
        let id = self.find(fd)?;
        self.arm_keepalive(id);
        Ok(())
    }
}

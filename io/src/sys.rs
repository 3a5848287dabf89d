//! Safe functions for the system calls on descriptors that the drivers make themselves.
//!
//! Unless stated otherwise, a call is non-blocking whatever the descriptor's mode (`MSG_DONTWAIT`). No call keeps a
//! reference: memory that is passed in is free again when the call returns. `EINTR` is retried here and appears nowhere
//! else. Any thread may call these functions.

use crate::simulated;
use socket2::{SockAddr, SockAddrStorage, SockRef};
use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use yue_scheduler::Instant;

/// The maximum number of buffers in one vectored call. The kernel's limit (`IOV_MAX`) is 1024.
pub(crate) const SLICES_MAX: usize = 64;

/// Converts the result of a system call, and retries the call when a signal interrupted it.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

pub(crate) fn recv(fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    if simulated::is_on() {
        return simulated::recv(fd, buffer, flags);
    }
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: pointer and length describe a live, writable slice.
    retry(|| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) })
}

pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    if simulated::is_on() {
        return simulated::send(fd, bytes);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe a live slice.
    retry(|| unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// # Safety
/// All memory that the header names is valid and writable.
pub(crate) unsafe fn recv_message(
    fd: RawFd,
    header: *mut libc::msghdr,
    flags: i32,
) -> io::Result<usize> {
    if simulated::is_on() {
        // SAFETY: the caller upholds the contract.
        return unsafe { simulated::recv_message(fd, header, flags) };
    }
    // SAFETY: the caller upholds the contract.
    retry(|| unsafe { libc::recvmsg(fd, header, flags | libc::MSG_DONTWAIT) })
}

/// # Safety
/// All memory that the header names is valid.
pub(crate) unsafe fn send_message(fd: RawFd, header: &libc::msghdr) -> io::Result<usize> {
    if simulated::is_on() {
        // SAFETY: the caller upholds the contract.
        return unsafe { simulated::send_message(fd, header) };
    }
    // SAFETY: the caller upholds the contract.
    retry(|| unsafe { libc::sendmsg(fd, header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

pub(crate) fn send_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let header = write_header(slices);
    // SAFETY: the slices in the header are live during the call.
    unsafe { send_message(fd, &header) }
}

/// Receives the messages that are queued, up to the number of headers. Returns their number.
///
/// # Safety
/// All memory that the headers name is valid and writable.
pub(crate) unsafe fn recv_messages(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    if simulated::is_on() {
        // SAFETY: the caller upholds the contract.
        return unsafe { simulated::recv_messages(fd, headers) };
    }
    let (start, count) = (headers.as_mut_ptr(), headers.len() as u32);
    let no_limit = std::ptr::null_mut();
    // SAFETY: the headers are live and writable; the caller guarantees the memory that they name.
    retry(|| unsafe { libc::recvmmsg(fd, start, count, libc::MSG_DONTWAIT, no_limit) } as isize)
}

/// Sends messages until one finds no room. Returns the number of messages sent.
///
/// # Safety
/// All memory that the headers name is valid.
pub(crate) unsafe fn send_messages(fd: RawFd, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    if simulated::is_on() {
        // SAFETY: the caller upholds the contract.
        return unsafe { simulated::send_messages(fd, headers) };
    }
    let (start, count) = (headers.as_mut_ptr(), headers.len() as u32);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: as above; the kernel writes the counts into the headers.
    retry(|| unsafe { libc::sendmmsg(fd, start, count, flags) } as isize)
}

/// Reads in the descriptor's mode.
pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe a live, writable slice.
    retry(|| unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes in the descriptor's mode.
pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe a live slice.
    retry(|| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// Reads into several buffers in the descriptor's mode.
pub(crate) fn read_vectored(fd: RawFd, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = slices.len().min(SLICES_MAX) as i32;
    // SAFETY: `IoSliceMut` has the layout of `iovec`, and names live, writable memory.
    retry(|| unsafe { libc::readv(fd, slices.as_ptr().cast(), count) })
}

/// Writes several buffers in the descriptor's mode.
pub(crate) fn write_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let count = slices.len().min(SLICES_MAX) as i32;
    // SAFETY: `IoSlice` has the layout of `iovec`, and names live memory.
    retry(|| unsafe { libc::writev(fd, slices.as_ptr().cast(), count) })
}

/// Returns the flags of an open file, including its access mode.
pub(crate) fn status_flags(fd: RawFd) -> io::Result<i32> {
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::fcntl(fd, libc::F_GETFL) } as isize).map(|flags| flags as i32)
}

/// Sets or clears the non-blocking mode of an open file.
pub(crate) fn set_nonblocking(fd: RawFd, nonblocking: bool) -> io::Result<()> {
    if simulated::is_on() {
        // Calls on a simulated socket never block.
        return Ok(());
    }
    let flags = status_flags(fd)?;
    let wanted = match nonblocking {
        true => flags | libc::O_NONBLOCK,
        false => flags & !libc::O_NONBLOCK,
    };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::fcntl(fd, libc::F_SETFL, wanted) } as isize).map(drop)
}

/// Returns a message header for the first [`SLICES_MAX`] of `slices`. It is valid while they are.
pub(crate) fn read_header(slices: &mut [IoSliceMut<'_>]) -> libc::msghdr {
    let count = slices.len().min(SLICES_MAX);
    // `IoSliceMut` is guaranteed to have the layout of `iovec`.
    header_of(slices.as_mut_ptr().cast(), count)
}

/// Like [`read_header`], for writing: the kernel only reads through it.
pub(crate) fn write_header(slices: &[IoSlice<'_>]) -> libc::msghdr {
    let count = slices.len().min(SLICES_MAX);
    header_of(slices.as_ptr().cast_mut().cast(), count)
}

/// Returns a message header for `count` entries at `slices`.
pub(crate) fn header_of(slices: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: a zeroed header is valid: it has no address and no control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = slices;
    header.msg_iovlen = count;
    header
}

/// Blocks the thread until the descriptor is ready for `events` (`POLLIN`, `POLLOUT`).
///
/// # Errors
/// `TimedOut` if that takes longer than `limit`.
pub(crate) fn block_until_ready(fd: RawFd, events: i16, limit: Option<Duration>) -> io::Result<()> {
    let revents = 0;
    block_until_one_ready(
        &mut [libc::pollfd {
            fd,
            events,
            revents,
        }],
        limit,
    )
}

/// Like [`block_until_ready`], until one of the descriptors is readable.
pub(crate) fn block_until_one_readable(fds: &[RawFd], limit: Option<Duration>) -> io::Result<()> {
    let entry = |&fd: &RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = fds.iter().map(entry).collect();
    block_until_one_ready(&mut entries, limit)
}

fn block_until_one_ready(entries: &mut [libc::pollfd], limit: Option<Duration>) -> io::Result<()> {
    if simulated::is_on() {
        let until = limit.map(|limit| Instant::system().saturating_add(limit));
        return simulated::block_until_ready(entries, until);
    }
    let until = limit.map(|limit| Instant::system().saturating_add(limit));
    let (start, count) = (entries.as_mut_ptr(), entries.len() as libc::nfds_t);
    // A signal does not restart the limit: the remaining time is computed for each call.
    let call = || {
        let left = until.map(|until| until.saturating_since(Instant::system()));
        // Rounded up: a wait is never shorter than requested.
        let millis = left.map_or(-1, |left| {
            i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        });
        // SAFETY: live, writable entries.
        unsafe { libc::poll(start, count, millis) as isize }
    };
    match retry(call)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Returns the peer's address of a connection, even if the peer has reset it. `getpeername(2)` then returns `ENOTCONN`,
/// while `SO_PEERNAME` still knows the address that `accept(2)` would have returned.
pub(crate) fn peer_address(socket: &SockRef<'_>) -> io::Result<SockAddr> {
    let error = match socket.peer_addr() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => error,
        other => return other,
    };
    // The option requires the exact length of the address, which equals the length of the local one.
    let length = socket.local_addr()?.len();
    let mut storage = SockAddrStorage::zeroed();
    let mut got = length;
    let (fd, start) = (socket.as_raw_fd(), (&raw mut storage).cast());
    // SAFETY: the storage is writable, and longer than any address.
    let result = retry(|| unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERNAME, start, &mut got) as isize
    });
    match result {
        // SAFETY: the kernel has filled in an address of that length.
        Ok(_) if got == length => Ok(unsafe { SockAddr::new(storage, length) }),
        _ => Err(error),
    }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let (start, length) = (
        (&raw const value).cast(),
        size_of::<i32>() as libc::socklen_t,
    );
    // SAFETY: four readable bytes.
    retry(|| unsafe { libc::setsockopt(fd, level, name, start, length) } as isize).map(drop)
}

/// Allows up to `queue` connections that are not accepted yet to deliver their first bytes (TCP Fast Open).
pub(crate) fn set_fast_open(fd: RawFd, queue: u32) -> io::Result<()> {
    if simulated::is_on() {
        return Err(simulated::unsupported("TCP Fast Open"));
    }
    let queue = queue.min(i32::MAX as u32) as i32;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Sends the first bytes along with the connection request (TCP Fast Open).
pub(crate) fn set_fast_open_connect(fd: RawFd) -> io::Result<()> {
    if simulated::is_on() {
        return Err(simulated::unsupported("TCP Fast Open"));
    }
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
}

fn new_fd(result: i32) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    new_fd(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// A file in memory, without a name.
pub(crate) fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: a terminated string.
    new_fd(unsafe { libc::memfd_create(c"yue".as_ptr(), libc::MFD_CLOEXEC) })
}

/// A descriptor with which nothing can be done, so that a simulated file has a number.
pub(crate) fn placeholder() -> io::Result<OwnedFd> {
    // SAFETY: a terminated string.
    new_fd(unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) })
}

/// Adds one to an eventfd. A full counter is readable anyway, so a refused write can be ignored.
pub(crate) fn ring_event_fd(fd: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight readable bytes.
    let _ = retry(|| unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) });
}

pub(crate) fn timer_fd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    new_fd(unsafe {
        libc::timerfd_create(
            libc::CLOCK_MONOTONIC,
            libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
        )
    })
}

/// Arms a timerfd for an absolute time in nanoseconds of `CLOCK_MONOTONIC`. A time in the past fires at once.
pub(crate) fn set_timer_fd(fd: &OwnedFd, at_ns: u64) -> io::Result<()> {
    let at_ns = at_ns.max(1); // Zero would disarm it.
    let value = libc::timespec {
        tv_sec: (at_ns / 1_000_000_000).min(i64::MAX as u64) as i64,
        tv_nsec: (at_ns % 1_000_000_000) as i64,
    };
    let spec = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: value,
    };
    let old = std::ptr::null_mut();
    // SAFETY: `spec` is a live itimerspec, and the old value is not requested.
    retry(
        || unsafe { libc::timerfd_settime(fd.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &spec, old) }
            as isize,
    )
    .map(drop)
}

/// Takes ownership of a descriptor that the kernel has just created as the result of a ring operation.
pub(crate) fn own_fd(fd: u32) -> OwnedFd {
    // SAFETY: the kernel has just created the descriptor, and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Returns the process's action for a signal: `SIG_DFL`, `SIG_IGN`, or the address of a handler. Async-signal-safe.
pub(crate) fn signal_action(number: i32) -> usize {
    // SAFETY: a zeroed action is valid; the call only queries.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &mut now);
        now.sa_sigaction
    }
}

/// Returns a descriptor that becomes readable when the process ends.
pub(crate) fn pid_fd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32)
}

/// Sends a signal to the process of a pidfd. A process that has ended is not an error.
pub(crate) fn signal_process(pidfd: RawFd, signal: i32) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed.
    let sent = retry(|| unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, nothing, 0) as isize
    });
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Kills the processes of the group that `leader` leads.
pub(crate) fn kill_group(leader: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::killpg(leader as libc::pid_t, libc::SIGKILL) as isize }).map(drop)
}

/// Whether the process of a pidfd, which is a child, has ended. It is not reaped.
pub(crate) fn has_exited(pidfd: RawFd) -> io::Result<bool> {
    // SAFETY: all zeros is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let (kind, options) = (libc::P_PIDFD, libc::WEXITED | libc::WNOWAIT | libc::WNOHANG);
    // SAFETY: the buffer outlives the call.
    retry(|| unsafe { libc::waitid(kind, pidfd as libc::id_t, &mut info, options) as isize })?;
    // SAFETY: `waitid` has filled it in, or left it zeroed if no child has ended.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Makes the calling process the leader of a new session. Async-signal-safe.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::setsid() } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Keeps a descriptor open in the program that the calling process executes. Async-signal-safe.
pub(crate) fn keep_at_exec(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Blocks the thread until one of the descriptors is readable.
pub(crate) fn block_until_any_readable(fds: impl Iterator<Item = RawFd>) -> io::Result<()> {
    let mut entries: Vec<libc::pollfd> = fds
        .map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let (start, count) = (entries.as_mut_ptr(), entries.len() as libc::nfds_t);
    // SAFETY: live, writable entries.
    retry(|| unsafe { libc::poll(start, count, -1) } as isize).map(drop)
}

/// Sets an eventfd to zero.
pub(crate) fn clear_event_fd(fd: &OwnedFd) {
    let mut count = [0u8; 8];
    // A counter that is zero already returns WouldBlock.
    let _ = read(fd.as_raw_fd(), &mut count);
}

/// Returns `WouldBlock` unless the descriptor is ready for `events`, or broken.
pub(crate) fn check_ready(fd: RawFd, events: i16) -> io::Result<()> {
    if simulated::is_on() {
        return match simulated::level(fd).answers(events) {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
    }
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one live, writable entry.
    match retry(|| unsafe { libc::poll(&mut entry, 1, 0) } as isize)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

/// Whether the descriptor has bytes to read, or the end of input.
///
/// A TCP socket may have some although a read has just returned `WouldBlock`: at the urgent mark, `recv` fails with
/// `EAGAIN` if a signal is pending, whatever bytes follow (`tcp_recvmsg_locked`,
/// <https://elixir.bootlin.com/linux/v6.18/source/net/ipv4/tcp.c>). They have caused their event already, so nothing
/// else would announce them.
pub(crate) fn has_input(fd: RawFd) -> bool {
    if simulated::is_on() {
        return simulated::level(fd).readable;
    }
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live, writable entry.
    let answer = retry(|| unsafe { libc::poll(&mut entry, 1, 0) } as isize);
    // Not `POLLERR`, which may stay set while there is nothing to read.
    answer.is_ok() && entry.revents & libc::POLLIN != 0
}

/// Opens a path that the kernel's cache can look up without waiting for a disk; otherwise `WouldBlock`.
pub(crate) fn open_cached(path: &CStr, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: the structure consists of plain integers; zero is the default of each.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_CACHED;
    // SAFETY: path and structure live until the call returns, and the size is that of the structure.
    let opened = retry(|| unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    } as isize)?;
    Ok(own_fd(opened as u32))
}

/// Reads from the page cache alone; `WouldBlock` if the bytes are not there.
pub(crate) fn read_cached(fd: RawFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // By its number: the C library has the call since 2018, and releases run with older ones. The offset is one
    // argument, and its high half on systems of 32 bits the next.
    // SAFETY: one slice, which describes the live, writable buffer.
    retry(|| unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            fd,
            &raw const slice,
            1,
            offset as libc::off_t,
            0,
            libc::RWF_NOWAIT,
        )
    } as isize)
}

/// The size of a file on disk; `None` for anything else.
pub(crate) fn regular_file_size(fd: RawFd) -> Option<u64> {
    let stat = file_stat(fd)?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_size as u64)
}

/// Whether the descriptor is a file on disk.
pub(crate) fn is_regular_file(fd: RawFd) -> bool {
    file_type(fd) == Some(libc::S_IFREG)
}

/// Returns the type of file behind a descriptor (`S_IFREG`, `S_IFIFO`, …), if it is open.
pub(crate) fn file_type(fd: RawFd) -> Option<libc::mode_t> {
    file_stat(fd).map(|stat| stat.st_mode & libc::S_IFMT)
}

fn file_stat(fd: RawFd) -> Option<libc::stat> {
    // SAFETY: a stat consists of plain integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a live, writable stat.
    let known = unsafe { libc::fstat(fd, &mut stat) } == 0;
    known.then_some(stat)
}

/// Changes the permissions of a file, or of a socket that is not bound yet.
pub(crate) fn set_mode(fd: RawFd, mode: libc::mode_t) -> io::Result<()> {
    if simulated::is_on() {
        // Access is not simulated.
        return Ok(());
    }
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::fchmod(fd, mode) } as isize).map(drop)
}

/// Returns the process at the other end of a Unix socket (`SO_PEERCRED`).
pub(crate) fn peer_credentials(fd: RawFd) -> io::Result<libc::ucred> {
    if simulated::is_on() {
        return simulated::peer_credentials(fd);
    }
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let out = std::ptr::from_mut(&mut credentials).cast();
    // SAFETY: a live, writable value of that size, and its size.
    retry(|| unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, out, &mut bytes) as isize
    })?;
    Ok(credentials)
}

/// See `fallocate(2)`.
pub(crate) fn allocate(fd: RawFd, offset: u64, length: u64) -> io::Result<()> {
    let wrong = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let offset = i64::try_from(offset).map_err(wrong)?;
    let length = i64::try_from(length).map_err(wrong)?;
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::fallocate(fd, 0, offset, length) } as isize).map(drop)
}

pub(crate) fn inotify_fd() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    new_fd(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })
}

/// Adds a watch to an inotify descriptor, or changes it. Returns its number.
pub(crate) fn inotify_add(fd: RawFd, path: &CStr, mask: u32) -> io::Result<i32> {
    // SAFETY: a live, terminated string.
    retry(|| unsafe { libc::inotify_add_watch(fd, path.as_ptr(), mask) } as isize)
        .map(|watch| watch as i32)
}

pub(crate) fn inotify_remove(fd: RawFd, watch: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    retry(|| unsafe { libc::inotify_rm_watch(fd, watch) } as isize).map(drop)
}

//! The system call `io_uring_enter`, for features that the `io_uring` crate lacks: entering by the number of a
//! registered ring, which saves the kernel a descriptor lookup, and waiting without being counted as I/O wait.
//! The flags are described in [`io_uring_enter(2)`].
//!
//! A thread registers rings for itself (at most 16), and only that thread can enter by the number. A registration keeps
//! its ring alive, so it is removed before the ring is closed. See [`io_uring_register_ring_fd(3)`].
//!
//! [`io_uring_enter(2)`]: https://man7.org/linux/man-pages/man2/io_uring_enter.2.html
//! [`io_uring_register_ring_fd(3)`]: https://man7.org/linux/man-pages/man3/io_uring_register_ring_fd.3.html

use io_uring::types::Timespec;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Deliver completions. Without it a call only submits.
const GET_EVENTS: u32 = 1 << 0;
/// The last argument is an [`EventsArgument`], not a signal mask. Since Linux 5.11.
const EXT_ARG: u32 = 1 << 3;
/// The first argument is the number of a registered ring, not a descriptor. Since Linux 5.18.
const REGISTERED_RING: u32 = 1 << 4;
/// A wait counts as idle time, not as a wait for a disk. Since Linux 6.15:
/// <https://git.kernel.org/torvalds/c/07754bfd9aee>.
const NO_IOWAIT: u32 = 1 << 7;

const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct EventsArgument {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_micros: u32,
    timespec: u64,
}

/// A thread's handle for entering one ring.
pub(super) struct RingHandle {
    fd: RawFd,
    /// The number under which the ring is registered.
    registered: Option<u32>,
    /// The flags of every call that waits.
    wait_flags: u32,
}

impl RingHandle {
    /// Creates a handle for the ring with that descriptor, which must outlive the handle.
    pub(super) fn new(fd: RawFd, register: bool, no_iowait: bool) -> RingHandle {
        // If registering is refused (old kernel, too many rings on this thread), the descriptor works as well.
        let registered = register.then(|| self::register(fd).ok()).flatten();
        RingHandle {
            fd,
            registered,
            wait_flags: if no_iowait { NO_IOWAIT } else { 0 },
        }
    }

    /// Whether the ring is entered by its registered number.
    pub(super) fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    /// Submits entries. With `events` the kernel also delivers pending completions.
    pub(super) fn submit(&self, count: u32, events: bool) -> io::Result<()> {
        let flags = if events { GET_EVENTS } else { 0 };
        self.enter(count, 0, flags, None)
    }

    /// Submits entries and waits for a completion, at most for `limit`.
    pub(super) fn submit_and_wait(&self, count: u32, limit: Option<Duration>) -> io::Result<()> {
        self.enter(count, 1, GET_EVENTS | self.wait_flags, limit)
    }

    fn enter(
        &self,
        count: u32,
        want: u32,
        mut flags: u32,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let fd = match self.registered {
            Some(number) => {
                flags |= REGISTERED_RING;
                number as RawFd
            }
            None => self.fd,
        };
        let time = limit.map(|limit| {
            Timespec::new()
                .sec(limit.as_secs())
                .nsec(limit.subsec_nanos())
        });
        let argument = EventsArgument {
            signal_mask: 0,
            signal_mask_size: 0,
            min_wait_micros: 0,
            timespec: time
                .as_ref()
                .map_or(0, |time| std::ptr::from_ref(time) as u64),
        };
        let (start, size) = match &time {
            Some(_) => {
                flags |= EXT_ARG;
                (&raw const argument, size_of::<EventsArgument>())
            }
            // Without a limit no argument is needed, so the call also works on kernels without `EXT_ARG`.
            None => (std::ptr::null(), 0),
        };
        // SAFETY: the argument and the time live in this frame. The callers that pushed the entries guarantee that
        // their memory stays valid until their terminal completions.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                count,
                want,
                flags,
                start,
                size,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Removes the registration. Later calls use the descriptor.
    pub(super) fn close(&mut self) {
        if let Some(number) = self.registered.take() {
            let update = Update {
                offset: number,
                reserved: 0,
                data: 0,
            };
            // This fails on a thread other than the ring's; the end of the ring's thread removes the registration too.
            let _ = call_register(self.fd, UNREGISTER_RING_FDS, &raw const update);
        }
    }
}

fn register(fd: RawFd) -> io::Result<u32> {
    let mut update = Update {
        // The kernel chooses the number, and writes it here.
        offset: u32::MAX,
        reserved: 0,
        data: fd as u64,
    };
    call_register(fd, REGISTER_RING_FDS, &raw mut update)?;
    Ok(update.offset)
}

fn call_register(fd: RawFd, operation: u32, update: *const Update) -> io::Result<()> {
    // SAFETY: one live update, to which the kernel may write the number.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, update, 1u32) };
    match answer {
        // The result is the number of updates applied.
        1 => Ok(()),
        0.. => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Err(io::Error::last_os_error()),
    }
}

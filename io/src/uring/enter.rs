//! The system call `io_uring_enter` by hand, for what the crate that wraps it does not offer: entering by the number
//! of a registered ring, which saves the kernel looking its descriptor up, and without counting the wait as one for a
//! disk.
//!
//! A thread registers rings with itself (16 at the most), and only it can enter by the number. A registration keeps its
//! ring alive, so it is taken back before the ring goes.

use io_uring::types::Timespec;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

const GET_EVENTS: u32 = 1 << 0;
const EXT_ARG: u32 = 1 << 3;
const REGISTERED_RING: u32 = 1 << 4;
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

/// By which a thread enters one ring.
pub(super) struct Door {
    fd: RawFd,
    /// The number that the ring is registered under.
    registered: Option<u32>,
    /// Flags of every call that waits.
    wait_flags: u32,
}

impl Door {
    /// For the ring with that descriptor, which lives longer.
    pub(super) fn new(fd: RawFd, register: bool, no_iowait: bool) -> Door {
        // Where it is refused (too old a kernel, too many rings of this thread) the descriptor serves as well.
        let registered = register.then(|| self::register(fd).ok()).flatten();
        Door {
            fd,
            registered,
            wait_flags: if no_iowait { NO_IOWAIT } else { 0 },
        }
    }

    /// Whether the ring is entered by its registered number.
    pub(super) fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    /// Submits entries; `events` also has the kernel work out what is done.
    pub(super) fn submit(&self, count: u32, events: bool) -> io::Result<()> {
        let flags = if events { GET_EVENTS } else { 0 };
        self.enter(count, 0, flags, None)
    }

    /// Submits entries and waits for a completion, no longer than `limit`.
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
            None => (std::ptr::null(), 0),
        };
        // SAFETY: the argument and the time are in this frame. What the entries point to stays until their terminal
        // completions: who pushed them promised.
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

    /// Takes the registration back; later calls go by the descriptor.
    pub(super) fn close(&mut self) {
        if let Some(number) = self.registered.take() {
            let update = Update {
                offset: number,
                reserved: 0,
                data: 0,
            };
            // It fails on another thread than the ring's, whose end takes it back as well.
            let _ = call_register(self.fd, UNREGISTER_RING_FDS, &raw const update);
        }
    }
}

fn register(fd: RawFd) -> io::Result<u32> {
    let mut update = Update {
        offset: u32::MAX,
        reserved: 0,
        data: fd as u64,
    };
    call_register(fd, REGISTER_RING_FDS, &raw mut update)?;
    Ok(update.offset)
}

fn call_register(fd: RawFd, operation: u32, update: *const Update) -> io::Result<()> {
    // SAFETY: one live update, which the kernel may write the number to.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, update, 1u32) };
    match answer {
        // The number of updates that were done.
        1 => Ok(()),
        0.. => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Err(io::Error::last_os_error()),
    }
}

//! Creates a ring with the best flags that the kernel accepts, and checks the features that the driver requires.
//!
//! Nothing here looks at a version string. The kernel refuses unknown flags with `EINVAL`, and the next step of the
//! ladder requests fewer. Supported operations are found with a probe. The flags are described in
//! [`io_uring_setup(2)`].
//!
//! [`io_uring_setup(2)`]: https://man7.org/linux/man-pages/man2/io_uring_setup.2.html

use super::buffers::BufferRing;
use super::features::{BadSetting, DisabledFeatures, Feature, Features, entries};
use super::ring::Ring;
use io_uring::{IoUring, opcode};
use std::io;

/// The size of the completion queue, per entry of the submission queue. The kernel keeps further completions in a list
/// until there is room.
const COMPLETIONS_PER_ENTRY: u32 = 4;

/// The reason why a ring could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// `EPERM` or `EACCES`.
    #[error(
        "io_uring is forbidden here (EPERM: a seccomp filter, as containers have by default, or \
         sysctl kernel.io_uring_disabled)"
    )]
    Forbidden,
    /// `ENOSYS`.
    #[error("this kernel has no io_uring (ENOSYS)")]
    Missing,
    /// The kernel lacks a feature that the driver requires.
    #[error("this kernel's io_uring is too old (it lacks {0})")]
    TooOld(&'static str),
    /// Anything else, such as too little memory.
    #[error("io_uring could not be set up: {0}")]
    Other(io::Error),
}

impl From<Unavailable> for io::Error {
    fn from(reason: Unavailable) -> io::Error {
        let kind = match &reason {
            Unavailable::Forbidden => io::ErrorKind::PermissionDenied,
            Unavailable::Missing | Unavailable::TooOld(_) => io::ErrorKind::Unsupported,
            Unavailable::Other(error) => error.kind(),
        };
        io::Error::new(kind, reason)
    }
}

impl From<io::Error> for Unavailable {
    fn from(error: io::Error) -> Unavailable {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Unavailable::Forbidden,
            Some(libc::ENOSYS) => Unavailable::Missing,
            _ => Unavailable::Other(error),
        }
    }
}

impl From<BadSetting> for Unavailable {
    fn from(error: BadSetting) -> Unavailable {
        Unavailable::Other(io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// Creates a ring for the calling thread. Also returns the features that it may use.
pub(super) fn create_ring() -> Result<(Ring, Features), Unavailable> {
    let disabled = DisabledFeatures::from_environment()?;
    let ring = build_ring(disabled.allow(Feature::DeferTaskrun), entries()?)?;
    let params = ring.params();
    for (has, name) in [
        (
            params.is_feature_ext_arg(),
            "a timeout for io_uring_enter, since Linux 5.11",
        ),
        (
            params.is_feature_nodrop(),
            "completions that are never dropped, since Linux 5.5",
        ),
        (params.is_feature_fast_poll(), "fast poll, since Linux 5.7"),
    ] {
        if !has {
            return Err(Unavailable::TooOld(name));
        }
    }
    let features = Features::probe(&ring, disabled)?;
    for (code, name) in [
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::RecvMsg::CODE, "recvmsg"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
    ] {
        if !features.supports(code) {
            return Err(Unavailable::TooOld(name));
        }
    }
    let register = features.allow(Feature::RegisteredRing);
    let no_iowait = features.allow(Feature::NoIowait);
    Ok((Ring::new(ring, register, no_iowait), features))
}

/// Returns the optional io_uring features available here, for reports: creates a ring, queries it, and drops it.
///
/// # Errors
/// The reason why the driver cannot be used.
///
/// ```
/// match yue_io::probe_uring() {
///     Ok(found) => assert!(found.contains(&"exact timeouts")),
///     Err(reason) => assert!(yue_io::driver(yue_io::Choice::Uring).is_err(), "{reason}"),
/// }
/// ```
pub fn probe_uring() -> Result<Vec<&'static str>, Unavailable> {
    let (ring, features) = create_ring()?;
    let params = ring.io().params();
    let buffers = features.allow(Feature::Buffers) && BufferRing::new(ring.io()).is_ok();
    let mut found = Vec::new();
    for (has, name) in [
        (params.is_setup_single_issuer(), "single issuer"),
        (params.is_feature_ext_arg(), "exact timeouts"),
        (params.is_feature_nodrop(), "no dropped completions"),
        (params.is_feature_fast_poll(), "fast poll"),
        (ring.is_registered(), "registered ring"),
        (
            features.allow(Feature::NoIowait),
            "waits that count as idle",
        ),
        (buffers, "receive buffers of the ring"),
        (
            features.supports_file_operation(opcode::OpenAt::CODE),
            "files",
        ),
    ] {
        if has {
            found.push(name);
        }
    }
    Ok(found)
}

/// Builds a ring. Tries the most useful flags first, then fewer, down to those that every kernel knows.
fn build_ring(defer_taskrun: bool, entries: u32) -> io::Result<IoUring> {
    let mut last = None;
    let first = if defer_taskrun { 0 } else { 1 };
    for step in first..4 {
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_cqsize(entries * COMPLETIONS_PER_ENTRY);
        match step {
            // Linux 6.1: completions run when we ask for them, on our thread. `taskrun_flag` shows that there are some,
            // so that a turn without them makes no system call. `submit_all` continues after an entry that is refused:
            // its error is a completion like any other.
            0 => builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all(),
            // Linux 5.19: completions run at our next system call, without an interrupt.
            1 => builder
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all(),
            // Linux 5.18.
            2 => builder.setup_submit_all(),
            _ => &mut builder,
        };
        match builder.build(entries) {
            // An unknown flag. Any other error would meet the next step too.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
}

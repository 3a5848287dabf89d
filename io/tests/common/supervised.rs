//! Lets a test decide the results of its own system calls. A seccomp filter passes certain calls to a supervisor, and
//! the supervisor lets the kernel make the call or makes it fail.
//!
//! ```text
//!   filtered thread:  call ──▶ filter ──▶ sleeps ················▶ continues with the call, or with the error
//!   supervisor:                  └──▶ poll ─▶ RECV ─▶ decide ─▶ SEND
//! ```
//!
//! Threads that the filtered thread starts inherit the filter, so use this in a child process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc;

const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, at offset 0 of `seccomp_data`
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Runs `body` on a thread. `answer` decides its calls of those numbers: `None` lets the kernel make the call, an error
/// number makes the call fail with it.
///
/// # Errors
/// When the kernel lacks such filters, or forbids them.
pub fn supervised<T: Send>(
    numbers: &[i64],
    mut answer: impl FnMut(i64) -> Option<i32>,
    body: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let thread = scope.spawn(move || {
            let listener = install(numbers);
            let works = listener.is_ok();
            sender.send(listener).unwrap();
            works.then(body)
        });
        let listener = receiver.recv().unwrap()?;
        while !thread.is_finished() {
            if wait_for_call(listener.as_raw_fd())? {
                decide(listener.as_raw_fd(), &mut answer)?;
            }
        }
        match thread.join() {
            Ok(result) => Ok(result.expect("the filter was installed")),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn check(answer: i32) -> io::Result<i32> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

fn install(numbers: &[i64]) -> io::Result<OwnedFd> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let count = numbers.len();
    let mut filter = vec![step(LOAD_NUMBER, 0, 0, 0)];
    for (n, number) in numbers.iter().enumerate() {
        // Jump over the remaining numbers and the first return.
        filter.push(step(JUMP_IF_EQUAL, (count - n) as u8, 0, *number as u32));
    }
    filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a struct of plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program is live, and the kernel copies it.
    let listener = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        ) as i32
    })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// Returns whether a call waits for its answer, after waiting a short while for one.
fn wait_for_call(listener: RawFd) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: listener,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live pollfd.
    check(unsafe { libc::poll(&mut poll, 1, 10) })?;
    Ok(poll.revents & libc::POLLIN != 0)
}

fn decide(listener: RawFd, answer: &mut impl FnMut(i64) -> Option<i32>) -> io::Result<()> {
    // SAFETY: plain integers, which the kernel requires to be zero.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: a live, writable notification.
    check(unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut call) })?;
    let error = answer(i64::from(call.data.nr));
    let mut response = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: -error.unwrap_or(0),
        flags: match error {
            Some(_) => 0,
            None => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        },
    };
    // SAFETY: a live response to the call that was received.
    match check(unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) }) {
        // A signal interrupted the call meanwhile; it will be retried.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

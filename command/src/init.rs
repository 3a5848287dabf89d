//! The duty of process 1 in a container: it reaps processes whose parents have ended.
//!
//! The kernel reparents such orphans to process 1 of the pid namespace, or to the nearest child subreaper, and they
//! stay zombies until that process waits for them. A program cannot do so beside its own work: a wait for "any child"
//! takes the exit status from other code of the same process that waits for that child (`pclose`, a C library). So the
//! command splits:
//!
//! ```text
//!   process 1     reaps ended processes; forwards its signals; ends as its child ends
//!     └── child   runs the program, and is the parent of the program's children
//! ```

use std::io;
use std::mem;
use yue_scheduler::{LogLevel, SignalSet, log};

/// Signals that a terminal sends to its whole foreground group, so that the child has already received them.
const TERMINAL_SIGNALS: [libc::c_int; 6] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGWINCH,
];

/// In the process to which orphans are reparented: returns in a child, which runs the program, and stays behind to
/// reap. In any other process it does nothing. The process still has only one thread.
pub(super) fn split_if_orphans_arrive() {
    if !orphans_arrive() {
        return;
    }
    let before = SignalSet::asynchronous().set_mask();
    // SAFETY: the process has one thread, so the child may continue as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => {
            let error = io::Error::last_os_error();
            log(
                LogLevel::Warn,
                format_args!("orphaned processes will not be reaped: {error}"),
            );
            before.set_mask();
        }
        0 => {
            // A hard kill takes the program along, as if there were one process.
            // SAFETY: a setting of this process.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            before.set_mask();
        }
        child => {
            // A reader of the program's output, or a process that waits for one of its locks, must see the end when the
            // program closes it. (A kernel before 5.9 has no such call.)
            // SAFETY: nothing here uses them; standard error stays.
            unsafe {
                libc::close(0);
                libc::close(1);
                libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
            }
            watch_over(child)
        }
    }
}

fn orphans_arrive() -> bool {
    let mut subreaper: libc::c_int = 0;
    // SAFETY: the kernel writes an int.
    let known = unsafe { libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &raw mut subreaper) } == 0;
    std::process::id() == 1 || known && subreaper != 0
}

/// The body of the process that stays behind.
fn watch_over(child: libc::pid_t) -> ! {
    // All signals that may be forwarded.
    let all = SignalSet::asynchronous();
    loop {
        // SAFETY: the kernel fills in a siginfo, of which zeros are a valid value.
        let (number, info) = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            (libc::sigwaitinfo(all.as_raw(), &mut info), info)
        };
        match number {
            libc::SIGCHLD => reap_ended_processes(child),
            // An interrupted wait.
            -1 => {}
            number if TERMINAL_SIGNALS.contains(&number) && info.si_code == libc::SI_KERNEL => {}
            // SAFETY: a child of this process that has not been waited for.
            number => drop(unsafe { libc::kill(child, number) }),
        }
    }
}

/// Reaps all processes that have ended. If `child` is one of them, this process ends in the same way.
fn reap_ended_processes(child: libc::pid_t) {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes an int.
        let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if ended <= 0 {
            return;
        }
        if ended == child {
            let code = match libc::WIFSIGNALED(status) {
                true => 128 + libc::WTERMSIG(status),
                false => libc::WEXITSTATUS(status),
            };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
    }
}

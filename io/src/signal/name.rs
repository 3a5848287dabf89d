//! Signals by name and by number.

use std::fmt;
use std::str::FromStr;
use yue_scheduler::FAULT_SIGNALS;

/// A signal, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub(super) i32);

/// Signal names without `SIG`.
const NAMES: [(&str, i32); 16] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
];

/// The error for a name or number that is not a signal which a program can wait for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a signal that can be waited for; use a name such as INT or SIGTERM, or a number from 1 to 64"
)]
pub struct UnknownSignal(String);

impl Signal {
    /// Hang-up: the terminal was closed; for servers, by convention, "reload the configuration".
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// Interrupt, from the keyboard.
    pub const INT: Signal = Signal(libc::SIGINT);
    /// Quit, from the keyboard.
    pub const QUIT: Signal = Signal(libc::SIGQUIT);
    /// A request to terminate.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// For the program's own use.
    pub const USR1: Signal = Signal(libc::SIGUSR1);
    /// For the program's own use.
    pub const USR2: Signal = Signal(libc::SIGUSR2);
    /// A child process ended or stopped.
    pub const CHLD: Signal = Signal(libc::SIGCHLD);
    /// The terminal's size changed.
    pub const WINCH: Signal = Signal(libc::SIGWINCH);

    /// Returns the signal with that number.
    ///
    /// # Errors
    /// When the number is not a signal's, or the signal cannot be waited for: `KILL`, `STOP`, and those that report a
    /// fault.
    pub fn from_number(number: i32) -> Result<Signal, UnknownSignal> {
        let reserved =
            [libc::SIGKILL, libc::SIGSTOP].contains(&number) || FAULT_SIGNALS.contains(&number);
        // The C library reserves 32 and 33.
        let known =
            (1..32).contains(&number) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
        if known && !reserved {
            Ok(Signal(number))
        } else {
            Err(UnknownSignal(number.to_string()))
        }
    }

    /// Returns the signal's number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Returns the signal's name without `SIG`, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(_, number)| *number == self.0)
            .map(|(name, _)| *name)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Parses `INT`, `SIGINT`, `int` or `2`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse() {
            return Signal::from_number(number).map_err(|_| unknown());
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .find(|(name, _)| *name == bare)
            .map(|(_, number)| Signal(*number))
            .ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_and_by_number() {
        for text in ["INT", "SIGINT", "int", "sigint", "2"] {
            assert_eq!(text.parse(), Ok(Signal::INT), "{text}");
        }
        assert_eq!(Signal::INT.to_string(), "SIGINT");
        assert_eq!(Signal::from_number(40).unwrap().to_string(), "signal 40");
        for text in ["", "SIG", "KILL", "9", "11", "0", "65", "32", "-1", "NOPE"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}

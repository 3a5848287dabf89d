//! Nodes in containers: what docker and podman need besides a command.
//!
//! A container outlives its killed client, so it is removed by its name when the client has ended in any way that does
//! not prove the container's end. The node's lease ends it when nobody removes it.

use super::life::{Aftermath, Epilogue};
use super::limits::size;
use super::prologue::Prologue;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;
use yue_io::process::Command;
use yue_scheduler::{lock, timeout};

/// A removal takes a fraction of this.
const REMOVAL_TIME: Duration = Duration::from_secs(20);

/// The status of a container whose program was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

/// A failure of the dynamic loader, a program that cannot be invoked, and one that is not found. Its loader may not be.
const NOT_STARTED: [i32; 3] = [1, 126, 127];

/// A container that runs a node.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// The image, and what runs it.
    pub(crate) image: String,
    pub(crate) prologue: Prologue,
    /// The command that also mounts the program's libraries.
    pub(crate) with_libraries: Vec<OsString>,
    /// The command that removes the container.
    pub(crate) removal: Vec<OsString>,
    pub(crate) memory_bytes: Option<u64>,
}

/// The images whose own libraries do not fit.
static FOREIGN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Container {
    /// Whether the program needs its own libraries in this image, as far as known.
    pub(super) fn is_foreign(&self) -> bool {
        lock(&FOREIGN).contains(&self.image)
    }

    pub(super) fn set_foreign(&self) {
        lock(&FOREIGN).insert(self.image.clone());
    }

    /// Whether a container that ended so, before its node said a word, may have lacked the program's libraries.
    pub(super) fn may_lack_libraries(status: ExitStatus) -> bool {
        status
            .code()
            .is_some_and(|code| NOT_STARTED.contains(&code))
    }

    pub(super) fn epilogue(&self) -> Rc<Epilogue> {
        let this = self.clone();
        Rc::new(move |status| {
            let was_killed = status.code() == Some(KILLED);
            let limit = this.memory_bytes.filter(|_| was_killed);
            Aftermath {
                is_proven: status.success() || this.remove(),
                cause: limit.map(|bytes| format!("its memory limit was {}", size(bytes))),
            }
        })
    }

    /// Removes the container; returns whether it is certainly gone. In a fiber.
    fn remove(&self) -> bool {
        let mut words = self.removal.iter();
        let Some(program) = words.next() else {
            return false;
        };
        let mut command = Command::new(program);
        command.args(words).new_session().kill_on_drop(true);
        let Ok(Ok(output)) = timeout(REMOVAL_TIME, || command.output()) else {
            return false;
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        let mut lines = errors.lines().filter(|line| !line.trim().is_empty());
        output.status.success() || lines.all(|line| line.contains("o such container"))
    }
}

/// The status of a carrier that this program kills.
pub(super) fn killed_status() -> ExitStatus {
    ExitStatus::from_raw(libc::SIGKILL)
}

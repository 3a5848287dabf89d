//! `popen://command`: a link to a program that this side starts, over its standard input and output.
//!
//! The shell runs the command, and its standard error is this process's. The link ends when the command closes its
//! output or ends. When this side ends the link, the command's input ends; a command that still runs after
//! [`EXIT_TIME`] is killed.

use super::pipes::Pipes;
use super::traits::{Connect, Events, LinkRefused, Transport};
use crate::error::{Error, ErrorKind};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;
use yue_io::process::{Child, Command, Stdio};
use yue_scheduler::{Builder, set_context, simulation, timeout};

/// The time that a command has to end after its link.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// The time in which a command that has closed its output is expected to end, so that its status becomes the link's
/// result.
const STATUS_TIME: Duration = Duration::from_millis(200);

/// The status by which a shell says that it cannot run a command, or finds none.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// Starts a command for each link.
pub(crate) struct PopenConnector {
    command: String,
    address: String,
}

impl PopenConnector {
    pub(crate) fn new(command: &str) -> PopenConnector {
        PopenConnector {
            command: command.to_owned(),
            address: format!("popen://{command}"),
        }
    }

    fn try_connect(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        if simulation::is_on() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "commands are outside of the simulation",
            ));
        }
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // The shell may wait for other processes, which end with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the command has no pipes"));
        };
        let mut running = Running(Some(child));
        let at_end = move || running.result();
        Ok(Pipes::start(output, input, at_end, events)?)
    }
}

impl Connect for PopenConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        self.try_connect(events)
            .map_err(|error| Error::from_connect(&self.address, &error))
    }

    fn address(&self) -> &str {
        &self.address
    }
}

/// A command that runs, or has not been waited for. When it is dropped, the command gets [`EXIT_TIME`] to end.
struct Running(Option<Child>);

impl Running {
    /// The link's result when the command has closed its output.
    fn result(&mut self) -> io::Result<()> {
        let Some(child) = &mut self.0 else {
            return Ok(());
        };
        let Ok(Ok(status)) = timeout(STATUS_TIME, || child.wait()) else {
            return Ok(());
        };
        self.0 = None;
        match describe(status) {
            None => Ok(()),
            Some(text) if status.code().is_some_and(|code| CANNOT_RUN.contains(&code)) => {
                let text = format!("the shell cannot run the command ({text})");
                Err(LinkRefused::new(ErrorKind::Transport, text).into())
            }
            Some(text) => Err(io::Error::other(format!("the command ended with {text}"))),
        }
    }
}

/// Describes the failure of a command; `None` if it did not fail.
fn describe(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("status {code}")),
        (None, Some(signal)) => Some(format!("signal {signal}")),
        (None, None) => Some("an unknown status".to_owned()),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        // If no fiber can be spawned, the child is dropped with the closure, and killed.
        let _ = Builder::new().name("rpc popen end").spawn(move || {
            set_context(None);
            if !matches!(timeout(EXIT_TIME, || child.wait()), Ok(Ok(_))) {
                // Dropping it would kill only the shell.
                let _ = child.kill_group();
            }
        });
    }
}

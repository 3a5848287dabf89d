//! Carriers that are processes: a child of this program, or a command whose standard input and output lead to a node.

use super::allocation::Allocation;
use super::connector::Carrier;
use super::life::{Life, Started};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use yue_io::pipe::PipeReader;
use yue_io::process::{Command, Stdio};
use yue_rpc::transport::{Events, Transport};
use yue_rpc::{Error, ErrorKind};
use yue_scheduler::simulation;

/// The variable with the number of the descriptor that ends when a node's owner does.
pub const LIFELINE: &str = "YUE_NODE_LIFELINE";

/// A command that leads to a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessCarrier {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Variables to set, or to remove.
    pub(crate) variables: Vec<(OsString, Option<OsString>)>,
    pub(crate) folder: Option<PathBuf>,
    /// Whether the process is the node itself, on this machine: it gets a lifeline, and its end is the node's.
    pub(crate) is_node: bool,
}

impl ProcessCarrier {
    fn spawn(&self) -> io::Result<Started> {
        if simulation::is_on() {
            let text =
                "processes are outside of the simulation; a node of the target 'thread' is not";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let (ours, theirs) = UnixStream::pair()?;
        let (output, its_output) = io::pipe()?;
        let its_output = OwnedFd::from(its_output);
        let mut words = self.command.iter();
        let program = words.next().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the command has no words")
        })?;
        let mut command = Command::new(program);
        command
            .args(words)
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::from(its_output))
            .new_session()
            .kill_on_drop(true);
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut lifeline = None;
        if self.is_node {
            let (its, ours) = io::pipe()?;
            let its = OwnedFd::from(its);
            command
                .env(LIFELINE, its.as_raw_fd().to_string())
                .inherit(its);
            lifeline = Some(OwnedFd::from(ours));
        }
        let child = command.spawn()?;
        // Its ends of the socket and the pipes close here.
        drop(command);
        Ok(Started {
            child,
            socket: ours,
            output: PipeReader::from(output),
            lifeline,
            is_node: self.is_node,
        })
    }
}

impl Carrier for ProcessCarrier {
    fn start(
        &self,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Error> {
        let failed = |error: io::Error| {
            let program = self.command.first().cloned().unwrap_or_default();
            let program = program.to_string_lossy();
            let text = format!("cannot start {program}: {error}");
            Error::new(ErrorKind::Allocation, text)
        };
        let started = self.spawn().map_err(failed)?;
        Life::of_process(allocation, started, events).map_err(failed)
    }
}

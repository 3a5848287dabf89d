//! Carriers that are processes: a child of this program, or a command whose standard input and output lead to a node.

use super::allocation::Allocation;
use super::connector::Carrier;
#[cfg(feature = "lua")]
use super::container::{Container, killed_status};
use super::life::{Aftermath, Epilogue, Life, Started, spawn_own};
use super::limits::{Group, Limits};
#[cfg(feature = "lua")]
use super::prologue::Prologue;
use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
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
    pub(crate) reach: Reach,
}

/// The route by which a command leads to a node.
#[derive(Debug, Clone, Default)]
pub(crate) enum Reach {
    /// Its input and output do, somehow.
    #[default]
    Any,
    /// It is the node itself, on this machine: it gets a lifeline, and its end is the node's.
    Node(Limits),
    #[cfg(feature = "lua")]
    /// It is ssh, and runs the prologue's shell on a host.
    Host(Prologue),
    #[cfg(feature = "lua")]
    /// It is the client of a container.
    Container(Container),
}

#[cfg(feature = "lua")]
/// The status of ssh when it fails itself, or cannot know how the remote command ended.
const SSH_FAILED: i32 = 255;

/// The reason why a carrier could not be started.
pub(super) struct Refused {
    pub(super) error: Error,
    /// The end of the carrier, if it has ended.
    #[cfg_attr(not(feature = "lua"), expect(dead_code))]
    pub(super) status: Option<ExitStatus>,
}

impl Refused {
    pub(super) fn new(text: impl Into<String>) -> Refused {
        Refused {
            error: Error::new(ErrorKind::Allocation, text),
            status: None,
        }
    }
}

impl Reach {
    #[cfg(feature = "lua")]
    fn prologue(&self) -> Option<&Prologue> {
        match self {
            Reach::Any | Reach::Node(_) => None,
            Reach::Host(prologue) => Some(prologue),
            Reach::Container(container) => Some(&container.prologue),
        }
    }

    /// The work that follows the end of the process, which may be in a control group.
    fn epilogue(&self, group: Option<Group>) -> Rc<Epilogue> {
        match self {
            Reach::Any => Rc::new(|_| Aftermath::default()),
            Reach::Node(_) => {
                let group = Cell::new(group);
                Rc::new(move |status| {
                    let group = group.take();
                    let was_killed = status.signal() == Some(libc::SIGKILL);
                    let cause = group.as_ref().filter(|_| was_killed);
                    let cause = cause.and_then(Group::memory_cause);
                    if let Some(group) = group {
                        group.remove();
                    }
                    Aftermath {
                        is_proven: true,
                        cause,
                    }
                })
            }
            // Any other status is that of the remote command, which has ended.
            #[cfg(feature = "lua")]
            Reach::Host(_) => Rc::new(|status| Aftermath {
                is_proven: status.code().is_some_and(|code| code != SSH_FAILED),
                cause: None,
            }),
            #[cfg(feature = "lua")]
            Reach::Container(container) => container.epilogue(),
        }
    }
}

impl ProcessCarrier {
    /// Starts the words as a process, whose output is read by a fiber.
    fn spawn(&self, allocation: &Rc<Allocation>, words: &[OsString]) -> io::Result<Started> {
        if simulation::is_on() {
            let text =
                "processes are outside of the simulation; a node of the target 'thread' is not";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let (ours, theirs) = UnixStream::pair()?;
        let (output, its_output) = io::pipe()?;
        let its_output = OwnedFd::from(its_output);
        let mut words = words.iter();
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
        let (mut lifeline, mut group) = (None, None);
        if let Reach::Node(limits) = self.reach {
            let new = Group::new(limits, allocation.number);
            new.enter(command.as_std_mut())?;
            group = Some(new);
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
        let started = Started {
            child,
            socket: ours,
            lifeline,
            is_node: matches!(self.reach, Reach::Node(_)),
            epilogue: self.reach.epilogue(group),
        };
        let (reading, output) = (allocation.clone(), PipeReader::from(output));
        spawn_own("node output", move || reading.lines.read_all(output))?;
        Ok(started)
    }

    /// Starts a node by the words, and its link.
    fn begin(
        &self,
        allocation: &Rc<Allocation>,
        words: &[OsString],
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Refused> {
        let failed = |error: io::Error| {
            let program = words.first().cloned().unwrap_or_default();
            let program = program.to_string_lossy();
            Refused::new(format!("cannot start {program}: {error}"))
        };
        #[cfg_attr(not(feature = "lua"), expect(unused_mut))]
        let mut started = self.spawn(allocation, words).map_err(failed)?;
        #[cfg(feature = "lua")]
        if let Some(prologue) = self.reach.prologue()
            && let Err(refused) = prologue.run(allocation, &mut started)
        {
            // The process is killed when it is dropped. Its group may have others, and a container outlives it.
            let _ = started.child.kill_group();
            let epilogue = started.epilogue.clone();
            let status = refused.status.unwrap_or_else(killed_status);
            let _ = spawn_own("node removal", move || drop(epilogue(status)));
            return Err(refused);
        }
        Life::of_process(allocation, started, events).map_err(failed)
    }
}

impl Carrier for ProcessCarrier {
    fn start(
        &self,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Error> {
        #[cfg(feature = "lua")]
        if let Reach::Container(container) = &self.reach {
            return self.start_container(container, allocation, events);
        }
        let begun = self.begin(allocation, &self.command, events);
        begun.map_err(|refused| refused.error)
    }
}

#[cfg(feature = "lua")]
impl ProcessCarrier {
    /// Starts a container; if its image's libraries do not fit, with the program's own.
    fn start_container(
        &self,
        container: &Container,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Error> {
        let refusal = |refused: Refused| refused.error;
        if !container.is_foreign() {
            match self.begin(allocation, &self.command, events.clone()) {
                Err(Refused {
                    status: Some(status),
                    ..
                }) if Container::may_lack_libraries(status) => {}
                begun => return begun.map_err(refusal),
            }
            // The errors of that attempt would mislead.
            allocation.lines.clear();
        }
        let begun = self.begin(allocation, &container.with_libraries, events);
        begun.inspect(|_| container.set_foreign()).map_err(refusal)
    }
}

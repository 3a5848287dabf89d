//! An allocation: what an owner knows of its node, which may be the first or the tenth that it allocates.
//!
//! It belongs to one loop. The connector starts nodes, the node's life ends them, and the session's dispatch renews
//! the lease; all of them meet here.

use super::lease::OwnerLease;
use super::output::Lines;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::{Error, ErrorKind};
use yue_scheduler::sync::local::Notify;
use yue_scheduler::{Instant, now};

/// A node that keeps ending is restarted so often within [`RESTARTS_TIME`]; then it is lost.
const RESTARTS_MAX: usize = 5;
const RESTARTS_TIME: Duration = Duration::from_secs(60);

/// The consequence of the loss of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Nothing: calls fail.
    #[default]
    Never,
    /// Another node is allocated when the next call is made.
    AtCall,
    /// Another node is allocated at once; a node that keeps ending is lost after 5 restarts within 60 s.
    Now,
}

/// The steps of an allocation. An error names the step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The owner waits until the node before is certainly dead.
    Waiting,
    /// A provider makes the machine.
    Machine,
    /// The carrier starts: the process, the container, the connection to the host.
    Carrier,
    /// The owner's program travels to the host.
    Program,
    /// The node's process starts, and says hello.
    Hello,
    /// The library is loaded.
    Code,
    Ready,
}

impl Stage {
    /// The stage as an error names it: "while …".
    pub(crate) fn text(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting for the end of the node before",
            Stage::Machine => "making the machine",
            Stage::Carrier => "starting the carrier",
            Stage::Program => "sending the program",
            Stage::Hello => "waiting for the node's first message",
            Stage::Code => "loading the library",
            Stage::Ready => "running",
        }
    }
}

/// The parameters of an allocation.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The library's name, for messages.
    pub(crate) library: String,
    /// The target, for messages.
    pub(crate) target: String,
    /// The time for a whole allocation.
    pub(crate) timeout: Duration,
    /// The time that a node lives without hearing from its owner.
    pub(crate) lease: Duration,
    pub(crate) restart: Restart,
}

/// An allocation of one owner.
pub(crate) struct Allocation {
    pub(crate) number: u64,
    pub(crate) plan: Plan,
    pub(crate) lease: OwnerLease,
    /// The output of the node and its carrier.
    pub(crate) lines: Lines,
    /// Set by the link: the epoch of the node, counted from 1.
    epoch: Cell<u64>,
    stage: Cell<Stage>,
    /// The end of the last node, described, once it has ended.
    end: RefCell<Option<String>>,
    /// The starts of the last nodes.
    starts: RefCell<VecDeque<Instant>>,
    /// Whether its owner has closed it.
    closed: Cell<bool>,
    pub(super) changed: Notify,
}

impl Allocation {
    pub(crate) fn new(number: u64, plan: Plan, lines: Lines) -> Rc<Allocation> {
        Rc::new(Allocation {
            number,
            lease: OwnerLease::new(plan.lease),
            plan,
            lines,
            epoch: Cell::new(0),
            stage: Cell::new(Stage::Machine),
            end: RefCell::default(),
            starts: RefCell::default(),
            closed: Cell::new(false),
            changed: Notify::new(),
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.set(stage);
    }

    /// The end of the last node, described; `None` while it runs.
    pub(crate) fn end(&self) -> Option<String> {
        self.end.borrow().clone()
    }

    pub(crate) fn set_end(&self, end: impl Into<String>) {
        *self.end.borrow_mut() = Some(end.into());
        self.changed.notify_all();
    }

    /// Describes why a node could not be allocated: the step, the cause, and the last lines that it has printed.
    pub(crate) fn failure(&self, cause: &str) -> String {
        let Plan {
            library, target, ..
        } = &self.plan;
        let stage = self.stage().text();
        let end = self.end();
        let cause = end.as_deref().unwrap_or(cause);
        let mut text =
            format!("cannot allocate a node for {library} on {target}, while {stage}: {cause}");
        let lines = self.lines.last();
        if !lines.is_empty() {
            text.push_str("\nIts last lines:");
            for line in lines {
                text.push_str("\n  ");
                text.push_str(&String::from_utf8_lossy(&line));
            }
        }
        text
    }

    /// The owner has closed the allocation: no other node follows.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Begins another node, if the allocation may have one.
    ///
    /// # Errors
    /// The reason why no other node follows.
    pub(super) fn begin(&self) -> Result<(), Error> {
        let how = || self.end().unwrap_or_else(|| format!("{self} has ended"));
        let lost = |text: String| Err(Error::new(ErrorKind::ConnectionLost, text));
        let mut starts = self.starts.borrow_mut();
        if self.is_closed() {
            return lost(format!("{self} was closed"));
        }
        if !starts.is_empty() {
            match self.plan.restart {
                Restart::Never => return lost(format!("{}; it is not restarted", how())),
                Restart::AtCall => {}
                Restart::Now => {
                    starts.retain(|at| now().saturating_since(*at) < RESTARTS_TIME);
                    if starts.len() > RESTARTS_MAX {
                        let seconds = RESTARTS_TIME.as_secs();
                        let text = format!(
                            "{}; it was restarted {RESTARTS_MAX} times within {seconds} s, and is lost",
                            how()
                        );
                        self.close();
                        return lost(text);
                    }
                }
            }
        }
        starts.push_back(now());
        drop(starts);
        self.epoch.set(self.epoch.get() + 1);
        self.end.take();
        self.lines.clear();
        self.set_stage(Stage::Waiting);
        Ok(())
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            library, target, ..
        } = &self.plan;
        write!(f, "node {} ({library} on {target})", self.number)
    }
}

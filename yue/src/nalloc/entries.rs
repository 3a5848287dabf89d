//! Nodes of Rust programs: processes of the owner's own program, which serve an entry instead of running `main`.

use super::allocation::{Allocation, Plan, Restart, Stage};
use super::connector::NodeConnector;
use super::limits::Limits;
use super::node::NodeEnd;
use super::output::Lines;
use super::owner::OwnerDispatch;
use super::process::{LIFELINE, ProcessCarrier, Reach};
use crate::runtime::Runtime;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_rpc::session::{
    Call, CallMethod, Dispatch, Replied, Reply, Service, Session, wait_for_change,
};
use yue_rpc::typed::{Caller, Server};
use yue_rpc::{Error, ErrorKind, Failure, Hooks, Listener, Moment, Options, Timeout, Verdict};
use yue_scheduler::{LogLevel, log_outcome};

/// The variable that names the entry of a node.
const ENTRY: &str = "YUE_NODE_ENTRY";

/// The request by which an owner waits until its node serves.
const STARTED: &str = "$yue/node/started";

/// The time for an allocation, unless its owner sets another.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The functions that nodes serve, by the names of their entries.
pub type Entry<'a> = (&'a str, fn() -> Server);

/// Makes this process a node if a [`Node`] of another one has started it: it serves the entry until its owner is gone,
/// and then exits. In every other process it returns. To be called first in `main`, before other threads exist.
///
/// ```no_run
/// use yue::nalloc::{Node, serve};
/// use yue::rpc::typed::Server;
///
/// fn squares() -> Server {
///     Server::new().handler("square", |x: i64| Ok(x * x))
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     serve(&[("squares", squares)]);
///     yue::Runtime::new()?.run(|| {
///         let node = Node::allocate("squares")?;
///         assert_eq!(node.call::<_, i64>("square", 7)?, 49);
///         Ok(())
///     })
/// }
/// ```
pub fn serve(entries: &[Entry<'_>]) {
    let Ok(name) = std::env::var(ENTRY) else {
        return;
    };
    let lifeline = std::env::var(LIFELINE)
        .ok()
        .and_then(|text| text.parse().ok());
    for variable in [ENTRY, LIFELINE] {
        // SAFETY: the process has one thread, as this function demands. Its own children are not nodes.
        unsafe { std::env::remove_var(variable) };
    }
    let entry = entries.iter().find(|(known, _)| *known == name);
    let outcome = match entry {
        Some((_, entry)) => NodeEnd::take(lifeline, false).and_then(|end| run(*entry, &end)),
        None => Err(io::Error::other(format!(
            "this program has no entry '{name}'"
        ))),
    };
    if let Err(error) = &outcome {
        log_outcome(format_args!("this process cannot be a node: {error}"));
    }
    std::process::exit(i32::from(outcome.is_err()));
}

/// Serves the owner until its connection has ended.
fn run(entry: fn() -> Server, end: &NodeEnd) -> io::Result<()> {
    let link = end.clone();
    let served = Runtime::new()?.run(move || -> io::Result<()> {
        let Service { dispatch, hooks } = entry().into_service();
        let service = Service::new(Rc::new(NodeDispatch(dispatch))).with_hooks(hooks);
        let listener = Listener::of_link("the owner", service, Options::default(), |events| {
            link.start_link(events)
        })?;
        while !listener.connections().is_empty() {
            if wait_for_change("the end of the owner's connection", None).is_err() {
                break;
            }
        }
        listener.close();
        Ok(())
    });
    end.finish();
    served
}

/// Answers the owner's question whether the node serves.
struct NodeDispatch(Rc<dyn Dispatch>);

impl Dispatch for NodeDispatch {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        match call.method() {
            CallMethod::Name(name) if name == STARTED.as_bytes() => reply.results(|out| {
                out.push(0xc3);
                Ok(1)
            }),
            _ => self.0.call(call, reply),
        }
    }

    fn release(&self, tokens: &[u64]) {
        self.0.release(tokens);
    }

    fn malformed(&self, session: &Session, text: &str) {
        self.0.malformed(session, text);
    }
}

/// A node that runs an entry of this program, in a process of its own. It ends when this is dropped, or when this
/// process ends in any way.
///
/// Calls go to the node as to any server. When a node is lost, calls in flight fail with `ConnectionLostError`, which
/// says why; what follows is set by [`NodeBuilder::restart`].
#[derive(Debug)]
pub struct Node {
    caller: Caller,
    allocation: NodeHandle,
}

struct NodeHandle(Rc<Allocation>);

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The settings of a [`Node`].
pub struct NodeBuilder {
    entry: String,
    offers: Server,
    options: Options,
    timeout: Duration,
    restart: Restart,
    variables: Vec<(OsString, Option<OsString>)>,
    program: Option<OsString>,
}

impl Node {
    /// Allocates a node for an entry, and waits until it serves.
    ///
    /// # Errors
    /// `AllocationError`, with the step that failed and what the node has printed.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn allocate(entry: &str) -> Result<Node, Error> {
        Node::builder(entry).allocate()
    }

    /// Starts the settings of a node for an entry.
    pub fn builder(entry: &str) -> NodeBuilder {
        NodeBuilder {
            entry: entry.to_owned(),
            offers: Server::new(),
            options: Options::default(),
            timeout: TIMEOUT,
            restart: Restart::Never,
            variables: Vec::new(),
            program: None,
        }
    }

    /// The number of nodes that the allocation has had: 1 for the first.
    pub fn epoch(&self) -> u64 {
        self.allocation.0.epoch()
    }
}

impl NodeBuilder {
    /// Sets the functions that the node may call on its owner.
    pub fn offers(mut self, offers: Server) -> NodeBuilder {
        self.offers = offers;
        self
    }

    /// Sets the options of the connection. Its `reconnect` follows from [`NodeBuilder::restart`].
    pub fn options(mut self, options: Options) -> NodeBuilder {
        self.options = options;
        self
    }

    /// Sets the time for the whole allocation; 5 seconds by default.
    pub fn timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.timeout = timeout;
        self
    }

    /// Sets what follows the loss of the node; nothing by default.
    pub fn restart(mut self, restart: Restart) -> NodeBuilder {
        self.restart = restart;
        self
    }

    /// Sets a variable of the node's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> NodeBuilder {
        self.variables.push((name.into(), Some(value.into())));
        self
    }

    /// Sets the program of the node, which must call [`serve`]; this program by default.
    pub fn program(mut self, program: impl Into<OsString>) -> NodeBuilder {
        self.program = Some(program.into());
        self
    }

    /// Allocates the node, and waits until it serves.
    ///
    /// # Errors
    /// See [`Node::allocate`].
    ///
    /// # Panics
    /// Outside a loop.
    pub fn allocate(self) -> Result<Node, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Relaxed: nothing but the number itself is shared.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let plan = Plan {
            library: self.entry.clone(),
            target: "this machine".to_owned(),
            timeout: self.timeout,
            lease: Duration::ZERO,
            restart: self.restart,
        };
        let name = format!("{}#{number}", self.entry);
        let lines = Lines::new(Some(Rc::new(move |line: &[u8]| {
            let text = String::from_utf8_lossy(line);
            yue_scheduler::log(LogLevel::Info, format_args!("{name}: {text}"));
        })));
        let allocation = Allocation::new(number, plan, lines);
        let failed = |error: &Error| {
            let text = allocation.failure(&error.message());
            Error::new(ErrorKind::Allocation, text)
        };
        let program = match self.program {
            Some(program) => program,
            None => std::env::current_exe()
                .map_err(|error| Error::new(ErrorKind::Allocation, error.to_string()))?
                .into(),
        };
        let mut variables = self.variables;
        variables.push((ENTRY.into(), Some(self.entry.into())));
        let carrier = Rc::new(ProcessCarrier {
            command: vec![program],
            variables,
            folder: None,
            reach: Reach::Node(Limits::default()),
        });
        let nodes = NodeConnector::new(&allocation, move |_| Ok(carrier.clone()));
        let Service { dispatch, hooks } = self.offers.into_service();
        let dispatch = Rc::new(OwnerDispatch::new(dispatch, &allocation));
        let hooks = Rc::new(OwnerHooks {
            program: hooks,
            allocation: allocation.clone(),
        });
        let mut options = self.options;
        options.reconnect = self.restart == Restart::Now;
        options.limits.handshake = self.timeout;
        let session = Session::open(
            Rc::new(nodes),
            Service::new(dispatch).with_hooks(hooks),
            options,
        );
        let node = Node {
            caller: Caller::new(session),
            allocation: NodeHandle(allocation.clone()),
        };
        let limit = Timeout::After(self.timeout);
        let started = node.session().call(STARTED, limit, |_| Ok(0));
        started.map(drop).map_err(|error| failed(&error))?;
        Ok(node)
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// Notes that a node is ready; all else is the program's.
struct OwnerHooks {
    program: Rc<dyn Hooks>,
    allocation: Rc<Allocation>,
}

impl Hooks for OwnerHooks {
    fn wants(&self, moment: Moment) -> bool {
        moment == Moment::Accept || self.program.wants(moment)
    }

    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        self.program.on_open(session)
    }

    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        self.allocation.set_stage(Stage::Ready);
        match self.program.wants(Moment::Accept) {
            true => self.program.on_accept(session, granted),
            false => Verdict::granted(),
        }
    }

    fn on_close(&self, session: &Session, reason: &yue_rpc::CloseReason) -> yue_rpc::Retry {
        self.program.on_close(session, reason)
    }

    fn on_timeout(&self, session: &Session) {
        self.program.on_timeout(session);
    }

    fn on_full(&self, session: &Session) {
        self.program.on_full(session);
    }

    fn on_room(&self, session: &Session) {
        self.program.on_room(session);
    }
}

impl Deref for Node {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.allocation.0.close();
        self.caller.session().close_because("released");
    }
}

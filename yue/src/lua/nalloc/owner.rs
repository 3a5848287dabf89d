//! An owner's natives: allocations by number.
//!
//! ```text
//!   nalloc_open ──▶ Session over a NodeConnector
//!                       │ for each node
//!                       ├─▶ internal.prepare_node(number)      a Lua fiber: resolves the target, calls the provider
//!                       │        └─▶ nalloc_carry(number, …)   the carrier
//!                       └─▶ Carrier::start
//! ```

use crate::lua::files::process::Start;
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::error;
use crate::lua::host::modules::call_prelude;
use crate::lua::host::{log, with_host};
use crate::lua::native::{native, register, register_raw, seconds};
use crate::lua::program::threads;
use crate::lua::rpc::connections::{connection, with_connections};
use crate::lua::rpc::endpoints::{Endpoint, new_service};
use crate::lua::rpc::service::Layers;
use crate::nalloc::{
    Allocation, Carrier, Container, Life, Limits, Lines, NodeConnector, OwnerDispatch, Plan,
    ProcessCarrier, Prologue, Reach, Restart, SHELL, Stage, own_command, own_libraries,
};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_luajit::{Error, Stack, ffi, raise, suspending};
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::{Events, Transport, connector};
use yue_rpc::{Address, ErrorKind};
use yue_scheduler::simulation::Hashing;
use yue_scheduler::{Builder, LogLevel, blocking, set_context, timeout};

/// The lines of output that wait for the program's function; more are dropped.
const LINES_MAX: usize = 1000;

/// The time in which the output of a node that has ended is read to its end, for an error that shows it.
const OUTPUT_TIME: Duration = Duration::from_millis(100);

/// An allocation of this loop.
struct Owned {
    allocation: Rc<Allocation>,
    /// The carrier that the prelude has chosen for the next node.
    carrier: RefCell<Option<Rc<dyn Carrier>>>,
    lines: Rc<LineQueue>,
}

/// Lines of output that wait for the program's function.
#[derive(Default)]
struct LineQueue {
    lines: RefCell<VecDeque<Vec<u8>>>,
    /// Whether a fiber passes them on.
    is_passed_on: Cell<bool>,
}

impl LineQueue {
    /// Adds a line, and sees to it that a fiber passes the lines on.
    fn add(self: &Rc<Self>, number: u64, line: &[u8]) {
        {
            let mut lines = self.lines.borrow_mut();
            if lines.len() >= LINES_MAX {
                return;
            }
            lines.push_back(line.to_vec());
        }
        if self.is_passed_on.replace(true) {
            return;
        }
        let this = self.clone();
        let spawned = Builder::new().name("node lines").spawn(move || {
            set_context(None);
            if let Ok(vm) = with_host(|host| host.vm.clone()) {
                // The prelude logs what the program's function raises.
                let _ = call_prelude(&vm, Entry::PassNodeLines, encoded(number));
            }
            this.is_passed_on.set(false);
        });
        if spawned.is_err() {
            self.is_passed_on.set(false);
        }
    }
}

/// A number in msgpack.
fn encoded(number: u64) -> Vec<u8> {
    let mut bytes = vec![0xcf];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

thread_local! {
    static ALLOCATIONS: RefCell<HashMap<u64, Weak<Owned>, Hashing>> = RefCell::default();
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// Drops this file's state at the end of the loop.
pub(super) fn clear() {
    ALLOCATIONS.take();
}

fn find(number: f64) -> Result<Rc<Owned>, Error> {
    let found = ALLOCATIONS.with_borrow(|all| all.get(&(number as u64)).and_then(Weak::upgrade));
    found.ok_or_else(|| error(ErrorKind::ConnectionLost, "the node's connection is closed"))
}

/// Sets the carrier of an allocation's next node.
pub(super) fn set_carrier(number: f64, carrier: Rc<dyn Carrier>) -> Result<(), Error> {
    *find(number)?.carrier.borrow_mut() = Some(carrier);
    Ok(())
}

/// The receiver of a node's lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Log,
    Function,
    Nowhere,
}

/// The arguments of `nalloc_open` behind those of an endpoint.
#[derive(Clone, Copy)]
struct Terms {
    timeout: f64,
    lease: f64,
    restart: Restart,
    output: Output,
}

impl Terms {
    /// Reads them from `index` on. May raise.
    fn read(stack: Stack<'_>, index: c_int) -> Terms {
        Terms {
            timeout: stack.number(index),
            lease: stack.number(index + 1),
            restart: match stack.bytes(index + 2) {
                b"now" => Restart::Now,
                b"call" => Restart::AtCall,
                _ => Restart::Never,
            },
            output: match stack.bytes(index + 3) {
                b"log" => Output::Log,
                b"function" => Output::Function,
                _ => Output::Nowhere,
            },
        }
    }
}

/// `nalloc_open(target, options, layers, library, timeout, lease, restart, output)`: returns the numbers of a
/// new connection and of its allocation.
unsafe extern "C-unwind" fn open_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::luaL_checktype(state, 3, ffi::LUA_TTABLE);
        let stack = Stack::new(state);
        let library = stack.bytes(4);
        let terms = Terms::read(stack, 5);
        let endpoint = Endpoint::read(state);
        ffi::lua_pushvalue(state, 3);
        let layers = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        let outcome = suspending(state, "yue.nalloc", || {
            open(&endpoint, Layers::new(layers)?, library, terms)
        });
        match outcome {
            Ok((connection, number)) => {
                ffi::lua_pushnumber(state, connection.into());
                ffi::lua_pushnumber(state, number as f64);
                2
            }
            Err(failure) => raise(state, failure),
        }
    }
}

fn open(
    endpoint: &Endpoint<'_>,
    layers: Layers,
    library: &[u8],
    terms: Terms,
) -> Result<(u32, u64), Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let number = LAST.get() + 1;
    LAST.set(number);
    let (library, target) = (text(library), text(endpoint.address()));
    let lines = Rc::<LineQueue>::default();
    let receiver = receiver(terms.output, number, format!("{library}#{number}"), &lines);
    let plan = Plan {
        library,
        target,
        timeout: seconds(terms.timeout),
        lease: seconds(terms.lease),
        restart: terms.restart,
    };
    let owned = Rc::new(Owned {
        allocation: Allocation::new(number, plan, receiver),
        carrier: RefCell::default(),
        lines,
    });
    let vm = with_host(|host| host.vm.clone())?;
    let mut options = endpoint.settings().options();
    options.limits.handshake = owned.allocation.plan.timeout;
    options.reconnect = terms.restart == Restart::Now;
    let preparing = owned.clone();
    let nodes = Rc::new(NodeConnector::new(&owned.allocation, move |_| {
        prepare(&preparing)
    }));
    let (service, both) = new_service(endpoint.settings(), layers, true);
    let dispatch = OwnerDispatch::new(both.dispatch, &owned.allocation);
    let both = Service::new(Rc::new(dispatch)).with_hooks(both.hooks);
    let session = Session::open(nodes, both, options);
    ALLOCATIONS.with_borrow_mut(|all| {
        all.retain(|_, owned| owned.strong_count() > 0);
        all.insert(number, Rc::downgrade(&owned));
    });
    let connection = with_connections(|all| all.add(&vm, session, service).id);
    Ok((connection, number))
}

fn receiver(output: Output, number: u64, name: String, queue: &Rc<LineQueue>) -> Lines {
    match output {
        Output::Log => Lines::new(Some(Rc::new(move |line: &[u8]| {
            let text = [name.as_bytes(), b": ", line].concat();
            log::write(LogLevel::Info, &text);
        }))),
        Output::Function => {
            let queue = queue.clone();
            Lines::new(Some(Rc::new(move |line: &[u8]| queue.add(number, line))))
        }
        Output::Nowhere => Lines::new(None),
    }
}

/// Asks the prelude for the carrier of the next node.
fn prepare(owned: &Rc<Owned>) -> Result<Rc<dyn Carrier>, yue_rpc::Error> {
    let failed = |text: &str| yue_rpc::Error::new(ErrorKind::Allocation, text);
    let vm = with_host(|host| host.vm.clone()).map_err(|_| failed("the program has ended"))?;
    let number = encoded(owned.allocation.number);
    owned.carrier.take();
    call_prelude(&vm, Entry::PrepareNode, number).map_err(|failure| {
        let kind = ErrorKind::from_name(&failure.type_name).unwrap_or(ErrorKind::Allocation);
        yue_rpc::Error::new(kind, failure.message.clone())
    })?;
    owned
        .carrier
        .take()
        .ok_or_else(|| failed("no carrier was chosen"))
}

fn carry(number: f64, start: Start<'_>, reach: Reach) -> Result<(), Error> {
    let (command, variables, folder) = start.parts();
    let carrier = ProcessCarrier {
        command,
        variables,
        folder,
        reach,
    };
    set_carrier(number, Rc::new(carrier))
}

native! {
    /// `nalloc_carry(number, words, variables, folder, is_node, memory, cpu)`: the next node is started by that
    /// command. The limits are those of the node itself; 0 is none.
    NallocCarry = "nalloc_carry", suspends: false;
    read(stack) -> (f64, Start<'a>, bool, [f64; 2]) {
        (stack.number(1), Start::read(stack, 2), stack.boolean(5), [stack.number(6), stack.number(7)])
    }
    run((number, start, is_node, [memory, cpu])) -> () {
        let limits = Limits { memory_bytes: bytes(memory), cpu: Some(cpu).filter(|cpu| *cpu > 0.0) };
        carry(number, start, if is_node { Reach::Node(limits) } else { Reach::Any })
    }
}

native! {
    /// `nalloc_carry_host(number, words, variables, folder, nonce, line)`: that command runs a host's shell, in which
    /// `line` starts the program `"$@"`.
    NallocCarryHost = "nalloc_carry_host", suspends: false;
    read(stack) -> (f64, Start<'a>, [&'a [u8]; 2]) {
        (stack.number(1), Start::read(stack, 2), [stack.bytes(5), stack.bytes(6)])
    }
    run((number, start, [nonce, line])) -> () {
        let nonce = String::from_utf8_lossy(nonce).into_owned();
        carry(number, start, Reach::Host(Prologue { nonce, start: Some(line.to_vec()) }))
    }
}

native! {
    /// `nalloc_carry_container(number, words, words_with_libraries, removal, nonce, image, memory)`: the next node is
    /// started by the first of these commands, or by the second if the image lacks the program's libraries.
    NallocCarryContainer = "nalloc_carry_container", suspends: false;
    read(stack) -> (f64, [&'a [u8]; 5], f64) {
        (stack.number(1), [2, 3, 4, 5, 6].map(|index| stack.bytes(index)), stack.number(7))
    }
    run((number, [words, with_libraries, removal, nonce, image], memory)) -> () {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let container = Container {
            image: text(image),
            prologue: Prologue { nonce: text(nonce), start: None },
            with_libraries: Start::words(with_libraries),
            removal: Start::words(removal),
            memory_bytes: bytes(memory),
        };
        let command = Start::words(words);
        let reach = Reach::Container(container);
        let carrier = ProcessCarrier { command, reach, ..ProcessCarrier::default() };
        set_carrier(number, Rc::new(carrier))
    }
}

/// A number of bytes; `None` if it is 0.
fn bytes(number: f64) -> Option<u64> {
    Some(number as u64).filter(|number| *number > 0)
}

native! {
    /// The libraries of this program: names and paths, each before a zero byte. The first is the loader.
    NallocLibraries = "nalloc_libraries", suspends: true;
    read(_stack) -> () { }
    run(()) -> Vec<u8> {
        let failed = |what: String| {
            error(ErrorKind::Allocation, format!("the libraries of this program are unknown: {what}"))
        };
        let libraries = blocking(own_libraries).map_err(|failure| failed(failure.to_string()))?;
        let libraries = libraries.map_err(|failure| failed(failure.to_string()))?;
        let mut list = Vec::new();
        for library in libraries {
            for item in [library.name.as_bytes(), library.path.as_os_str().as_bytes()] {
                list.extend_from_slice(item);
                list.push(0);
            }
        }
        Ok(list)
    }
}

native! {
    /// The shell of a host's prologue, and the words that start this program again, each behind a zero byte.
    NallocWords = "nalloc_words", suspends: false;
    read(_stack) -> () { }
    run(()) -> (String, Vec<u8>) {
        let words = own_command().map_err(|failure| {
            error(ErrorKind::Allocation, format!("the path of this program is unknown: {failure}"))
        })?;
        let words = words.into_iter().flat_map(|word| [b"\0".to_vec(), word.into_vec()]);
        Ok((SHELL.to_owned(), words.flatten().collect()))
    }
}

/// A node that is a thread of this process.
struct ThreadCarrier {
    name: String,
    timeout: Duration,
}

impl Carrier for ThreadCarrier {
    fn start(
        &self,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, yue_rpc::Error> {
        let started = threads::start_node(&self.name, self.timeout.as_secs_f64());
        started.map_err(|_| {
            let text = format!("the thread {} could not be started", self.name);
            yue_rpc::Error::new(ErrorKind::Allocation, text)
        })?;
        let address = Address::Thread {
            name: self.name.clone(),
        };
        Life::of_link(allocation, events, true, |events| {
            connector(&address).connect(events)
        })
    }
}

native! {
    /// `nalloc_carry_thread(number, name)`: the next node is a thread of that name.
    NallocCarryThread = "nalloc_carry_thread", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, name)) -> () {
        let owned = find(number)?;
        let name = String::from_utf8_lossy(name).into_owned();
        let timeout = owned.allocation.plan.timeout;
        *owned.carrier.borrow_mut() = Some(Rc::new(ThreadCarrier { name, timeout }));
        Ok(())
    }
}

native! {
    /// The node has loaded the library.
    NallocReady = "nalloc_ready", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        find(number)?.allocation.set_stage(Stage::Ready);
        Ok(())
    }
}

native! {
    /// Whether calls wait for the next node of a connection.
    NallocHolds = "nalloc_holds", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id)?.session.holds_messages()) }
}

native! {
    /// No other node of the allocation follows.
    NallocClose = "nalloc_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        if let Ok(owned) = find(number) {
            owned.allocation.close();
        }
        Ok(())
    }
}

native! {
    /// The number of nodes that the allocation has had.
    NallocEpoch = "nalloc_epoch", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> f64 { Ok(find(number)?.allocation.epoch() as f64) }
}

native! {
    /// `nalloc_failure(number, cause)`: the message of an allocation that failed, and its step. Waits until the output
    /// of an ended node has been read to its end, but not for long.
    NallocFailure = "nalloc_failure", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, cause)) -> (String, String) {
        let owned = find(number)?;
        let allocation = &owned.allocation;
        // An error means that the time has passed.
        let _ = timeout(OUTPUT_TIME, || allocation.lines.wait_for_end());
        let cause = String::from_utf8_lossy(cause);
        Ok((allocation.failure(&cause), allocation.stage().text().to_owned()))
    }
}

native! {
    /// The next line for the program's function; nil when none waits.
    NallocLine = "nalloc_line", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<Vec<u8>> {
        let Ok(owned) = find(number) else { return Ok(None) };
        Ok(owned.lines.lines.borrow_mut().pop_front())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; NallocCarry, NallocCarryHost, NallocCarryContainer, NallocCarryThread, NallocLibraries);
    register!(stack; NallocWords, NallocReady, NallocClose, NallocHolds, NallocEpoch, NallocFailure, NallocLine);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "nalloc_open", open_raw) };
}

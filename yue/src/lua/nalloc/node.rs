//! A node's natives: its link to the owner, and its lease.

use crate::lua::fibers;
use crate::lua::host::errors::{error, rpc_error};
use crate::lua::host::with_host;
use crate::lua::native::{native, register, register_raw, seconds};
use crate::lua::rpc::connections::connection;
use crate::lua::rpc::endpoints::{Endpoint, finish_listen, keep, new_service};
use crate::lua::rpc::service::Layers;
use crate::nalloc::{NodeEnd, clock, own_command};
use std::ffi::c_int;
use std::time::Duration;
use yue_luajit::{Error, Stack, ffi, suspending};
use yue_rpc::{ErrorKind, Listener};
use yue_scheduler::inspect::FiberState;
use yue_scheduler::this_loop;

/// The node that this program is.
fn node_end() -> Result<NodeEnd, Error> {
    with_host(|host| host.program.script.node.clone())?
        .ok_or_else(|| error(ErrorKind::Runtime, "this program is not a node"))
}

/// `node_listen(name, options, layers)`: a listener whose one connection is the owner's. Returns what `listen` does.
unsafe extern "C-unwind" fn listen_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::luaL_checktype(state, 3, ffi::LUA_TTABLE);
        let endpoint = Endpoint::read(state);
        ffi::lua_pushvalue(state, 3);
        let layers = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        let outcome = suspending(state, "node_listen", || {
            let layers = Layers::new(layers)?;
            let end = node_end()?;
            let (service, both) = new_service(endpoint.settings(), layers, false);
            let options = endpoint.settings().options();
            let listener =
                Listener::of_link("the owner", both, options, |events| end.start_link(events));
            let listener = listener.map_err(|failure| {
                let address = "the owner";
                rpc_error(&yue_rpc::Error::from_connect(address, &failure))
            })?;
            let hold = with_host(|host| host.hold())?;
            Ok(keep(listener, service, Some(hold)))
        });
        finish_listen(state, outcome)
    }
}

native! {
    /// The number of this process, the name of its machine, and the path of its program.
    NodeFacts = "node_facts", suspends: false;
    read(_stack) -> () { }
    run(()) -> (f64, (String, String)) {
        let binary = own_command().ok().and_then(|mut words| words.pop());
        let binary = binary.map(|path| path.to_string_lossy().into_owned());
        let facts = (host_name(), binary.unwrap_or_default());
        Ok((f64::from(std::process::id()), facts))
    }
}

fn host_name() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the buffer outlives the call.
    if unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0 {
        return String::new();
    }
    let end = name.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned()
}

native! {
    /// The folder that the process works in.
    CurrentFolder = "current_folder", suspends: false;
    read(_stack) -> () { }
    run(()) -> String {
        Ok(std::env::current_dir().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default())
    }
}

native! {
    /// The seconds of the lease's clock.
    NodeClock = "node_clock", suspends: false;
    read(_stack) -> () { }
    run(()) -> f64 { Ok(clock().as_secs_f64()) }
}

native! {
    /// `node_begin(connection, asked_at, lease, grace)`: the owner has answered the question for work of that time.
    NodeBegin = "node_begin", suspends: true;
    read(stack) -> [f64; 4] { [stack.number(1), stack.number(2), stack.number(3), stack.number(4)] }
    run([id, asked_at, lease, grace]) -> () {
        let session = connection(id)?.session.clone();
        let program = this_loop::handle();
        let asked_at = Duration::try_from_secs_f64(asked_at).unwrap_or_default();
        let begun = node_end()?.begin_lease(&session, asked_at, seconds(lease), seconds(grace), program);
        begun.map_err(|failure| error(ErrorKind::Runtime, format!("cannot renew the lease: {failure}")))
    }
}

/// Waits that mean that a library is set up: it waits for what its owner, or a timer, will do.
const SETTLED: [&str; 7] = [
    "sleep",
    "an event",
    "an event that is not set",
    "a value of a channel",
    "a signal",
    "a client's end",
    "the next tick of a task group",
];

/// A longer wait of any other kind, such as for a connection to accept, means the same.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

native! {
    /// `node_is_settled(fiber)`: whether the fiber has ended, or waits for something that is not part of loading.
    NodeIsSettled = "node_is_settled", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        let all = this_loop::fibers();
        let found = all.iter().find(|fiber| fibers::number(fiber.id) == number);
        Ok(found.is_none_or(|fiber| {
            let waits = fiber.state == FiberState::Parked;
            waits && (SETTLED.contains(&fiber.reason) || fiber.duration >= SETTLED_AFTER)
        }))
    }
}

native! {
    /// The owner is gone: ends the process after the grace.
    NodeEndNow = "node_end", suspends: false;
    read(_stack) -> () { }
    run(()) -> () {
        node_end()?.end();
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; NodeFacts, CurrentFolder, NodeClock, NodeBegin, NodeIsSettled, NodeEndNow);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "node_listen", listen_raw) };
}

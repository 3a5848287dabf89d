//! The natives of a program's VMs: the table `core` that the prelude's files receive.

use super::{reloads, report, shutdown, simulated, threads};
use crate::lua::console;
use crate::lua::data;
use crate::lua::fibers::{self, signals, waits};
use crate::lua::files;
use crate::lua::host::log;
use crate::lua::nalloc;
use crate::lua::net;
use crate::lua::rpc::{
    async_calls, calls, connections, endpoints, groups, lookup, messages, references,
    remote_functions, traces,
};
use crate::lua::simulation;
use yue_luajit::Stack;

/// Adds every native to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    log::register_all(stack);
    data::register_all(stack);
    fibers::register_all(stack);
    waits::register_all(stack);
    signals::register_all(stack);
    files::register_all(stack);
    net::register_all(stack);
    #[cfg(feature = "http")]
    crate::lua::http::register_all(stack);
    connections::register_all(stack);
    endpoints::register_all(stack);
    lookup::register_all(stack);
    messages::register_all(stack);
    references::register_all(stack);
    remote_functions::register_all(stack);
    calls::register_all(stack);
    async_calls::register_all(stack);
    groups::register_all(stack);
    traces::register_all(stack);
    nalloc::register_all(stack);
    threads::register_all(stack);
    shutdown::register_all(stack);
    reloads::register_all(stack);
    report::register_all(stack);
    simulated::register_all(stack);
    crate::lua::development::register_all(stack);
    console::register_all(stack);
    simulation::register_all(stack);
}

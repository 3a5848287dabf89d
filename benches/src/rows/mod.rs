//! The rows of the table, one file each.

mod churn;
mod cross_loop;
mod echo;
#[cfg(feature = "peers")]
mod echo_peers;
mod echo_yue;
mod fiber_yield;
mod groups;
mod growth;
mod idle_memory;
mod lua_fibers;
mod mailbox;
mod rpc_native;
mod rpc_tcp;
mod rpc_thread;
mod served_load;
mod servers;
mod spawn_join;
#[cfg(feature = "peers")]
mod tarpc_peer;
mod timers;
mod transports;
#[cfg(feature = "peers")]
mod websocket_peers;

use crate::harness::{Problem, Row};

/// Returns all rows, in order.
pub fn all() -> Vec<Row> {
    vec![
        fiber_yield::row(),
        spawn_join::row(),
        idle_memory::row(),
        mailbox::row(),
        cross_loop::row(),
        timers::row(),
        echo::row(),
        lua_fibers::row(),
        rpc_tcp::row(),
        rpc_thread::row(),
        rpc_native::row(),
        growth::row(),
        servers::row(),
        groups::row(),
        transports::row(),
    ]
}

/// Runs one of the network rows' servers until the process ends.
///
/// # Errors
///
/// When there is no server of that name, or it cannot serve.
pub fn serve(server: &str) -> Result<(), Problem> {
    let known = echo::serve(server)
        .or_else(|| churn::serve(server))
        .or_else(|| rpc_tcp::serve(server))
        .or_else(|| rpc_native::serve(server))
        .or_else(|| servers::serve(server))
        .or_else(|| groups::serve(server));
    known.unwrap_or_else(|| Err(Problem::failed(format!("there is no server {server:?}"))))
}

//! The Lua API: runs Lua programs on loops.
//!
//! ```text
//!   native.rs   how natives are written
//!   host/       what one loop knows of its program: the VM, the prelude (../../lua/*.lua), errors, the log
//!   console/    code that a person types, in the running program
//!   data/       JSON, msgpack, cryptography, memory that threads share
//!   fibers/     fibers, waits, time, signals
//!   files/      files, watches of them, processes
//!   net/        sockets: streams, listeners, datagrams
//!   http/       requests to HTTP servers, and HTTP servers
//!   rpc/        connections, calls, requests that are served, functions as values
//!   development.rs   what a program does in addition under `yue dev`
//!   simulation.rs    the natives of `yue.sim`, for the scenario of a simulation
//!   program/    the loops of a program and its end, worker threads, reports
//! ```
//!
//! A Rust program runs a Lua program as the `yue` command does:
//!
//! ```
//! use yue::lua::Script;
//!
//! let path = std::env::temp_dir().join(format!("yue-example-{}.lua", std::process::id()));
//! std::fs::write(&path, "assert(6 * 7 == 42)")?;
//! assert_eq!(Script::new(&path).run(), 0);
//! std::fs::remove_file(path)?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod console;
mod data;
pub mod development;
mod fibers;
mod files;
mod host;
#[cfg(feature = "http")]
mod http;
mod nalloc;
mod native;
mod net;
mod number_hash;
mod program;
mod rpc;
mod script;
pub(crate) mod simulation;

pub use console::{Syntax, Terminal, check_syntax, evaluator};
pub(crate) use fibers::fiber_of_number;
pub use host::log::read_log_level;
pub(crate) use program::report::describe_waits;
pub use program::report::{report_on, watch_loops};
pub(crate) use program::simulated::Running;
pub use script::{Chunk, Script};
pub use yue_io::Choice;

/// The description of the Lua API for editors, in LuaCATS: the name and the text of each file.
///
/// ```
/// assert!(yue::lua::STUBS.iter().any(|(name, text)| *name == "yue.lua" && text.starts_with("---@meta")));
/// ```
pub const STUBS: &[(&str, &str)] = &[
    ("data.lua", include_str!("../../lua/meta/data.lua")),
    ("files.lua", include_str!("../../lua/meta/files.lua")),
    ("http.lua", include_str!("../../lua/meta/http.lua")),
    (
        "http_server.lua",
        include_str!("../../lua/meta/http_server.lua"),
    ),
    ("metrics.lua", include_str!("../../lua/meta/metrics.lua")),
    ("nalloc.lua", include_str!("../../lua/meta/nalloc.lua")),
    ("net.lua", include_str!("../../lua/meta/net.lua")),
    ("reload.lua", include_str!("../../lua/meta/reload.lua")),
    ("sim.lua", include_str!("../../lua/meta/sim.lua")),
    ("sync.lua", include_str!("../../lua/meta/sync.lua")),
    ("yue.lua", include_str!("../../lua/meta/yue.lua")),
];

/// Facts about Lua for a report.
///
/// ```
/// let facts = yue::lua::LuaFacts::find().unwrap();
/// assert!(facts.version.starts_with("LuaJIT 2.1"));
/// println!("{}, compiler {}", facts.version, if facts.jit_on { "on" } else { "off" });
/// ```
#[derive(Debug, Clone)]
pub struct LuaFacts {
    /// LuaJIT's name and version.
    pub version: String,
    /// Whether the JIT compiler is on.
    pub jit_on: bool,
}

impl LuaFacts {
    /// Starts a VM and reads the facts from it.
    ///
    /// # Errors
    /// The reason why a VM cannot be started.
    pub fn find() -> Result<LuaFacts, String> {
        let vm = yue_luajit::Vm::new().map_err(|error| error.to_string())?;
        vm.with_mlua(|lua| {
            let (version, jit_on) = lua.load("return jit.version, (jit.status())").eval()?;
            Ok(LuaFacts { version, jit_on })
        })
        .map_err(|error: yue_luajit::mlua::Error| error.to_string())
    }
}

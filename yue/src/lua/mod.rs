//! The Lua API: runs Lua programs on loops.
//!
//! ```text
//!   native.rs   how natives are written
//!   host/       what one loop knows of its program: the VM, the prelude (../../lua/*.lua), errors, the log
//!   data/       JSON, msgpack, cryptography, memory that threads share
//!   fibers/     fibers, waits, time, signals
//!   files/      files, watches of them, processes
//!   rpc/        connections, calls, requests that are served, functions as values
//!   program/    the loops of a program and its end, worker threads, reports, `yue -i`
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

mod data;
mod fibers;
mod files;
mod host;
mod native;
mod number_hash;
mod program;
mod rpc;
mod script;

pub use host::log::read_log_level;
pub use program::report::{report_on, watch_loops};
pub use script::{Chunk, Script};
pub use yue_io::Choice;

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

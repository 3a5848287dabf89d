//! The Lua API: runs Lua programs on loops.
//!
//! ```text
//!   native.rs   how natives are written
//!   host/       what one loop knows of its program: the VM, the prelude (../../lua/*.lua), errors, the log
//!   fibers/     fibers, waits, time, signals
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

mod fibers;
mod host;
mod native;
mod program;
mod rpc;

pub use program::report::{report_on, watch_loops};
use std::path::PathBuf;
pub use yue_io::Choice;

/// A piece of a Lua program.
///
/// ```
/// use yue::lua::{Chunk, Script};
///
/// let script = Script {
///     chunks: vec![Chunk::text("=(command line)", "answer = 6 * 7")],
///     ..Script::new("/dev/null")
/// };
/// assert_eq!(script.run(), 0);
/// ```
#[derive(Debug, Clone)]
pub enum Chunk {
    /// A file: source, or bytecode.
    File(PathBuf),
    /// Source text.
    Text {
        /// The name in messages, in Lua's form: `=name`, or `@file`.
        name: String,
        /// The text. A first line that begins with `#` is skipped, as in a file.
        source: Vec<u8>,
    },
    /// Reads Lua from standard input, line by line, and shows the results, until the end of input.
    Interactive,
}

impl Chunk {
    /// Creates a chunk of source text.
    pub fn text(name: impl Into<String>, source: impl Into<Vec<u8>>) -> Chunk {
        Chunk::Text {
            name: name.into(),
            source: source.into(),
        }
    }
}

/// A Lua program to run: a script, its arguments, and its number of loops.
///
/// ```
/// use yue::lua::{Choice, Script};
///
/// let path = std::env::temp_dir().join(format!("yue-script-{}.lua", std::process::id()));
/// std::fs::write(&path, "assert(yue.args[1] == 'hello' and ... == 'hello')")?;
/// let script = Script {
///     args: vec![b"hello".to_vec()],
///     io: Choice::Mio,
///     ..Script::new(&path)
/// };
/// assert_eq!(script.run(), 0); // 1, and a traceback on standard error, without the argument.
/// std::fs::remove_file(path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Script {
    /// The chunks that the main fiber runs, one after the other. Each receives `args` as its arguments.
    pub chunks: Vec<Chunk>,
    /// The program's name in `arg[0]`, if it has one. `require` finds modules beside the file of this name.
    pub name: Option<PathBuf>,
    /// The script's arguments: `yue.args`, `arg[1]` and so on, and `...`.
    pub args: Vec<Vec<u8>>,
    /// The words of the command line before the name: `arg[-1]` is the last of them.
    pub command: Vec<Vec<u8>>,
    /// The number of loops that run it at once, each on its own thread; at least 1.
    pub loops: usize,
    /// The I/O driver of the loops.
    pub io: Choice,
}

impl Script {
    /// A script without arguments, on one loop, with the driver that this machine allows.
    pub fn new(path: impl Into<PathBuf>) -> Script {
        let path = path.into();
        Script {
            chunks: vec![Chunk::File(path.clone())],
            name: Some(path),
            args: Vec::new(),
            command: Vec::new(),
            loops: 1,
            io: Choice::Auto,
        }
    }

    /// Runs the program to its end: when its script has returned and nothing is open, when a shutdown was requested, or
    /// when the script has raised (the traceback is on standard error then). The result is the exit code for the
    /// process: 128 + n if signal n has ended the program.
    ///
    /// While it runs, SIGINT and SIGTERM end the program, unless they were ignored when it started; their previous
    /// actions are restored when this returns. If a shutdown takes longer than its grace of 5 s and one more, or
    /// another signal arrives, the process ends.
    pub fn run(self) -> i32 {
        program::Program::new(self).run()
    }
}

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

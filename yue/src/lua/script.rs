//! Lua programs, as the user of the crate describes them.

use crate::lua::console::Terminal;
use crate::nalloc::NodeEnd;
use std::path::PathBuf;
use yue_io::Choice;

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
    /// Bytecode that `string.dump` has made in this process, of a function without upvalues other than `yue`.
    Function(Vec<u8>),
    /// Runs [`Script::terminal`]. Without one it reads Lua from standard input, line by line, and shows the results,
    /// until the end of input.
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
    /// Whether changed modules and files of symbols are reloaded while it runs.
    pub watch: bool,
    /// Set for a node: its link to its owner, whose library it runs.
    pub node: Option<NodeEnd>,
    /// Talks with the user, for [`Chunk::Interactive`].
    pub terminal: Option<Terminal>,
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
            watch: false,
            node: None,
            terminal: None,
        }
    }
}

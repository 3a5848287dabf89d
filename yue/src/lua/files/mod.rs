//! Files and processes: the natives under `yue.fs` and `yue.process`.
//!
//! ```text
//!   fs.rs       files and directories
//!   watch.rs    watches of files (inotify)
//!   process.rs  child processes and their pipes
//!   special.rs  named pipes, terminals, devices
//!   standard.rs standard input, output and error
//!   streams.rs  what `io.open` opens on a simulated host
//! ```
//!
//! An open file, a watch or a child belongs to its loop; see [`Handles`](super::host::handles::Handles).

mod fs;
pub(crate) mod process;
mod special;
mod standard;
mod streams;
mod watch;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use yue_luajit::Stack;

/// A path from Lua.
pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    fs::clear();
    watch::clear();
    process::clear();
    special::clear();
    streams::clear();
}

/// Lets Lua's `print` use the output buffer of the process.
pub(crate) fn set_print() {
    standard::set_print();
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    fs::register_all(stack);
    watch::register_all(stack);
    process::register_all(stack);
    special::register_all(stack);
    standard::register_all(stack);
    streams::register_all(stack);
}

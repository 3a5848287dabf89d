//! Files and processes: the natives under `yue.fs` and `yue.process`.
//!
//! ```text
//!   fs.rs       files and directories
//!   watch.rs    watches of files (inotify)
//!   process.rs  child processes and their pipes
//!   failure.rs  system errors as error objects
//! ```
//!
//! An open file, a watch or a child belongs to its loop. Lua knows it by a number, so a finalizer that runs late, or
//! twice, closes nothing else.

mod failure;
mod fs;
mod process;
mod watch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use yue_luajit::Stack;

/// Open resources of one loop, by their numbers in Lua. A number is never used again.
struct Handles<T> {
    open: RefCell<(u64, HashMap<u64, Rc<T>>)>,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles {
            open: RefCell::new((0, HashMap::new())),
        }
    }
}

impl<T> Handles<T> {
    fn add(&self, resource: T) -> f64 {
        let mut open = self.open.borrow_mut();
        open.0 += 1;
        let number = open.0;
        open.1.insert(number, Rc::new(resource));
        number as f64
    }

    fn find(&self, number: f64) -> Option<Rc<T>> {
        self.open.borrow().1.get(&(number as u64)).cloned()
    }

    fn remove(&self, number: f64) -> Option<Rc<T>> {
        self.open.borrow_mut().1.remove(&(number as u64))
    }

    fn clear(&self) {
        // Dropped after the borrow has ended.
        let all = std::mem::take(&mut self.open.borrow_mut().1);
        drop(all);
    }
}

/// A path from Lua.
fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    fs::clear();
    watch::clear();
    process::clear();
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    fs::register_all(stack);
    watch::register_all(stack);
    process::register_all(stack);
}

//! Changes in the folder of the script.
//!
//! Editors save in different ways: they truncate and write, or they rename a new file to the name, and many write other
//! files beside it. So all changes within a moment are passed on together, as paths; whoever gets them reads the files.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use yue::inotify::{Events, Watch, Watcher};
use yue::{Elapsed, timeout};

/// The time without a change before the others are passed on.
const QUIET: Duration = Duration::from_millis(50);

/// The number of changes that are passed on at once, at most: a program may write files all the time.
const CHANGES_MAX: usize = 1000;

/// Folders of a project; a tree that has more is not written by hand.
const FOLDERS_MAX: usize = 500;

/// Folders below the script's.
const DEPTH_MAX: usize = 8;

/// The time between two looks for the folder itself after it was removed.
const RETURN: Duration = Duration::from_millis(100);

/// A watch of a folder and of the folders in it.
pub(super) struct Tree {
    root: PathBuf,
    /// Whether the folder was removed or renamed, which ends its watch.
    is_lost: bool,
    watcher: Watcher,
    folders: HashMap<Watch, PathBuf>,
}

impl Tree {
    /// Watches a folder.
    ///
    /// # Errors
    /// The system's. Folders below that cannot be watched are left out.
    pub(super) fn watch(folder: &Path) -> io::Result<Tree> {
        Tree::open(folder).map(|(tree, _)| tree)
    }

    /// Watches a folder; returns the files in it, too.
    fn open(folder: &Path) -> io::Result<(Tree, BTreeSet<PathBuf>)> {
        let mut tree = Tree {
            root: folder.to_owned(),
            is_lost: false,
            watcher: Watcher::new()?,
            folders: HashMap::new(),
        };
        tree.add(folder)?;
        let mut found = BTreeSet::new();
        tree.add_below(folder, 0, &mut found);
        Ok((tree, found))
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        let mut events = Events::WRITTEN | Events::CREATED | Events::MOVED_TO;
        if folder == self.root {
            events |= Events::SELF_MOVED;
        }
        let watch = self.watcher.add(folder, events)?;
        self.folders.insert(watch, folder.to_owned());
        Ok(())
    }

    /// Watches the folders in a folder; adds the files in all of them to `found`.
    fn add_below(&mut self, folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if is_left_out(&path) {
                continue;
            }
            if !kind.is_ok_and(|kind| kind.is_dir()) {
                found.insert(path);
            } else if depth < DEPTH_MAX
                && self.folders.len() < FOLDERS_MAX
                && self.add(&path).is_ok()
            {
                self.add_below(&path, depth + 1, found);
            }
        }
    }

    /// Waits for changes; returns the paths of files that were written or renamed, once no more follow.
    ///
    /// # Errors
    /// The system's; or when the fiber is cancelled.
    pub(super) fn changes(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        self.take_next(&mut changed)?;
        while changed.len() < CHANGES_MAX {
            let next = timeout(QUIET, || self.watcher.next());
            match next {
                Ok(event) => self.take(event?, &mut changed),
                Err(Elapsed) => break,
            }
        }
        Ok(changed)
    }

    fn take_next(&mut self, changed: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        while changed.is_empty() {
            if !self.is_lost {
                let event = self.watcher.next()?;
                self.take(event, changed);
            } else if let Ok((tree, found)) = Tree::open(&self.root) {
                *self = tree;
                *changed = found;
            } else {
                yue::sleep(RETURN)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, event: yue::inotify::Event, changed: &mut BTreeSet<PathBuf>) {
        if event.events.contains(Events::UNWATCHED) || event.events.contains(Events::SELF_MOVED) {
            let ended = self.folders.remove(&event.watch);
            self.is_lost |= ended.is_some_and(|folder| folder == self.root);
            return;
        }
        let (Some(folder), Some(name)) = (self.folders.get(&event.watch), event.name) else {
            return;
        };
        let path = folder.join(name);
        if is_left_out(&path) {
            return;
        }
        if event.events.contains(Events::DIRECTORY) {
            if self.folders.len() < FOLDERS_MAX && self.add(&path).is_ok() {
                // Files may have been written before the watch began.
                self.add_below(&path, 1, changed);
            }
            return;
        }
        changed.insert(path);
    }
}

/// Whether a file or folder is not part of the program: hidden, an editor's copy, or other tools'.
fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let others = ["node_modules", "target"];
    name.starts_with('.') || name.ends_with('~') || others.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::{FOLDERS_MAX, Tree};
    use std::fs;

    #[test]
    fn the_ways_in_which_editors_save_are_one_change_each() {
        let run = yue_io::run(|| {
            let place = tempfile::tempdir().expect("a folder");
            let root = place.path();
            fs::create_dir_all(root.join("page/.git")).expect("folders");
            let write = |name: &str| fs::write(root.join(name), name).expect("a file");
            let mut tree = Tree::watch(root).expect("a watch");
            let mut expect = |names: &[&str]| {
                let expected = names.iter().map(|name| root.join(name)).collect();
                assert_eq!(tree.changes().expect("changes"), expected);
            };

            write("server.lua");
            write("server.lua");
            expect(&["server.lua"]);

            // As vim does.
            write("4913~");
            write(".server.lua.swp");
            write("page/new");
            fs::rename(root.join("page/new"), root.join("page/index.html")).expect("a rename");
            write("page/.git/index");
            expect(&["page/index.html", "page/new"]);

            fs::create_dir(root.join("maps")).expect("a folder");
            write("a.lua");
            expect(&["a.lua"]);
            write("maps/north.lua");
            expect(&["maps/north.lua"]);
        });
        run.expect("a loop");
    }

    #[test]
    fn folders_that_are_removed_and_created_again_are_watched_again() {
        let run = yue_io::run(|| {
            let place = tempfile::tempdir().expect("a folder");
            let root = place.path().join("program");
            let write = |name: &str| fs::write(root.join(name), name).expect("a file");
            let build = || {
                fs::create_dir_all(root.join("maps")).expect("folders");
                write("server.lua");
                write("maps/north.lua");
            };
            build();
            let mut tree = Tree::watch(&root).expect("a watch");
            let mut expect = |names: &[&str]| {
                let expected = names.iter().map(|name| root.join(name)).collect();
                assert_eq!(tree.changes().expect("changes"), expected);
            };

            // More than there may be: those that are gone do not count.
            let many: Vec<_> = (0..FOLDERS_MAX).map(|n| root.join(n.to_string())).collect();
            many.iter()
                .for_each(|path| fs::create_dir(path).expect("a folder"));
            write("server.lua");
            expect(&["server.lua"]);
            many.iter()
                .for_each(|path| fs::remove_dir(path).expect("it is there"));
            fs::remove_dir_all(root.join("maps")).expect("it is there");
            write("server.lua");
            expect(&["server.lua"]);
            build();
            expect(&["maps/north.lua", "server.lua"]);
            write("maps/north.lua");
            expect(&["maps/north.lua"]);
            for _ in 0..2 {
                fs::remove_dir_all(&root).expect("it is there");
                build();
                expect(&["maps/north.lua", "server.lua"]);
                write("maps/north.lua");
                expect(&["maps/north.lua"]);
            }
            fs::rename(&root, place.path().join("old")).expect("a rename");
            build();
            expect(&["maps/north.lua", "server.lua"]);
            write("server.lua");
            expect(&["server.lua"]);
        });
        run.expect("a loop");
    }
}

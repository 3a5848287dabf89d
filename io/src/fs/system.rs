//! The calls on paths: those of the system, or in a simulation those of the host's disk. They block; the callers run
//! them on the pool.

use super::metadata::Metadata;
use crate::simulated::{self, files};
use std::io;
use std::path::{Path, PathBuf};

/// Defines functions that call the one of the same name in `std::fs` or in the simulation.
macro_rules! doors {
    ($(fn $name:ident($($argument:ident),+) -> $result:ty;)+) => {$(
        pub(super) fn $name($($argument: &Path),+) -> io::Result<$result> {
            match simulated::is_on() {
                true => files::$name($($argument),+).map(Into::into),
                false => std::fs::$name($($argument),+).map(Into::into),
            }
        }
    )+};
}

doors! {
    fn rename(from, to) -> ();
    fn remove_file(path) -> ();
    fn remove_dir(path) -> ();
    fn remove_dir_all(path) -> ();
    fn create_dir(path) -> ();
    fn create_dir_all(path) -> ();
    fn hard_link(original, link) -> ();
    fn metadata(path) -> Metadata;
    fn symlink_metadata(path) -> Metadata;
    fn exists(path) -> bool;
    fn canonicalize(path) -> PathBuf;
    fn read_link(path) -> PathBuf;
    fn copy(from, to) -> u64;
}

pub(super) fn symlink(original: &Path, link: &Path) -> io::Result<()> {
    match simulated::is_on() {
        true => files::symlink(original, link),
        false => std::os::unix::fs::symlink(original, link),
    }
}

pub(super) fn set_permissions(path: &Path, permissions: std::fs::Permissions) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match simulated::is_on() {
        true => files::set_mode(path, permissions.mode()),
        false => std::fs::set_permissions(path, permissions),
    }
}

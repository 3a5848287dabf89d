//! The disks of simulated hosts: a file system in memory, with what a power failure leaves of it.
//!
//! ```text
//!   fs::File ──▶ handle.rs ─┐
//!   fs::rename … ▶ calls.rs ┴▶ disks.rs: time, faults ──▶ disk.rs
//!                                                          │  now       what processes see
//!                                       write, rename ─────┤  pending   what a crash may keep, lose or tear
//!                                       fsync ─────────────┘  durable   what a crash keeps
//! ```
//!
//! Processes see a file system of Linux: paths, links, open files that have lost their names, `O_APPEND`, holes,
//! advisory locks, inotify, and the error numbers of the manual pages. A process that ends without a crash loses
//! nothing. The current directory is `/`; all processes have one user, who owns all files; access times do not change
//! by reading.
//!
//! # Durability
//!
//! The model permits whatever some file system in use permits, so that a program which is correct here is correct on
//! all of them.
//!
//! - *Contents.* A write, a truncation or an extension is durable when `fsync` or `fdatasync` of the file has returned
//!   (`fsync(2)`), or with `O_SYNC`. A crash before that decides for each change: done, lost, or torn, which means that
//!   some of its sectors of 512 bytes were written. Later changes may survive earlier ones. A lost write may leave the
//!   length behind, filled with zeros. Only a truncation orders: if it was lost, so are later writes beyond it, because
//!   they went to new blocks.
//! - *Names.* `fsync` of a file does not make its name durable: "for that an explicit fsync() on a file descriptor for
//!   the directory is also needed" (`fsync(2)`). A crash decides for each new, removed or changed name. A rename is
//!   done or lost as a whole (`rename(2)`), also between directories, where the `fsync` of either makes it durable.
//!   Changes of one name, or of one file's names, keep their order; [`journal`] has the exact rules. A name may become
//!   durable before the contents: the file is then empty, or has some of them.
//! - *Failure of `fsync`.* For a file, some of the pending changes are done, the others are lost, and all count as
//!   written: processes still read them from the page cache, and the next `fsync` succeeds. Every open file reports the
//!   failure once (`errseq_t` in the kernel's `Documentation/core-api/errseq.rst`). For a directory, all changes stay
//!   pending.
//! - Nothing becomes durable by time alone. But if more than 64 MiB of contents are pending, all are written, and of
//!   more than 4096 names the older half.
//!
//! Sources: the manual pages; T. S. Pillai and others, "All File Systems Are Not Created Equal: On the Complexity of
//! Crafting Crash-Consistent Applications" (OSDI 2014): on many file systems an append or an overwrite of several
//! sectors is not atomic and a length may be written before its data, and btrfs reorders operations on directories;
//! A. Rebello and others, "Can Applications Recover from fsync Failures?" (USENIX ATC 2020): ext4, XFS and btrfs mark
//! pages clean after a failed fsync, and on ext4 and XFS the page cache keeps the new contents.
//!
//! # Invariants
//!
//! - A disk is plain data. Time and the choices of the seed are passed in, tables are ordered.
//! - An inode lives while it has a name, an open file, a durable name, or a pending change of one of its names.
//! - What a crash leaves is a tree: every directory has one name, and no rename loses a file.
//! - After a crash nothing has an effect until the restart; files that were open stay broken (`EIO`).
//!
//! ```text
//!   content.rs   pages and holes                inode.rs     files, directories, links
//!   path.rs      path resolution                names.rs     mkdir, link, rename, unlink, lists
//!   open.rs      open, close, locks             transfer.rs  read, write, truncate, fsync
//!   journal.rs   pending changes of names       crash.rs     power failure
//!   faults.rs    faults and latency             disks.rs     the disks, the time of operations
//!   handle.rs    the handles of files           calls.rs     the calls of `std::fs`
//!   watches.rs   inotify                        control.rs   what a scenario does
//! ```

mod calls;
mod content;
mod control;
mod crash;
mod disk;
mod disks;
mod faults;
mod handle;
mod inode;
mod journal;
mod names;
mod open;
mod path;
mod transfer;
mod watches;

pub(crate) use calls::{
    Watcher, canonicalize, copy, create_dir, create_dir_all, exists, hard_link, metadata, read_dir,
    read_link, remove_dir, remove_dir_all, remove_dir_all_now, remove_file, remove_file_now,
    rename, set_mode, symlink, symlink_metadata, tempfile, temporary, times_in,
};
pub(crate) use control::{
    crash, crash_at_operation, durable_files, fail_at_operation, faults_of, files, latency_of,
    operations, read_file, restart, set_capacity, set_faults, set_frozen, set_full, set_latency,
    write_file,
};
pub(crate) use disk::USER;
pub use disks::PlannedCrash;
pub use faults::{DiskFaults, DiskLatency};
pub(crate) use handle::Handle;
pub(crate) use inode::Facts;

#[cfg(test)]
mod tests;

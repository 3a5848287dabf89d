//! The natives of `yue.sim` for the disks of hosts.

use super::{control, refused, text_of};
use crate::lua::native::{Results, native, register};
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::path::PathBuf;
use yue_luajit::{Stack, ffi};

native! {
    /// `sim_host_number(kind, name, number)`: sets a number of a host: `capacity` of the disk in bytes, `fail-at` an
    /// operation of the disk.
    HostNumber = "sim_host_number", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8], f64) { (stack.bytes(1), stack.bytes(2), stack.number(3)) }
    run((kind, name, number)) -> () {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        match kind {
            b"capacity" => control.set_disk_capacity(&name, number as u64),
            b"fail-at" => control.fail_at(&name, number as u64),
            _ => {}
        }
        Ok(())
    }
}

native! {
    /// `sim_disk_operations(name)`: the number of operations that the host's disk has begun.
    Operations = "sim_disk_operations", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> f64 {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        Ok(control.disk_operations(&name) as f64)
    }
}

/// The files of a disk, as a Lua table of contents by path.
pub(crate) struct FileTable(BTreeMap<PathBuf, Vec<u8>>);

impl Results for FileTable {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised. The table stays below its keys and values.
        unsafe {
            ffi::lua_createtable(stack.raw(), 0, self.0.len().min(1 << 20) as c_int);
            for (path, bytes) in &self.0 {
                stack.push_bytes(path.as_os_str().as_encoded_bytes());
                stack.push_bytes(bytes);
                ffi::lua_rawset(stack.raw(), -3);
            }
        }
        1
    }
}

native! {
    /// `sim_files(name, durable)`: returns the files of the host's disk: as processes see them, or with `durable` other
    /// than 0 as a crash would leave them at worst.
    ListFiles = "sim_files", suspends: false;
    read(stack) -> (&'a [u8], f64) { (stack.bytes(1), stack.number(2)) }
    run((name, durable)) -> FileTable {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        Ok(FileTable(match durable != 0.0 {
            true => control.durable_files(&name),
            false => control.files(&name),
        }))
    }
}

native! {
    /// `sim_read_file(name, path)`: returns the contents of a file of a host's disk, or nil.
    ReadFile = "sim_read_file", suspends: false;
    read(stack) -> [&'a [u8]; 2] { [1, 2].map(|index| stack.bytes(index)) }
    run([name, path]) -> Option<Vec<u8>> {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        Ok(control.read_file(&name, text_of(path)).ok())
    }
}

native! {
    /// `sim_write_file(name, path, bytes)`: puts a durable file on a host's disk.
    WriteFile = "sim_write_file", suspends: false;
    read(stack) -> [&'a [u8]; 3] { [1, 2, 3].map(|index| stack.bytes(index)) }
    run([name, path, bytes]) -> () {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        let path = text_of(path);
        let written = control.write_file(&name, &path, bytes);
        written.map_err(|error| refused(format!("cannot put {path} on the disk of {name}: {error}")))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; HostNumber, Operations, ReadFile, WriteFile, ListFiles);
}

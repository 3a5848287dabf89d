//! The user that an agent's nodes run as.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use yue::process::Command;

/// The memory that an entry of the user database may need.
const ENTRY_MAX: usize = 1 << 16;

/// A user of this machine.
#[derive(Debug)]
pub(super) struct User {
    name: String,
    user: u32,
    group: u32,
    home: PathBuf,
}

impl User {
    /// Looks a user up, for an agent that runs as root.
    ///
    /// # Errors
    /// If there is no such user, or this process may not become it.
    pub(super) fn find(name: &str) -> Result<User, String> {
        // SAFETY: a plain query.
        if unsafe { libc::geteuid() } != 0 {
            return Err("--user needs an agent that runs as root".to_owned());
        }
        let unknown = || format!("there is no user '{name}' for --user");
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let mut buffer = vec![0; ENTRY_MAX];
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: all memory outlives the call.
        let code = unsafe {
            libc::getpwnam_r(
                c_name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut found,
            )
        };
        if code != 0 || found.is_null() {
            return Err(unknown());
        }
        // SAFETY: the call has filled the entry, and its texts lie in the buffer.
        let (user, group, home) = unsafe {
            let entry = entry.assume_init_ref();
            let home = OsStr::from_bytes(CStr::from_ptr(entry.pw_dir).to_bytes());
            (entry.pw_uid, entry.pw_gid, PathBuf::from(home))
        };
        Ok(User {
            name: name.to_owned(),
            user,
            group,
            home,
        })
    }

    /// Makes a command run as this user, in its home folder. It belongs to no other groups.
    pub(super) fn apply(&self, command: &mut Command) {
        command
            .uid(self.user)
            .gid(self.group)
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name);
        for variable in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(variable);
        }
        if self.home.is_dir() {
            command.current_dir(&self.home);
        }
    }
}

//! A folder of runtime files of its own, so that a test finds the admin endpoints of its own programs alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A folder for `XDG_RUNTIME_DIR`, which goes away with it.
pub struct RuntimeDir(pub PathBuf);

impl RuntimeDir {
    pub fn new(name: &str) -> RuntimeDir {
        // Not the target's folder, whose name may be too long for a socket's.
        let folder = format!("yue-runtime-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(folder);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        RuntimeDir(path)
    }

    pub fn folder(&self) -> PathBuf {
        self.0.join("yue")
    }

    pub fn socket(&self, process: u32) -> PathBuf {
        self.folder().join(format!("{process}.sock"))
    }

    /// The names of the sockets.
    pub fn sockets(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder()) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    }

    pub fn set_for<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XDG_RUNTIME_DIR", &self.0)
            .env_remove("YUE_ADMIN")
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

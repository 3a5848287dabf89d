//! The programs that nodes run: the agent's own, and those that owners of other versions have sent, by their hashes.
//!
//! ```text
//!   ~/.cache/yue/bin/SHA256           a program; written under another name first
//!   /var/cache/yue/bin/SHA256         of an agent with --user, since others run it
//! ```

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use yue::fs::OpenOptions;
use yue::nalloc::agent::{Binary, Channel, Kind, is_hash, own_binary};

/// A larger program is refused.
const SIZE_MAX: u64 = 1 << 30;

/// The programs of an agent.
pub(super) struct Binaries {
    own: Binary,
    folder: PathBuf,
}

impl Binaries {
    /// Reads the agent's own program. In a fiber.
    ///
    /// # Errors
    /// A description.
    pub(super) fn new(runs_as_others: bool) -> Result<Binaries, String> {
        let own = own_binary().map_err(|error| format!("cannot read this program: {error}"))?;
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let base = match (variable("XDG_CACHE_HOME"), variable("HOME")) {
            (Some(cache), _) => PathBuf::from(cache),
            (None, _) if runs_as_others => PathBuf::from("/var/cache"),
            (None, Some(home)) => Path::new(&home).join(".cache"),
            (None, None) => return Err("neither XDG_CACHE_HOME nor HOME is set".to_owned()),
        };
        Ok(Binaries {
            own,
            folder: base.join("yue/bin"),
        })
    }

    /// The program with that hash, if the agent has it.
    pub(super) fn find(&self, hash: &str) -> Option<PathBuf> {
        if hash == self.own.hash {
            return Some(own_path());
        }
        let path = self.folder.join(hash);
        (is_hash(hash) && path.is_file()).then_some(path)
    }

    /// Whether an owner may send a program.
    ///
    /// # Errors
    /// The reason why it may not.
    pub(super) fn check(hash: &str, size: u64) -> Result<(), String> {
        if !is_hash(hash) {
            return Err("the hash of the owner's program is not a SHA-256".to_owned());
        }
        if size == 0 || size > SIZE_MAX {
            return Err(format!(
                "the owner's program has {size} bytes; {SIZE_MAX} is the limit"
            ));
        }
        Ok(())
    }

    /// Receives a program. Nobody finds it before it is whole, and its hash is right.
    ///
    /// # Errors
    /// The stream's, the disk's; `InvalidData` if it is another program.
    pub(super) fn receive<S: io::Read + Write>(
        &self,
        channel: &mut Channel<S>,
        hash: &str,
        size: u64,
    ) -> io::Result<PathBuf> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.folder)?;
        let temporary = Temporary::new(&self.folder, hash);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(&temporary.path)?;
        let (mut payload, mut left) = (Vec::new(), size);
        while left > 0 {
            let kind = channel.receive(&mut payload)?;
            if kind != Kind::Binary || payload.len() as u64 > left || payload.is_empty() {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "the program was not sent",
                ));
            }
            file.write_all(&payload)?;
            left -= payload.len() as u64;
        }
        // A program that is open for writing cannot be run.
        drop(file);
        let path = temporary.path.clone();
        let hashed = yue::blocking(move || Binary::of(fs::File::open(path)?));
        let received = hashed.map_err(io::Error::other)??;
        if received.hash != hash {
            let text = "the program that was sent has another hash";
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let path = self.folder.join(hash);
        yue::fs::rename(&temporary.path, &path)?;
        Ok(path)
    }
}

/// A file that is removed, unless it was renamed.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn new(folder: &Path, hash: &str) -> Temporary {
        thread_local!(static LAST: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });
        let number = LAST.get() + 1;
        LAST.set(number);
        Temporary {
            path: folder.join(format!(".{hash}.{}.{number}", std::process::id())),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The path of this program, or the kernel's name for it if another has taken its place since it started.
fn own_path() -> PathBuf {
    let kernels = PathBuf::from("/proc/self/exe");
    let same = |path: &PathBuf| {
        let (there, here) = (fs::metadata(path).ok()?, fs::metadata(&kernels).ok()?);
        ((there.dev(), there.ino()) == (here.dev(), here.ino())).then_some(())
    };
    std::env::current_exe()
        .ok()
        .filter(|path| same(path).is_some())
        .unwrap_or(kernels)
}

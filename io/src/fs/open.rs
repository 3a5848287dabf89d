//! Options for opening a file.

use super::file::File;
use super::ring_or_pool::{Executor, c_path, executor, on_ring};
use crate::offload::offload;
use crate::simulated::{self, files};
use crate::sys;
use io_uring::{opcode, types};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const OPEN: &str = "open a file";

/// Options for opening a file, like [`std::fs::OpenOptions`].
///
/// ```
/// use std::io::Write;
/// use yue_io::fs::OpenOptions;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let dir = yue_io::fs::TempDir::new()?;
///     let path = dir.path().join("log");
///     for line in ["one\n", "two\n"] {
///         let mut log = OpenOptions::new().append(true).create(true).open(&path)?;
///         log.write_all(line.as_bytes())?;
///     }
///     assert_eq!(yue_io::fs::read_to_string(&path)?, "one\ntwo\n");
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    mode: u32,
    custom_flags: i32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            mode: 0o666,
            custom_flags: 0,
        }
    }
}

impl OpenOptions {
    /// Creates options that allow nothing yet.
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    /// Sets whether the file may be read.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    /// Sets whether the file may be written.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    /// Sets whether every write goes to the current end of the file.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.append = append;
        self
    }

    /// Sets whether the file's contents are dropped.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    /// Sets whether a missing file is created.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Sets whether the file must be created: an existing file is an error.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// Sets the permissions of a created file, before the process's umask. The default is `0o666`.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Adds flags for `open(2)`, such as `O_NOFOLLOW`.
    pub fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.custom_flags = flags;
        self
    }

    /// Opens the file.
    ///
    /// # Errors
    /// The system's error; `InvalidInput` for contradicting options; or when the fiber is cancelled or its deadline
    /// passes.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        self.open_path(path.as_ref())
    }

    fn open_path(&self, path: &Path) -> io::Result<File> {
        match executor(opcode::OpenAt::CODE)? {
            Executor::Ring(core) => {
                let flags = self.flags()?;
                let path = c_path(path)?;
                let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
                    .flags(flags)
                    .mode(self.mode)
                    .build();
                // SAFETY: the path lives in this frame.
                let fd = unsafe { on_ring(&core, OPEN, entry)? };
                Ok(File::from(sys::own_fd(fd as u32)))
            }
            Executor::Offload => offload(OPEN, || match simulated::is_on() {
                true => File::simulated(files::Handle::open(path, self.flags()?, self.mode)?),
                false => self.standard().open(path).map(File::from),
            }),
        }
    }

    fn standard(&self) -> std::fs::OpenOptions {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(self.read)
            .write(self.write)
            .append(self.append)
            .truncate(self.truncate)
            .create(self.create)
            .create_new(self.create_new)
            .mode(self.mode)
            .custom_flags(self.custom_flags);
        options
    }

    /// Returns the flags that the standard library would use for the same options.
    fn flags(&self) -> io::Result<i32> {
        let access = match (self.read, self.write, self.append) {
            (true, false, false) => libc::O_RDONLY,
            (false, true, false) => libc::O_WRONLY,
            (true, true, false) => libc::O_RDWR,
            (false, _, true) => libc::O_WRONLY | libc::O_APPEND,
            (true, _, true) => libc::O_RDWR | libc::O_APPEND,
            (false, false, false) => return Err(contradiction()),
        };
        let makes = self.truncate || self.create || self.create_new;
        if makes && !self.write && !self.append {
            return Err(contradiction());
        }
        if self.append && self.truncate && !self.create_new {
            return Err(contradiction());
        }
        let creation = match (self.create, self.truncate, self.create_new) {
            (_, _, true) => libc::O_CREAT | libc::O_EXCL,
            (true, true, false) => libc::O_CREAT | libc::O_TRUNC,
            (true, false, false) => libc::O_CREAT,
            (false, true, false) => libc::O_TRUNC,
            (false, false, false) => 0,
        };
        Ok(libc::O_CLOEXEC | access | creation | (self.custom_flags & !libc::O_ACCMODE))
    }
}

fn contradiction() -> io::Error {
    let text = "the options for opening a file contradict each other; set read, write or append, and write \
         or append to create or truncate";
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

//! The files of Unix sockets: replaced if nobody listens there any more, removed by the process that made them.
//!
//! The file of a socket outlives a killed process, and then keeps the next process from binding. To find out whether
//! somebody listens, a process connects. But between that check and the removal, another process may do the same, and
//! then remove the first one's fresh socket: both would believe that they listen. So everybody who binds holds a lock
//! on the folder from `bind` to `listen` (`flock`, which needs no extra file). The lock is held for microseconds.
//! Anybody who can read the folder can take it, so the wait for it is short, and binding proceeds without it after
//! that.

use crate::address::Address;
use crate::error::{Error, ErrorKind};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::sleep;
use std::time::Duration;
use yue_io::net::{UnixListener, UnixStream};
use yue_scheduler::simulation;

/// The attempts to take the lock, and the pause between two of them. Together they last a second; only abuse of the
/// lock takes that long.
const LOCK_ATTEMPTS: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// A server that takes no lock (not yue) refuses connections between `bind` and `listen`, too. It gets this time to
/// listen.
const BETWEEN_BIND_AND_LISTEN: Duration = Duration::from_millis(5);

/// A process that was killed may listen a little longer, until the kernel has ended its operations; it then hangs up on
/// whoever connects in the meantime. That takes about 10 ms. This is how long to wait for it, and how often.
const END_OF_A_PROCESS: Duration = Duration::from_millis(50);
const ENDS_MAX: u32 = 3;

/// The mode of a private socket, and the user who may connect to all of them.
const PRIVATE: u32 = 0o600;
const ROOT: u32 = 0;

/// The outcome of an attempt to listen.
enum Attempt {
    Bound(UnixListener, SocketFile),
    /// Another process listens there: this is a connection to it.
    TakenInBy(StdStream),
}

/// The file of a socket at which this process listens.
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    owner: u32,
}

impl SocketFile {
    /// Listens at `path`. A socket at which nobody listens is replaced; another file never is.
    pub(crate) fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        SocketFile::bind_by(path, |path| UnixListener::bind(path))
    }

    /// Like [`SocketFile::bind`], by `bind`.
    fn bind_by(
        path: &Path,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> io::Result<(UnixListener, SocketFile)> {
        if simulation::is_on() {
            return SocketFile::bind_simulated(path, bind);
        }
        // The working directory may have changed by the time the file is removed.
        let path = std::path::absolute(path)?;
        for _ in 0..ENDS_MAX {
            match SocketFile::try_bind(&path, &bind)? {
                Attempt::Bound(listener, file) => return Ok((listener, file)),
                // Without the lock, which others need.
                Attempt::TakenInBy(other) if hangs_up(&other)? => {}
                Attempt::TakenInBy(_) => break,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// The same on a simulated host, whose kernel has the names of sockets. A name is replaced if a process left it, as
    /// a killed one does. Nobody binds meanwhile: one thread runs at a time.
    fn bind_simulated(
        path: &Path,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> io::Result<(UnixListener, SocketFile)> {
        let listener = match bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    return Err(error);
                }
                yue_io::fs::remove_file(path)?;
                bind(path)
            }
            other => other,
        }?;
        let file = SocketFile {
            path: path.to_owned(),
            device: 0,
            inode: 0,
            owner: 0,
        };
        Ok((listener, file))
    }

    fn try_bind(
        path: &Path,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> io::Result<Attempt> {
        let lock = path.parent().and_then(lock);
        let listener = match bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if let Some(other) = remove_if_deserted(path)? {
                    return Ok(Attempt::TakenInBy(other));
                }
                bind(path)
            }
            other => other,
        }?;
        let made = fs::symlink_metadata(path)?;
        drop(lock);
        let file = SocketFile {
            path: path.to_owned(),
            device: made.dev(),
            inode: made.ino(),
            owner: made.uid(),
        };
        Ok(Attempt::Bound(listener, file))
    }

    /// Removes the file, unless another file has replaced it. Call it while the socket still listens, because nobody
    /// replaces the file then.
    pub(crate) fn remove(&self) {
        if simulation::is_on() {
            // It may be gone already.
            let _ = yue_io::fs::remove_file(&self.path);
            return;
        }
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode));
        if is_ours {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A Unix socket at which several loops listen together, each by
/// [`Listener::bind_shared`](crate::Listener::bind_shared). Its file is removed when the last of them is dropped.
/// Clones are the same socket and may move to other threads.
///
/// ```
/// use yue_rpc::{Address, SharedSocket};
///
/// let place = std::env::temp_dir().join(format!("shared-{}", std::process::id()));
/// let socket = SharedSocket::bind(&Address::Unix { path: place.display().to_string() })?;
/// let of_another_loop = socket.clone();
/// drop(socket);
/// assert!(place.exists());
/// drop(of_another_loop);
/// assert!(!place.exists());
/// # Ok::<(), yue_rpc::Error>(())
/// ```
#[derive(Clone)]
pub struct SharedSocket {
    inner: Arc<Shared>,
}

struct Shared {
    address: Address,
    socket: UnixListener,
    file: SocketFile,
    /// Only this user and root may connect.
    is_private: bool,
    is_removed: AtomicBool,
}

impl Shared {
    /// Removes the file, once: a later file at the path may have the same number.
    fn remove_file(&self) {
        // Relaxed: nothing else depends on it.
        if !self.is_removed.swap(true, Ordering::Relaxed) {
            self.file.remove();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // While the socket still listens.
        self.remove_file();
    }
}

/// A [`SharedSocket`] that does not keep the socket open.
#[derive(Clone, Debug)]
pub struct WeakSocket {
    inner: Weak<Shared>,
}

impl SharedSocket {
    /// Listens at a `unix://` address. A socket at which nobody listens is replaced; another file never is.
    ///
    /// # Errors
    /// `AddressError` if the address cannot be bound or is of another kind.
    pub fn bind(address: &Address) -> Result<SharedSocket, Error> {
        SharedSocket::bind_by(address, false, |path| UnixListener::bind(path))
    }

    /// Like [`SharedSocket::bind`], for this process's user alone: the file has the mode 0600 from its creation on, and
    /// a listener closes connections of other users than that one and root. Put it into a folder that others cannot
    /// write to, or they can put their own socket there.
    ///
    /// ```
    /// use std::os::unix::fs::PermissionsExt;
    /// use yue_rpc::{Address, SharedSocket};
    ///
    /// let folder = yue_io::fs::TempDir::new().unwrap();
    /// let path = folder.path().join("socket");
    /// let socket = SharedSocket::bind_private(&Address::Unix { path: path.display().to_string() })?;
    /// assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    /// # drop(socket);
    /// # Ok::<(), yue_rpc::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`SharedSocket::bind`].
    pub fn bind_private(address: &Address) -> Result<SharedSocket, Error> {
        SharedSocket::bind_by(address, true, |path| {
            UnixListener::bind_with_mode(path, PRIVATE)
        })
    }

    fn bind_by(
        address: &Address,
        is_private: bool,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> Result<SharedSocket, Error> {
        let Address::Unix { path } = address else {
            let text = format!("{address} is not the address of a Unix socket");
            return Err(Error::new(ErrorKind::Address, text));
        };
        SharedSocket::bind_at(path.as_ref(), is_private, bind)
            .map_err(|error| Error::from_listen(address, &error))
    }

    /// Like [`SharedSocket::bind`], at a path.
    ///
    /// # Errors
    /// The system's error.
    pub fn bind_path(path: &Path) -> io::Result<SharedSocket> {
        SharedSocket::bind_at(path, false, |path| UnixListener::bind(path))
    }

    fn bind_at(
        path: &Path,
        is_private: bool,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> io::Result<SharedSocket> {
        let (socket, file) = SocketFile::bind_by(path, bind)?;
        let path = path.to_string_lossy().into_owned();
        Ok(SharedSocket {
            inner: Arc::new(Shared {
                address: Address::Unix { path },
                socket,
                file,
                is_private,
                is_removed: AtomicBool::new(false),
            }),
        })
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// Removes the file now: nobody finds the socket any more. Listeners continue.
    pub fn remove_file(&self) {
        self.inner.remove_file();
    }

    /// Whether a connection may stay; see [`SharedSocket::bind_private`].
    pub fn admits(&self, stream: &UnixStream) -> bool {
        if !self.inner.is_private {
            return true;
        }
        // The file belongs to the effective user of the process that made it.
        let ours = self.inner.file.owner;
        let user = stream.peer_credentials().map(|peer| peer.user);
        user.is_ok_and(|user| user == ours || user == ROOT)
    }

    /// A weak handle, which does not keep the socket open.
    pub fn downgrade(&self) -> WeakSocket {
        WeakSocket {
            inner: Arc::downgrade(&self.inner),
        }
    }

    /// Creates a listener for the calling loop.
    ///
    /// # Errors
    /// The system's error, if the process is out of descriptors.
    pub fn listener(&self) -> io::Result<UnixListener> {
        if simulation::is_on() {
            // A simulated socket is more than its descriptor.
            return self.inner.socket.try_clone();
        }
        // Not a clone: each loop has the connections that it accepted in advance for itself.
        Ok(UnixListener::from(self.as_fd().try_clone_to_owned()?))
    }
}

impl AsFd for SharedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.socket.as_fd()
    }
}

impl WeakSocket {
    /// The socket, if it is still open.
    pub fn upgrade(&self) -> Option<SharedSocket> {
        let inner = self.inner.upgrade()?;
        Some(SharedSocket { inner })
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedSocket")
            .field(&self.inner.address)
            .finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shared").field(&self.address).finish()
    }
}

/// Takes the lock on a folder. Dropping the result releases it.
fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        match folder.try_lock() {
            Ok(()) => return Some(folder),
            Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE),
            Err(TryLockError::Error(_)) => return None,
        }
    }
    None
}

/// Removes the socket at `path` if nobody listens there; otherwise returns a connection to the listener.
fn remove_if_deserted(path: &Path) -> io::Result<Option<StdStream>> {
    let before = match fs::symlink_metadata(path) {
        Ok(before) => before,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !before.file_type().is_socket() {
        let text = "there is a file that is not a socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let other = probe(path)?;
    if other.is_some() {
        return Ok(other);
    }
    sleep(BETWEEN_BIND_AND_LISTEN);
    let other = probe(path)?;
    if other.is_none() {
        match fs::remove_file(path) {
            // Its own process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(other)
}

/// Whether an attempt to connect shows that nobody listens.
fn is_deserted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// Removes the socket at `path` if nobody listens there any more, as a killed process leaves it. Returns whether there
/// is none now. It may block for a few milliseconds.
///
/// ```
/// let folder = yue_io::fs::TempDir::new()?;
/// let path = folder.path().join("socket");
/// let listener = std::os::unix::net::UnixListener::bind(&path)?;
/// assert!(!yue_rpc::remove_deserted_socket(&path)?);
/// drop(listener);
/// assert!(yue_rpc::remove_deserted_socket(&path)?);
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// If there is a file that is not a socket, or one that this process may not use.
pub fn remove_deserted_socket(path: &Path) -> io::Result<bool> {
    if probe(path)?.is_some() {
        return Ok(false);
    }
    // Again, under the lock: it may be about to listen.
    let _lock = path.parent().and_then(lock);
    Ok(remove_if_deserted(path)?.is_none())
}

/// Connects to the socket at `path`. `None` if that is refused, which means that nobody listens, or there is no file.
fn probe(path: &Path) -> io::Result<Option<StdStream>> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // A listener whose queue is full would make this call wait.
    socket.set_nonblocking(true)?;
    match socket.connect(&socket2::SockAddr::unix(path)?) {
        Ok(()) => Ok(Some(socket.into())),
        Err(error) if is_deserted(&error) => Ok(None),
        Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Whether the other end of a connection ends it soon.
fn hangs_up(mut connection: &StdStream) -> io::Result<bool> {
    connection.set_nonblocking(false)?;
    connection.set_read_timeout(Some(END_OF_A_PROCESS))?;
    Ok(match connection.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdListener;
    use std::sync::Barrier;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let folder = std::env::temp_dir().join(format!("yue-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a folder");
            Place(folder)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn kind_of(outcome: io::Result<(UnixListener, SocketFile)>) -> io::ErrorKind {
        outcome.map(|_| ()).expect_err("it is refused").kind()
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced() {
        let place = Place::new("deserted");
        drop(StdListener::bind(place.socket()).expect("a socket"));
        assert!(place.socket().exists(), "it stays");
        let (_listener, file) = SocketFile::bind(&place.socket()).expect("it is replaced");
        StdStream::connect(place.socket()).expect("somebody listens");
        file.remove();
        assert!(!place.socket().exists());
    }

    #[test]
    fn a_socket_that_somebody_listens_at_is_left_alone() {
        let place = Place::new("live");
        let foreign = StdListener::bind(place.socket()).expect("a socket");
        assert_eq!(
            kind_of(SocketFile::bind(&place.socket())),
            io::ErrorKind::AddrInUse
        );
        drop(foreign);
        let (_listener, _file) = SocketFile::bind(&place.socket()).expect("it is replaced");
        assert_eq!(
            kind_of(SocketFile::bind(&place.socket())),
            io::ErrorKind::AddrInUse
        );
    }

    #[test]
    fn a_socket_whose_process_is_being_ended_is_replaced() {
        let place = Place::new("ending");
        let ending = StdListener::bind(place.socket()).expect("a socket");
        let end = std::thread::spawn(move || {
            sleep(Duration::from_millis(10));
            drop(ending);
        });
        let (_listener, file) = SocketFile::bind(&place.socket()).expect("it is replaced");
        end.join().expect("it ends");
        StdStream::connect(place.socket()).expect("somebody listens");
        file.remove();
    }

    #[test]
    fn another_file_is_never_replaced() {
        let place = Place::new("files");
        fs::write(place.socket(), "precious").expect("a file");
        assert_eq!(
            kind_of(SocketFile::bind(&place.socket())),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(place.socket()).expect("it is there"), b"precious");
        fs::remove_file(place.socket()).expect("removed");
        // A symbolic link is not replaced either, whatever it points to.
        let target = place.0.join("target");
        drop(StdListener::bind(&target).expect("a socket"));
        std::os::unix::fs::symlink(&target, place.socket()).expect("a link");
        assert_eq!(
            kind_of(SocketFile::bind(&place.socket())),
            io::ErrorKind::AlreadyExists
        );
        assert!(target.exists());
    }

    #[test]
    fn a_file_that_replaced_the_socket_is_not_removed() {
        let place = Place::new("taken");
        let (_listener, file) = SocketFile::bind(&place.socket()).expect("a socket");
        fs::rename(place.socket(), place.0.join("moved")).expect("moved");
        fs::write(place.socket(), "precious").expect("a file");
        file.remove();
        assert_eq!(fs::read(place.socket()).expect("it is there"), b"precious");
        fs::remove_file(place.socket()).expect("removed");
        file.remove();
    }

    #[test]
    fn of_several_processes_that_replace_one_socket_one_wins() {
        const RACERS: usize = 16;
        let place = Place::new("race");
        for _ in 0..40 {
            drop(StdListener::bind(place.socket()).expect("a socket"));
            let start = Barrier::new(RACERS);
            let race = || {
                start.wait();
                SocketFile::bind(&place.socket()).ok()
            };
            let winners: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
                racers
                    .into_iter()
                    .filter_map(|racer| racer.join().expect("no panic"))
                    .collect()
            });
            assert_eq!(winners.len(), 1);
            StdStream::connect(place.socket()).expect("the winner listens");
            winners.iter().for_each(|(_, file)| file.remove());
        }
    }
}

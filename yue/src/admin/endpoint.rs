//! The endpoint's socket, and the thread that serves it.
//!
//! The thread waits in `poll` and has no loop until somebody connects: an endpoint that nobody uses costs a thread's
//! first pages, and nothing per second. Nobody waits for the thread: the end of the program removes the file and
//! leaves the thread to the end of the process.

use super::evaluate::Evaluator;
use super::{folder, service};
use crate::runtime::LoopSettings;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};
use yue_io::Choice;
use yue_rpc::{Address, Listener, SharedSocket};
use yue_scheduler::{LogLevel, LoopHandle, lock, log, spawn_with_signals_blocked, this_loop};

/// A description of the program, and the place of the endpoint.
///
/// ```
/// let options = yue::admin::Options { name: Some("chat".to_owned()), ..Default::default() };
/// # drop(options);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The program's name: a script's, for example. By default the executable's.
    pub name: Option<String>,
    /// The program's arguments.
    pub args: Vec<String>,
    /// The folder of the socket, in place of the user's. It is made if it does not exist.
    /// [`processes`](super::processes) does not look there.
    pub folder: Option<PathBuf>,
    /// Serves the page of the program at this address, and prints the page's address with its key to standard error.
    /// Port 0 is a free one. Only with the feature `http`, which has `page_address` to read an address from text.
    pub page: Option<SocketAddr>,
    /// Runs code that tools send. By default none is run. Whoever may connect may then do all that the process may: see
    /// [the module](super) for who that is. That of a Lua program is `yue::lua::evaluator()`.
    pub evaluator: Option<Arc<dyn Evaluator>>,
}

/// An open endpoint. Dropping it removes the socket's file and ends the service.
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    socket: SharedSocket,
    path: PathBuf,
    /// The process that opened it. A child that this one forks has a copy of the endpoint, but not its thread.
    process: u32,
    stage: Mutex<Stage>,
}

enum Stage {
    /// The thread waits for the first connection.
    Waiting,
    Serving(LoopHandle),
    Ended,
}

/// Opens the admin endpoint of this process: see [the module](crate::admin). It serves until the result is dropped.
///
/// ```
/// # let place = yue::fs::TempDir::new()?;
/// # let options = yue::admin::Options { folder: Some(place.path().join("yue")), ..Default::default() };
/// # /*
/// let options = yue::admin::Options::default();
/// # */
/// let endpoint = yue::admin::listen(options)?;
/// let address = endpoint.address();
/// let loops = yue::Runtime::new()?.run(move || {
///     let admin = yue::rpc::typed::Client::open(&address).unwrap();
///     let info = admin.call::<_, serde_json::Value>("info", ()).unwrap();
///     info["loops"].as_u64()
/// });
/// assert_eq!(loops, Some(1));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// If the folder is not safe (the message says what to do), if the socket cannot be bound, because the process has an
/// endpoint already for example, or if the system refuses the thread.
pub fn listen(options: Options) -> io::Result<Endpoint> {
    if options.page.is_some() && cfg!(not(feature = "http")) {
        let text = "there is no page: yue was built without the feature `http`";
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let folder = options.folder.clone();
    let folder = folder.unwrap_or_else(folder::of_this_user);
    folder::prepare(&folder)?;
    let process = std::process::id();
    let path = folder.join(format!("{process}.sock"));
    let address = address_of(&path)?;
    let socket = SharedSocket::bind_private(&address).map_err(plain)?;
    let shared = Arc::new(Shared {
        socket,
        path,
        process,
        stage: Mutex::new(Stage::Waiting),
    });
    remove_at_exit(&shared);
    let served = shared.clone();
    let endpoint = Endpoint { shared };
    // Signals are the program's; and a child that is started by this thread would inherit its mask, so none is.
    spawn_with_signals_blocked("yue admin", move || served.run(&options))?;
    Ok(endpoint)
}

/// An error that may leave its thread.
fn plain(error: yue_rpc::Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn address_of(path: &Path) -> io::Result<Address> {
    let unusable = || {
        let text = format!("the path {} is not valid text", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    let path = path.to_str().ok_or_else(unusable)?.to_owned();
    Ok(Address::Unix { path })
}

impl Endpoint {
    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The address of the socket, for [`Client::open`](crate::rpc::typed::Client::open) or `yue.open`.
    pub fn address(&self) -> String {
        self.shared.socket.address().to_string()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.shared.path).finish()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let shared = &self.shared;
        if shared.process != std::process::id() {
            return;
        }
        shared.socket.remove_file();
        lock(&OPEN).retain(|other| !Arc::ptr_eq(other, shared));
        match std::mem::replace(&mut *lock(&shared.stage), Stage::Ended) {
            // Ends the thread's wait. (A loop that accepts would try again and again.)
            Stage::Waiting => shared.stop_listening(),
            Stage::Serving(handle) => handle.shutdown(),
            Stage::Ended => {}
        }
    }
}

impl Shared {
    /// The body of the thread.
    fn run(&self, options: &Options) {
        if options.page.is_none() {
            self.wait_for_connection();
        }
        if matches!(*lock(&self.stage), Stage::Ended) {
            return;
        }
        if let Err(error) = self.serve(options) {
            log(
                LogLevel::Warn,
                format_args!("the admin endpoint cannot serve: {error}"),
            );
            self.socket.remove_file();
            self.stop_listening();
        }
    }

    fn wait_for_connection(&self) {
        let mut entry = libc::pollfd {
            fd: self.socket.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live, writable entry. Interrupted calls are repeated.
        while unsafe { libc::poll(&mut entry, 1, -1) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }

    fn stop_listening(&self) {
        // SAFETY: no memory is passed.
        unsafe { libc::shutdown(self.socket.as_fd().as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Serves, on a loop of its own, until the endpoint is dropped.
    fn serve(&self, options: &Options) -> io::Result<()> {
        // The other driver would take a ring, and memory of the kernel, for a few calls a minute.
        let own = LoopSettings::of_driver(Choice::Mio).new_loop(None)?;
        match &mut *lock(&self.stage) {
            Stage::Ended => return Ok(()),
            stage => *stage = Stage::Serving(own.handle()),
        }
        let (socket, options) = (self.socket.clone(), options.clone());
        own.run(move || {
            let (service, limits) = (service::new(&options), service::limits());
            let listener = Listener::bind_shared(&socket, service, limits);
            let listener = listener.map_err(plain)?;
            #[cfg(feature = "http")]
            let page = options.page.and_then(|at| {
                let page =
                    super::page::listen(at, &socket.address().to_string(), service::limits());
                let failed = |error: &io::Error| {
                    log(LogLevel::Error, format_args!("there is no page: {error}"));
                };
                page.inspect_err(failed).ok()
            });
            // Also when it is cancelled.
            let _ = this_loop::wait_for_shutdown();
            listener.close();
            #[cfg(feature = "http")]
            if let Some(page) = page {
                page.close();
            }
            Ok(())
        })
    }
}

/// The open endpoints of this process, whose files the end of the process removes.
static OPEN: Mutex<Vec<Arc<Shared>>> = Mutex::new(Vec::new());

/// Removes the endpoint's file at the end of the process, even if it ends by C's `exit`.
fn remove_at_exit(shared: &Arc<Shared>) {
    extern "C" fn at_exit() {
        remove_files();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function does not unwind, and stays for as long as the process. Without room for it, the file of
        // a process that ends so stays until somebody lists the processes.
        let _ = unsafe { libc::atexit(at_exit) };
    });
    lock(&OPEN).push(shared.clone());
}

/// Removes the files of all endpoints of this process, which is about to end. It waits for nobody.
pub(crate) fn remove_files() {
    let Ok(open) = OPEN.try_lock() else {
        return;
    };
    let process = std::process::id();
    let own = open.iter().filter(|shared| shared.process == process);
    own.for_each(|shared| shared.socket.remove_file());
}

//! The node's end of the link to its owner.

use super::guard::{self, Guard};
use super::lease::{RENEWALS, clock, node_until};
use super::life::spawn_own;
use super::owner::RENEW;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::pipe::{PipeReader, PipeWriter};
use yue_rpc::Timeout;
use yue_rpc::session::Session;
use yue_rpc::transport::{Events, Incoming, Transport, start_pipes, start_unix};
use yue_scheduler::{LoopHandle, lock, sleep};

/// A node that gets no work within this time ends: nobody wants it.
const BOOT_TIME: Duration = Duration::from_secs(300);

/// A node's descriptors, and its guard. A process has one.
#[derive(Clone)]
pub struct NodeEnd(Arc<Inner>);

struct Inner {
    guard: Guard,
    is_leased: bool,
    /// Whether the owner has given work: until then nothing but the end of the link tells that it is gone.
    has_begun: AtomicBool,
    streams: Mutex<Option<Streams>>,
}

enum Streams {
    Socket(UnixStream),
    Pipes { input: File, output: File },
}

impl NodeEnd {
    /// Makes this process a node: takes its standard input and output, which lead to its owner, and starts its guard.
    /// From then on standard input is empty, and standard output is standard error. To be called before the process
    /// has other threads.
    ///
    /// `lifeline` is the number of the descriptor that ends when the process that started this one does. Without one,
    /// or if `is_leased`, the node lives as long as its lease.
    ///
    /// # Errors
    /// The system's.
    pub fn take(lifeline: Option<RawFd>, is_leased: bool) -> io::Result<NodeEnd> {
        let lifeline = lifeline.map(take_inherited).transpose()?;
        // SAFETY: no memory is passed. The second call fails if the process leads a group already, which is as good.
        unsafe {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            libc::setsid();
        }
        let streams = take_standard_streams()?;
        replace(File::open("/dev/null")?.as_raw_fd(), 0)?;
        replace(2, 1)?;
        let is_leased = is_leased || lifeline.is_none();
        let until = is_leased.then(|| clock() + BOOT_TIME);
        Ok(NodeEnd(Arc::new(Inner {
            guard: Guard::start(lifeline, until)?,
            is_leased,
            has_begun: AtomicBool::new(false),
            streams: Mutex::new(Some(streams)),
        })))
    }

    /// Starts the link to the owner. It can be started once.
    pub(crate) fn start_link(&self, events: Rc<dyn Events>) -> io::Result<Rc<dyn Transport>> {
        let streams = lock(&self.0.streams).take();
        let events = Rc::new(NodeEvents {
            session: events,
            end: self.clone(),
        });
        match streams.ok_or_else(|| io::Error::other("the link to the owner exists already"))? {
            Streams::Socket(socket) => start_unix(socket.into(), events),
            Streams::Pipes { input, output } => start_pipes(
                PipeReader::from(OwnedFd::from(input)),
                PipeWriter::from(OwnedFd::from(output)),
                events,
            ),
        }
    }

    /// The node has got its work, for which it asked at `asked_at`, by the lease's clock: begins the lease, which a
    /// fiber of the calling loop renews.
    pub(crate) fn begin_lease(
        &self,
        session: &Session,
        asked_at: Duration,
        lease: Duration,
        grace: Duration,
        program: LoopHandle,
    ) -> io::Result<()> {
        self.0.has_begun.store(true, Ordering::Relaxed);
        let guard = self.0.guard.clone();
        guard.on_end(move || program.shutdown());
        guard.set_grace(grace);
        if !self.0.is_leased {
            return Ok(());
        }
        guard.live_until(node_until(asked_at, lease));
        let session = session.clone();
        spawn_own("node lease", move || {
            let every = lease / RENEWALS;
            while !session.has_ended() && sleep(every).is_ok() {
                let asked_at = clock();
                let answer = session.call(RENEW, Timeout::After(lease), |_| Ok(0));
                if answer.is_ok() {
                    guard.live_until(node_until(asked_at, lease));
                }
            }
        })?;
        Ok(())
    }

    /// The owner is gone, or may be: the process ends after the grace.
    pub(crate) fn end(&self) {
        self.0.guard.end();
    }

    /// Ends what the node's program has left running. To be called at the program's end.
    pub fn finish(&self) {
        guard::kill_descendants();
    }
}

impl fmt::Debug for NodeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEnd")
            .field("is_leased", &self.0.is_leased)
            .finish_non_exhaustive()
    }
}

/// The events of the link to the owner, on their way to the session. A link that ends before there is work ends the
/// process.
struct NodeEvents {
    session: Rc<dyn Events>,
    end: NodeEnd,
}

impl Events for NodeEvents {
    fn ready(&self) {
        self.session.ready();
    }

    fn data(&self, incoming: Incoming<'_>) {
        self.session.data(incoming);
    }

    fn data_from(&self, sender: SocketAddr, incoming: Incoming<'_>) {
        self.session.data_from(sender, incoming);
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        self.session.sent(buffer);
    }

    fn end_of_input(&self) -> bool {
        self.session.end_of_input()
    }

    fn closed(&self, result: io::Result<()>) {
        if !self.end.0.has_begun.load(Ordering::Relaxed) {
            self.end.end();
        }
        self.session.closed(result);
    }
}

/// Takes over a descriptor that the process was started with.
fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        let text = format!("{number} is not a descriptor that this process was started with");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: it is open, and the process has just begun, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Copies of standard input and output, which lead to the owner.
fn take_standard_streams() -> io::Result<Streams> {
    let input = File::from(copy_above_standard(0)?);
    let output = File::from(copy_above_standard(1)?);
    let (of_input, of_output) = (input.metadata()?, output.metadata()?);
    let kind = |facts: &std::fs::Metadata| facts.mode() & libc::S_IFMT;
    let is_socket = kind(&of_input) == libc::S_IFSOCK;
    if is_socket && (of_input.dev(), of_input.ino()) == (of_output.dev(), of_output.ino()) {
        return Ok(Streams::Socket(OwnedFd::from(input).into()));
    }
    if kind(&of_input) != libc::S_IFIFO || kind(&of_output) != libc::S_IFIFO {
        let text = "its standard input and output do not lead to an owner; yue.nalloc starts nodes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(Streams::Pipes { input, output })
}

/// A copy of a descriptor, with a number above the standard streams.
fn copy_above_standard(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    match unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a new descriptor that nobody else owns.
        copy => Ok(unsafe { OwnedFd::from_raw_fd(copy) }),
    }
}

fn replace(by: RawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    match unsafe { libc::dup2(by, number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

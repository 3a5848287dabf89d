//! The agent: accepts connections, checks who asks, and runs nodes for those who may.
//!
//! Each connection has a fiber:
//!
//! ```text
//!   stranger: hello, handshake, first message      bounded in number and time (admission.rs)
//!   owner: share of the machine (quota.rs) ─▶ program (binaries.rs) ─▶ node (relay.rs)
//! ```

use super::admission::Admission;
use super::binaries::Binaries;
use super::quota::{Quota, Share, Ticket};
use super::relay;
use super::stream::Stream;
use super::user::User;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue::nalloc::agent::{
    Answer, AuthorizedOwners, Channel, HANDSHAKE_TIME, Hello, Request, SecretKey, accept,
    answer_key, read_hello,
};
use yue::net::TcpListener;
use yue::rpc::SharedSocket;
use yue::sync::local::Notify;
use yue::{Builder, FiberId, LogLevel, cancel, select, sleep, timeout};
use yue_scheduler::log;

/// The time for an owner's program on its way here.
const UPLOAD_TIME: Duration = Duration::from_secs(600);

/// The time for an answer to leave.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// The pause after a connection could not be accepted, because the process is out of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running agent. It belongs to one loop.
pub(super) struct Agent {
    pub(super) secret: SecretKey,
    /// The folder of `authorized_owners`.
    pub(super) folder: PathBuf,
    pub(super) quota: Rc<Quota>,
    pub(super) binaries: Binaries,
    pub(super) user: Option<User>,
    pub(super) admission: Rc<Admission>,
    /// The connections by number, and their fibers.
    connections: RefCell<BTreeMap<u64, FiberId>>,
    last: Cell<u64>,
    nodes: Cell<u64>,
    is_stopping: Cell<bool>,
    changed: Notify,
}

/// Somebody who may have nodes.
struct Owner {
    channel: Channel<Stream>,
    request: Request,
    /// For the log.
    name: String,
}

impl Agent {
    pub(super) fn new(
        secret: SecretKey,
        folder: PathBuf,
        total: Share,
        binaries: Binaries,
        user: Option<User>,
    ) -> Rc<Agent> {
        Rc::new(Agent {
            secret,
            folder,
            quota: Quota::new(total),
            binaries,
            user,
            admission: Rc::default(),
            connections: RefCell::default(),
            last: Cell::new(0),
            nodes: Cell::new(0),
            is_stopping: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Serves the connections to a port, in a fiber.
    ///
    /// # Errors
    /// If there is no memory for the fiber.
    pub(super) fn serve_network(self: &Rc<Self>, listener: TcpListener) -> io::Result<()> {
        let this = self.clone();
        self.accept_all(move || {
            let (stream, peer) = listener.accept()?;
            this.begin(Stream::Tcp(Rc::new(stream)), peer.to_string());
            Ok(())
        })
    }

    /// Serves the connections to a Unix socket, in a fiber.
    ///
    /// # Errors
    /// See [`Agent::serve_network`]; the system's.
    pub(super) fn serve_socket(self: &Rc<Self>, socket: SharedSocket) -> io::Result<()> {
        let this = self.clone();
        let listener = socket.listener()?;
        self.accept_all(move || {
            let (stream, _) = listener.accept()?;
            let facts = stream.peer_credentials()?;
            let peer = format!("process {}", facts.process);
            if socket.admits(&stream) {
                this.begin(Stream::Unix(Rc::new(stream)), peer);
            } else {
                let text = format!("it runs as the user {}", facts.user);
                this.admission.note_failure(&peer, &text);
            }
            Ok(())
        })
    }

    fn accept_all(
        &self,
        mut accept_one: impl FnMut() -> io::Result<()> + 'static,
    ) -> io::Result<()> {
        let fiber = Builder::new().name("agent accept").spawn(move || {
            loop {
                if let Err(error) = accept_one() {
                    if yue::is_cancelled() {
                        return;
                    }
                    let text = format_args!("cannot accept a connection: {error}");
                    log(LogLevel::Warn, text);
                    if sleep(ACCEPT_PAUSE).is_err() {
                        return;
                    }
                }
            }
        })?;
        drop(fiber);
        Ok(())
    }

    fn begin(self: &Rc<Self>, stream: Stream, peer: String) {
        if self.is_stopping.get() {
            return;
        }
        let number = self.last.get() + 1;
        self.last.set(number);
        let this = self.clone();
        let spawned = Builder::new().name("agent owner").spawn(move || {
            this.serve(stream, &peer);
            this.connections.borrow_mut().remove(&number);
            this.changed.notify_one();
        });
        match spawned {
            Ok(fiber) => drop(self.connections.borrow_mut().insert(number, fiber.id())),
            Err(error) => log(
                LogLevel::Warn,
                format_args!("cannot serve a connection: {error}"),
            ),
        }
    }

    /// Ends all nodes, and waits for that.
    pub(super) fn stop(&self, limit: Duration) {
        self.is_stopping.set(true);
        for fiber in self.connections.borrow().values() {
            cancel(*fiber);
        }
        // A node that is left when the time has passed loses its lifeline.
        let _ = timeout(limit, || {
            while !self.connections.borrow().is_empty() && self.changed.notified().is_ok() {}
        });
    }

    /// The fiber of a connection.
    fn serve(&self, stream: Stream, peer: &str) {
        stream.watch();
        let (introduced, was_evicted) = self
            .admission
            .admit(|| timeout(HANDSHAKE_TIME, || self.introduce(&stream, peer)));
        match introduced {
            Ok(Ok(Some(owner))) => self.serve_owner(owner, peer),
            Ok(Ok(None)) => {}
            Ok(Err(_)) if self.is_stopping.get() => {}
            Ok(Err(_)) if was_evicted => {
                let text = "too many others are about to show a key";
                self.admission.note_failure(peer, text);
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.admission.note_failure(peer, "it hung up");
            }
            Ok(Err(error)) => self.admission.note_failure(peer, &error.to_string()),
            Err(_) => {
                let seconds = HANDSHAKE_TIME.as_secs();
                let text = format!("it did not show a key within {seconds} s");
                self.admission.note_failure(peer, &text);
            }
        }
    }

    /// Finds out who connects; `None` if nothing is left to do.
    fn introduce(&self, stream: &Stream, peer: &str) -> io::Result<Option<Owner>> {
        let refuse = |text: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        match (read_hello(stream.clone())?, stream) {
            (Hello::Key, _) => {
                answer_key(stream.clone(), &self.secret.public())?;
                Ok(None)
            }
            (Hello::Plain, Stream::Tcp(_)) => refuse("by the network an owner shows a key"),
            (Hello::Plain, Stream::Unix(_)) => {
                let mut channel = Channel::plain(stream.clone());
                let request = channel.receive_request()?;
                let name = peer.to_owned();
                Ok(Some(Owner {
                    channel,
                    request,
                    name,
                }))
            }
            (Hello::Noise, _) => {
                let (mut channel, key) = accept(stream.clone(), &self.secret)?;
                // Proves that the key is the peer's: a replay gets no further.
                let request = channel.receive_request()?;
                let owners = AuthorizedOwners::read(&self.folder).map_err(io::Error::other)?;
                let Some(name) = owners.name_of(&key) else {
                    let text = format!(
                        "it does not serve the owner with the key {key}; its authorized_owners lacks it"
                    );
                    let _ = channel.send_answer(&Answer::Refused(text));
                    return refuse(&format!("the key {key} is not in authorized_owners"));
                };
                let name = match name {
                    "" => format!("{key} at {peer}"),
                    name => format!("{name} at {peer}"),
                };
                Ok(Some(Owner {
                    channel,
                    request,
                    name,
                }))
            }
        }
    }

    fn serve_owner(&self, mut owner: Owner, peer: &str) {
        let outcome = self.prepare(&mut owner);
        let (ticket, binary) = match outcome {
            Ok(prepared) => prepared,
            Err(Refusal::Gone) => return,
            Err(Refusal::Answer(answer)) => {
                if let Answer::Refused(reason) = &answer {
                    self.admission.note_failure(peer, reason);
                }
                // It may not be read.
                let _ = timeout(ANSWER_TIME, || owner.channel.send_answer(&answer));
                return;
            }
        };
        let started = relay::start(&owner.request, &binary, self.user.as_ref());
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                let text = format!("it cannot start {}: {error}", binary.display());
                log(
                    LogLevel::Warn,
                    format_args!("no node for {}: {text}", owner.name),
                );
                let _ = timeout(ANSWER_TIME, || {
                    owner.channel.send_answer(&Answer::Refused(text))
                });
                return;
            }
        };
        self.run_node(owner, started, ticket);
    }

    /// Gets a share of the machine, and the program.
    fn prepare(&self, owner: &mut Owner) -> Result<(Ticket, PathBuf), Refusal> {
        let ticket = self.share(owner)?;
        let (hash, size) = (owner.request.binary.clone(), owner.request.binary_size);
        if let Some(path) = self.binaries.find(&hash) {
            return Ok((ticket, path));
        }
        let refused = |text: String| Refusal::Answer(Answer::Refused(text));
        Binaries::check(&hash, size).map_err(refused)?;
        let channel = &mut owner.channel;
        channel
            .send_answer(&Answer::SendBinary)
            .map_err(|_| Refusal::Gone)?;
        let received = timeout(UPLOAD_TIME, || self.binaries.receive(channel, &hash, size));
        match received {
            Ok(Ok(path)) => {
                log(
                    LogLevel::Info,
                    format_args!("got the program {} of {}", &hash[..12], owner.name),
                );
                Ok((ticket, path))
            }
            Ok(Err(error)) => Err(refused(format!(
                "it did not get the owner's program: {error}"
            ))),
            Err(_) => Err(refused("the owner's program took too long".to_owned())),
        }
    }

    /// Gets a share of the machine, if need be from the queue.
    fn share(&self, owner: &Owner) -> Result<Ticket, Refusal> {
        let request = &owner.request;
        let share = Share::of(request);
        if let Some(ticket) = self.quota.take(share) {
            return Ok(ticket);
        }
        let busy = || Refusal::Answer(Answer::Busy(self.quota.free()));
        if request.wait().is_zero() {
            return Err(busy());
        }
        let queued = self.quota.queue(share).ok_or_else(busy)?;
        let outcome = select! {
            _ = notified(queued.granted()) => queued.ticket().ok_or_else(busy),
            // An owner that waits says nothing: it has gone.
            _ = readable(owner.channel.stream()) => Err(Refusal::Gone),
            _ = after(request.wait()) => Err(busy()),
        };
        outcome.unwrap_or(Err(Refusal::Gone))
    }

    fn run_node(&self, mut owner: Owner, started: relay::Started, ticket: Ticket) {
        let number = self.nodes.get() + 1;
        self.nodes.set(number);
        let pid = started.pid();
        let told = timeout(ANSWER_TIME, || {
            owner.channel.send_answer(&Answer::Started { pid })
        });
        if !matches!(told, Ok(Ok(()))) {
            return;
        }
        let Owner {
            channel,
            request,
            name,
        } = owner;
        let library = request.library.escape_debug().to_string();
        log(
            LogLevel::Info,
            format_args!("node {number} for {name} runs {library} as process {pid}"),
        );
        let began = Instant::now();
        let carried = relay::carry(channel, started, &request, || drop(ticket));
        let seconds = began.elapsed().as_secs_f64();
        let how = carried.unwrap_or_else(|error| format!("was killed: {error}"));
        log(
            LogLevel::Info,
            format_args!("node {number} ({library}) {how}, after {seconds:.1} s"),
        );
    }
}

/// The reason why there is no node.
enum Refusal {
    /// The owner hears it.
    Answer(Answer),
    /// The owner has gone.
    Gone,
}

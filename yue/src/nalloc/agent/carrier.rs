//! The owner's carrier for agents: it connects, shows its key, asks for a node, and sends its program if the agent
//! lacks it.

use super::address::AgentAddress;
use super::channel::{Channel, HANDSHAKE_TIME, query_key};
use super::codec::Kind;
use super::filter::{Filter, Stream};
use super::keys::{KNOWN_AGENTS, KnownAgents, PublicKey, config_folder, owner_key};
use super::message::{Answer, Request, VERSION};
use super::own_binary::own_binary;
use crate::nalloc::allocation::Allocation;
use crate::nalloc::connector::Carrier;
use crate::nalloc::life::Life;
use std::io::{self, Read};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::{TcpStream, UnixStream};
use yue_rpc::transport::{Events, Transport};
use yue_rpc::{Error, ErrorKind};
use yue_scheduler::timeout;

/// The agent is expected to answer a request, beyond the time that the request waits, within this time: it starts a
/// process.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// The bytes of the program that are read at a time.
const PIECE: usize = 1 << 18;

/// An agent, as a target names it.
pub(crate) enum Agent {
    /// By the network.
    At(AgentAddress),
    /// By a Unix socket of this machine, without keys.
    Socket(PathBuf),
}

/// Starts nodes by an agent.
pub(crate) struct AgentCarrier {
    pub(crate) agent: Agent,
    /// The key that the target itself names; without one it is looked up.
    pub(crate) key: Option<PublicKey>,
    /// The request, apart from what is the same for all.
    pub(crate) request: Request,
}

fn failed(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Allocation, text)
}

impl AgentCarrier {
    /// The agent, for messages.
    fn name(&self) -> String {
        match &self.agent {
            Agent::At(address) => format!("the agent at {address}"),
            Agent::Socket(path) => format!("the agent at {}", path.display()),
        }
    }

    fn within<T>(
        &self,
        limit: Duration,
        what: &str,
        f: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, Error> {
        match timeout(limit, f) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(format!("cannot {what} {}: {error}", self.name()))),
            Err(_) => {
                let seconds = limit.as_secs();
                Err(failed(format!(
                    "cannot {what} {}: it took longer than {seconds} s",
                    self.name()
                )))
            }
        }
    }

    fn connect(&self) -> Result<Channel<Stream>, Error> {
        match &self.agent {
            Agent::At(address) => self.connect_by_network(address),
            Agent::Socket(path) => self.within(HANDSHAKE_TIME, "connect to", || {
                let stream = UnixStream::connect(path)?;
                check_user(stream.peer_credentials()?.user)?;
                Channel::open_plain(Stream::Unix(stream))
            }),
        }
    }

    fn connect_by_network(&self, address: &AgentAddress) -> Result<Channel<Stream>, Error> {
        let secret = owner_key().map_err(failed)?;
        let Some(key) = self.pinned(address)? else {
            return Err(self.unknown(address));
        };
        let stream = self.within(HANDSHAKE_TIME, "connect to", || connect(address))?;
        let opened = timeout(HANDSHAKE_TIME, || {
            Channel::open(Stream::Tcp(stream), &secret, &key)
        });
        match opened {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.refused_handshake(address, &key, &error)),
            Err(_) => Err(failed(format!(
                "{} did not answer within {} s",
                self.name(),
                HANDSHAKE_TIME.as_secs()
            ))),
        }
    }

    /// The key that the agent must have; `None` if it is not known.
    fn pinned(&self, address: &AgentAddress) -> Result<Option<PublicKey>, Error> {
        if self.key.is_some() {
            return Ok(self.key);
        }
        let folder = config_folder().map_err(failed)?;
        let known = KnownAgents::read(&folder).map_err(failed)?;
        Ok(known.key_of(address))
    }

    /// The error of an agent that nobody has pinned, with the line to add.
    fn unknown(&self, address: &AgentAddress) -> Error {
        let shown = match fetch_key(address) {
            Ok(key) => key,
            Err(error) => return failed(format!("cannot connect to {}: {error}", self.name())),
        };
        failed(format!(
            "{} is not known. It says that its key is {shown}. If `yue agent --key` prints the same there, run \
             `yue key trust {address} {shown}`, or add this line to {KNOWN_AGENTS}:\n{address} {shown}",
            self.name()
        ))
    }

    fn refused_handshake(
        &self,
        address: &AgentAddress,
        key: &PublicKey,
        error: &io::Error,
    ) -> Error {
        match fetch_key(address) {
            Ok(shown) if shown != *key => failed(format!(
                "{} is not the one that is trusted: its key is {shown}, and {key} was expected. Another machine may \
                 have taken its place. If `yue agent --key` prints the new key there, run \
                 `yue key trust --replace {address} {shown}`",
                self.name()
            )),
            _ => failed(format!(
                "the handshake with {} failed: {error}",
                self.name()
            )),
        }
    }

    /// Asks for a node.
    fn ask(&self, channel: &mut Channel<Stream>) -> Result<(), Error> {
        let binary = own_binary()
            .map_err(|error| failed(format!("cannot read the file of this program: {error}")))?;
        let request = Request {
            version: VERSION,
            binary: binary.hash,
            binary_size: binary.size,
            ..self.request.clone()
        };
        let limit = request.wait() + ANSWER_TIME;
        let mut answer = self.within(limit, "ask", || {
            channel.send_request(&request)?;
            channel.receive_answer()
        })?;
        if answer == Answer::SendBinary {
            // Its time is the allocation's: a slow network may need long for it.
            answer = send_binary(channel, binary.size)
                .and_then(|()| channel.receive_answer())
                .map_err(|error| {
                    failed(format!(
                        "cannot send this program to {}: {error}",
                        self.name()
                    ))
                })?;
        }
        match answer {
            Answer::Started { .. } => Ok(()),
            Answer::Busy(free) => {
                let who = match &self.agent {
                    Agent::At(address) => address.host.clone(),
                    Agent::Socket(_) => self.name(),
                };
                let text = format!("{who} {}", free.describe(&request));
                Err(Error::retryable(ErrorKind::ServerBusy, text))
            }
            Answer::Refused(text) => Err(failed(format!("{} refused: {text}", self.name()))),
            Answer::SendBinary | Answer::Ended(_) => Err(failed(format!(
                "{} does not keep to the protocol",
                self.name()
            ))),
        }
    }
}

impl Carrier for AgentCarrier {
    fn start(
        &self,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Error> {
        let mut channel = self.connect()?;
        self.ask(&mut channel)?;
        let printed = allocation.clone();
        let output = move |bytes: &[u8]| printed.lines.push(bytes);
        Life::of_link(allocation, events, false, |events| {
            Filter::start(channel, allocation.to_string(), output, events)
                .map_err(|error| failed(format!("cannot use the link to {}: {error}", self.name())))
        })
    }
}

/// The agent of a socket must be this user's, or root's: others would get the program's code.
fn check_user(user: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let own = unsafe { libc::geteuid() };
    if user == own || user == 0 {
        return Ok(());
    }
    let text = format!("it runs as the user {user}, not as this program's user {own} or root");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn connect(address: &AgentAddress) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((address.host.as_str(), address.port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The public key that an agent says it has. Nothing proves it.
///
/// # Errors
/// The reason why there is no answer.
pub fn fetch_key(address: &AgentAddress) -> Result<PublicKey, String> {
    let fetched = timeout(HANDSHAKE_TIME, || query_key(connect(address)?));
    match fetched {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err("what answers there is not an agent".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HANDSHAKE_TIME.as_secs())),
    }
}

fn send_binary(channel: &mut Channel<Stream>, size: u64) -> io::Result<()> {
    let mut file = yue_io::fs::File::open("/proc/self/exe")?;
    let (mut piece, mut left) = (vec![0; PIECE], size);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let count = file.read(&mut piece[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        channel.send(Kind::Binary, &piece[..count])?;
        left -= count as u64;
    }
    Ok(())
}

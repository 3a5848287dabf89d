//! `yue agent`: runs nodes for owners on other machines, which call `yue.nalloc` with this machine's address.
//!
//! ```text
//!   mod.rs       options, start and end          server.rs     connections and requests
//!   admission.rs strangers                       quota.rs      shares of the machine
//!   binaries.rs  programs of other versions      relay.rs      a node, and its link to the owner
//!   stream.rs    a connection                    user.rs       the user that nodes run as
//! ```
//!
//! The protocol is that of [`yue::nalloc::agent`].

mod admission;
mod binaries;
mod quota;
mod relay;
mod server;
mod stream;
mod user;

use crate::init;
use binaries::Binaries;
use quota::Share;
use server::Agent;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use user::User;
use yue::Choice;
use yue::nalloc::agent::{
    AUTHORIZED_OWNERS, AuthorizedOwners, DEFAULT_PORT, agent_key, config_folder,
};
use yue::net::TcpListener;
use yue::rpc::{Address, SharedSocket};
use yue::signal::{self, Signal};
use yue::sync::local::channel;
use yue_scheduler::log_outcome;

const EXAMPLES: &str = "\
Owners allocate nodes here by yue.nalloc('HOST', 'library.lua'). To let one in,
add the line that `yue key` prints there to ~/.config/yue/authorized_owners
here. An authorized owner can run any code as the user of the nodes.

Examples:
  yue agent                            serve owners at port 4510
  yue agent --cpu 4 --memory 8G        give them a part of this machine
  yue agent --user games               run nodes as another user (as root)
  yue agent --socket /run/yue-agent    serve this user's programs, without keys
  yue agent --key                      print the key that owners have to trust

SIGTERM ends the agent and its nodes.";

/// The nodes of an agent, unless it is told another number.
const NODES: u32 = 32;

/// The time for the nodes to end with the agent.
const STOP_TIME: Duration = Duration::from_secs(3);

/// Run nodes for programs on other machines (yue.nalloc).
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Serve owners at this address [default: 0.0.0.0:4510, or no network with --socket].
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    listen: Option<(String, u16)>,

    /// Serve the programs of this user at a Unix socket, without keys.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Cores that nodes may ask for [default: all].
    #[arg(long, value_name = "N", value_parser = parse_cores)]
    cpu: Option<f64>,

    /// Memory that nodes may ask for, such as 512M or 16G [default: all].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,

    /// Nodes that may run at a time.
    #[arg(long, value_name = "N", default_value_t = NODES, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,

    /// Run the nodes as this user. The agent must be root.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Print the public key of this agent, and do nothing else.
    #[arg(long, exclusive = true)]
    key: bool,

    /// I/O driver: uring, mio, or auto. YUE_IO does the same.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = crate::parse_driver)]
    io: Choice,
}

fn parse_listen(text: &str) -> Result<(String, u16), String> {
    let parse = |text: &str| format!("tcp://{text}").parse::<Address>();
    let address = parse(text).or_else(|_| parse(&format!("{text}:{DEFAULT_PORT}")));
    let address = address.ok();
    let parts = address.as_ref().and_then(Address::host_and_port);
    parts
        .map(|(host, port)| (host.to_owned(), port))
        .ok_or_else(|| format!("an address such as 0.0.0.0 or [::]:{DEFAULT_PORT} is needed"))
}

fn parse_cores(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(cores) if (0.01..=100_000.0).contains(&cores) => Ok(cores),
        _ => Err("a number of cores above 0 is needed".to_owned()),
    }
}

/// Parses bytes with a unit: `512M`, `16G`.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "a size such as 512M or 16G is needed".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    (1.0..1e18)
        .contains(&bytes)
        .then_some(bytes as u64)
        .ok_or_else(wrong)
}

/// Runs the agent until a signal ends it; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    yue::lua::read_log_level();
    init::split_if_orphans_arrive();
    let outcome = if arguments.key {
        print_key()
    } else {
        let runtime = yue::Runtime::builder().driver(arguments.io).build();
        runtime
            .map_err(|error| error.to_string())
            .and_then(|runtime| runtime.run(move || run(arguments)))
    };
    match outcome {
        Ok(()) => 0,
        Err(text) => {
            log_outcome(format_args!("{text}"));
            1
        }
    }
}

fn print_key() -> Result<(), String> {
    let key = agent_key()?.public();
    // A reader that has gone needs no key.
    let _ = writeln!(std::io::stdout(), "{key}");
    Ok(())
}

/// All that the machine has.
fn whole_machine(arguments: &Arguments) -> Share {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: plain queries.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    let memory = u64::try_from(pages)
        .unwrap_or(0)
        .saturating_mul(u64::try_from(page).unwrap_or(0));
    Share {
        cpu: arguments.cpu.unwrap_or(cores as f64),
        memory: arguments.memory.unwrap_or(memory),
        nodes: arguments.nodes,
    }
}

/// In a fiber.
fn run(arguments: Arguments) -> Result<(), String> {
    let (stop, stopped) = channel(1);
    let on_signal = move |_| {
        // One is enough.
        let _ = stop.try_send(());
    };
    let _signals = signal::subscribe(&[Signal::TERM, Signal::INT], on_signal)
        .map_err(|error| format!("cannot receive signals: {error}"))?;
    let user = arguments.user.as_deref().map(User::find).transpose()?;
    let binaries = Binaries::new(user.is_some())?;
    let folder = config_folder()?;
    let secret = agent_key()?;
    let key = secret.public();
    let total = whole_machine(&arguments);
    let agent = Agent::new(secret, folder, total, binaries, user);
    let places = listen(&agent, &arguments)?;
    // A reader that has gone needs no line.
    let _ = writeln!(std::io::stdout(), "agent at {places}, key {key}");
    // An error means that the program ends in another way.
    let _ = stopped.recv();
    agent.stop(STOP_TIME);
    Ok(())
}

/// Listens where the options say; returns the places.
fn listen(agent: &Rc<Agent>, arguments: &Arguments) -> Result<String, String> {
    let mut places = Vec::new();
    let network = match (&arguments.listen, &arguments.socket) {
        (Some(address), _) => Some(address.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(("0.0.0.0".to_owned(), DEFAULT_PORT)),
    };
    if let Some((host, port)) = network {
        if AuthorizedOwners::read(&agent.folder)?.is_empty() {
            return Err(format!(
                "no owner is authorized, so the agent does not listen on a network: add the line that `yue key` prints \
                 at the owner to {}, or give --socket for programs of this machine",
                agent.folder.join(AUTHORIZED_OWNERS).display()
            ));
        }
        let listener = TcpListener::bind((host.as_str(), port))
            .map_err(|error| format!("cannot listen at {host}, port {port}: {error}"))?;
        let at = listener.local_addr().map_err(|error| error.to_string())?;
        places.push(at.to_string());
        agent
            .serve_network(listener)
            .map_err(|error| error.to_string())?;
    }
    if let Some(path) = &arguments.socket {
        let address = Address::Unix {
            path: path.display().to_string(),
        };
        let socket = SharedSocket::bind_private(&address).map_err(|error| error.message())?;
        places.push(address.to_string());
        agent
            .serve_socket(socket)
            .map_err(|error| error.to_string())?;
    }
    Ok(places.join(" and "))
}

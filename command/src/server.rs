//! The server that a command line names, and the connection to it: for the subcommands that make calls.
//!
//! A word without a colon names a running program of this user; its admin endpoint is the server then.

use crate::running::{self, Program};
use crate::seconds;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use std::time::Duration;
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::{SocketOptions, TlsOptions, try_connector};
use yue_rpc::typed;
use yue_rpc::{Address, Error, Options};

/// The server, and how to reach it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Server {
    /// The server: tcp://host:port, tls://…, ws://host:port/path, wss://…, unix:///path or udp://host:port. Or a
    /// running program of yours, by process id or script name: its admin endpoint.
    #[arg(value_name = "ADDR")]
    pub(crate) address: String,

    /// Seconds that a call may take.
    #[arg(short, long, default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds::parse_above_0)]
    timeout: f64,

    /// Speak plain msgpack-rpc: send neither a hello nor deadlines.
    #[arg(long)]
    legacy: bool,

    /// tls://, wss://: the PEM file of the authority that signed the server's certificate [default: the system's
    /// authorities].
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    ca: Option<String>,

    /// tls://, wss://: accept every certificate.
    #[arg(long)]
    insecure: bool,

    /// A function that the server may call here, and its result in JSON: a login that `__accept` asks for, for example.
    /// May be given several times.
    #[arg(long = "answer", value_name = "NAME=JSON", value_parser = parse_answer)]
    answers: Vec<(String, Json)>,
}

fn parse_answer(text: &str) -> Result<(String, Json), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("a name and JSON are needed, such as login='\"bob\"'")?;
    let value = serde_json::from_str(value)
        .map_err(|error| format!("the result of {name} is not JSON: {error}"))?;
    Ok((name.to_owned(), value))
}

/// The reason why nothing was called.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The command line is wrong.
    Usage(String),
    /// There is no such program, or the machine lacks something.
    Other(String),
    /// The connection or the server refused.
    Call(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Call(error)
    }
}

/// A connection, which closes when it is dropped.
#[derive(Debug)]
pub(crate) enum Connection {
    Opened(Session),
    Program(Box<Program>),
}

impl Connection {
    pub(crate) fn session(&self) -> &Session {
        match self {
            Connection::Opened(session) => session,
            Connection::Program(program) => program.admin.session(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.session().close();
    }
}

impl Server {
    /// The functions that the server may call.
    fn service(&self) -> Service {
        if self.answers.is_empty() {
            return Service::none();
        }
        let mut functions = typed::Server::new();
        for (name, value) in self.answers.clone() {
            functions = functions.handler(&name, move |_: IgnoredAny| Ok(value.clone()));
        }
        functions.into_service()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    /// Opens the connection. The first call connects. Runs in a fiber.
    ///
    /// # Errors
    /// For a wrong address or option, and if no such program runs.
    pub(crate) fn open(&self) -> Result<Connection, Fault> {
        if self.address.starts_with("http://") || self.address.starts_with("https://") {
            let text = format!(
                "{} is the address of pages; functions have one with ws:// and a path, such as ws://127.0.0.1:8080/rpc",
                self.address
            );
            return Err(Fault::Usage(text));
        }
        let address: Address = if self.address.contains(':') {
            let parsed = self.address.parse();
            parsed.map_err(|error: yue_rpc::AddressError| {
                // One line: its own text marks the place in a second one.
                Fault::Usage(format!("bad address {}: {}", error.address, error.reason))
            })?
        } else if self.address.ends_with(".sock") {
            let path = self.address.clone();
            Address::Unix { path }
        } else {
            let found = running::find(Some(&self.address));
            return found
                .map(|program| Connection::Program(Box::new(program)))
                .map_err(Fault::Other);
        };
        if let Address::Thread { .. } = address {
            let text = "a thread can be called only from its own program; give another address";
            return Err(Fault::Usage(text.to_owned()));
        }
        let sockets = SocketOptions {
            tls: TlsOptions {
                ca: self.ca.clone(),
                insecure: self.insecure,
                ..TlsOptions::default()
            },
            ..SocketOptions::default()
        };
        let options = Options {
            timeout: self.timeout(),
            legacy: self.legacy,
            // A restarted server is another one; the user decides about that.
            reconnect: false,
            ..Options::default()
        };
        let connector =
            try_connector(&address, &sockets).map_err(|error| Fault::Usage(error.message()))?;
        let session = Session::open(connector, self.service(), options);
        Ok(Connection::Opened(session))
    }
}

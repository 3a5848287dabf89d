//! One HTTP connection: its fiber, and its session of the listener's service.

use super::exchange::Exchange;
use super::server::HttpConnection;
use super::stream::{Stream, Times};
use super::{Grant, HttpOptions};
use crate::error::{Error, ErrorKind};
use crate::session::options::Options;
use crate::session::{Accounts, Service, Session};
use crate::transport::memory::MemoryTransport;
use crate::transport::sniffer::HEAD_MAX;
use crate::transport::{Connect, Events, Transport};
use crate::{CloseReason, Hooks, Moment, Retry};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use yue_scheduler::{Builder, set_context};

/// The maximum number of headers of a request.
const HEADERS_MAX: usize = 100;

/// The rules of a listener's HTTP.
pub(crate) struct Site {
    pub(super) grant: Option<Grant>,
    pub(super) origins: Option<Vec<String>>,
    pub(super) host: String,
}

impl Site {
    /// The rules that the options set for a listener at `host`.
    pub(crate) fn new(options: &HttpOptions, host: &str) -> Site {
        Site {
            grant: options.rpc.clone(),
            origins: options.origins.clone(),
            host: host.to_owned(),
        }
    }

    /// The pages and names that may call.
    pub(super) fn callers(&self) -> crate::transport::origin::Site<'_> {
        crate::transport::origin::Site {
            host: &self.host,
            origins: self.origins.as_deref(),
        }
    }
}

/// Starts an HTTP connection over a link that is ready. `set_events` passes on the events of the link. Returns the
/// session of the service, and what ends the connection when that session has ended.
///
/// # Errors
/// If there is no memory for a fiber. The caller closes the link.
pub(crate) fn start(
    site: Rc<Site>,
    accounts: Rc<Accounts>,
    from: &str,
    service: &Service,
    options: &Options,
    link: Rc<dyn Transport>,
    set_events: impl FnOnce(Rc<dyn Events>),
) -> io::Result<(Session, impl FnOnce() + 'static)> {
    let limits = &options.limits;
    let times = Times {
        head: limits.handshake,
        idle: None,
        body: limits.message_time,
        output: limits.stall,
    };
    let peer_name = link.peer_name();
    let stream = Stream::new(link, times);
    set_events(stream.clone());
    let (near, far) = MemoryTransport::pair();
    let service = Service {
        dispatch: service.dispatch.clone(),
        hooks: Rc::new(WithoutHandshake(service.hooks.clone())),
    };
    let accepted = Session::accept_into(
        accounts.clone(),
        from.to_owned(),
        service,
        options.clone(),
        |events| {
            far.start(events);
            let link: Rc<dyn Transport> = Rc::new(Named {
                inner: far,
                peer_name,
            });
            Ok(link)
        },
    )?;
    let connector = Rc::new(Once(RefCell::new(Some(near)), from.to_owned()));
    let options = Options {
        reconnect: false,
        retry: false,
        ..options.clone()
    };
    let stack = options.stack;
    let caller = Session::open(connector, Service::none(), options.clone());
    let connection = HttpConnection::new(stream.clone(), from.to_owned(), HEAD_MAX, HEADERS_MAX);
    let exchange = Exchange {
        site,
        accounts,
        accepted: accepted.clone(),
        caller,
        limits: options.limits,
        connection,
    };
    let spawned = Builder::new()
        .name(format!("http connection from {from}"))
        .stack(stack)
        .spawn(move || {
            set_context(None);
            serve(&exchange);
        });
    match spawned {
        Ok(fiber) => stream.set_fiber(fiber.id()),
        Err(error) => {
            accepted.close();
            return Err(error);
        }
    }
    Ok((accepted, move || stream.end_soon()))
}

/// The body of a connection's fiber.
fn serve(exchange: &Exchange) {
    while let Ok(Some(request)) = exchange.connection.next_request() {
        let answer = exchange.respond(&request);
        exchange.connection.answer(answer);
    }
    exchange.caller.close();
    exchange.accepted.close();
}

/// The hooks of a connection without a handshake: a program learns of its end alone.
struct WithoutHandshake(Rc<dyn Hooks>);

impl Hooks for WithoutHandshake {
    fn wants(&self, moment: Moment) -> bool {
        match moment {
            Moment::Open | Moment::Accept => false,
            _ => self.0.wants(moment),
        }
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) -> Retry {
        self.0.on_close(session, reason)
    }

    fn on_timeout(&self, session: &Session) {
        self.0.on_timeout(session);
    }

    fn on_full(&self, session: &Session) {
        self.0.on_full(session);
    }

    fn on_room(&self, session: &Session) {
        self.0.on_room(session);
    }
}

/// The accepted end of the link in memory, with the name of the client.
struct Named {
    inner: Rc<MemoryTransport>,
    peer_name: Option<String>,
}

impl Transport for Named {
    fn send(&self, buffer: Vec<u8>) {
        self.inner.send(buffer);
    }

    fn queued_bytes(&self) -> usize {
        self.inner.queued_bytes()
    }

    fn set_reading(&self, on: bool) {
        self.inner.set_reading(on);
    }

    fn shutdown_write(&self) {
        self.inner.shutdown_write();
    }

    fn peer_name(&self) -> Option<String> {
        self.peer_name.clone()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// Connects once, over a link that is there.
struct Once(RefCell<Option<Rc<MemoryTransport>>>, String);

impl Connect for Once {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let Some(link) = self.0.take() else {
            let text = format!("the connection to {} is closed", self.1);
            return Err(Error::retryable(ErrorKind::ConnectionLost, text));
        };
        link.start(events);
        Ok(link)
    }

    fn address(&self) -> &str {
        &self.1
    }
}

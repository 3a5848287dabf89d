//! A place in memory to listen at and connect to, within one loop: what a test or a simulation has for a network.

use super::memory::MemoryTransport;
use super::{Connect, Events, Transport};
use crate::error::{Error, ErrorKind};
use crate::session::{Options, Service, Session};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

/// Accepts what connects to it, as sessions of one service.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::session::{Call, Options, Reply, Service, Session, Timeout};
/// use yue_rpc::transport::hub::Hub;
/// use yue_scheduler::{Config, Loop};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let echo = |call: &mut Call, reply: Reply| {
///         reply.results(|out| {
///             out.extend_from_slice(call.params().bytes);
///             Ok(call.params().count)
///         })
///     };
///     let hub = Hub::new(Service::new(Rc::new(echo)), Options::default());
///     let session = Session::open(hub.clone(), Service::none(), Options::default());
///     let answer = session.call("echo", Timeout::Default, |out| {
///         out.push(42);
///         Ok(1)
///     });
///     assert_eq!(answer.unwrap().bytes(), [42]);
///     session.close();
/// });
/// ```
pub struct Hub {
    service: Service,
    options: Options,
    refusing: Cell<bool>,
    piece_bytes: Cell<usize>,
    accepted: RefCell<Vec<(Session, Rc<MemoryTransport>)>>,
}

impl Hub {
    /// A hub that accepts.
    pub fn new(service: Service, options: Options) -> Rc<Hub> {
        Rc::new(Hub {
            service,
            options,
            refusing: Cell::new(false),
            piece_bytes: Cell::new(usize::MAX),
            accepted: RefCell::default(),
        })
    }

    /// Refuses connections from now on, or no more.
    pub fn refuse(&self, on: bool) {
        self.refusing.set(on);
    }

    /// Cuts what is sent over connections made from now on, both ways, into pieces of so many bytes.
    pub fn cut_into_pieces_of(&self, bytes: usize) {
        self.piece_bytes.set(bytes);
    }

    /// The sessions accepted so far, those that are over included.
    pub fn sessions(&self) -> Vec<Session> {
        self.accepted
            .borrow()
            .iter()
            .map(|(session, _)| session.clone())
            .collect()
    }

    /// Breaks the link that was made last, as a reset would.
    pub fn break_last(&self) {
        let last = self.accepted.borrow().last().map(|(_, end)| end.clone());
        if let Some(end) = last {
            end.reset();
        }
    }

    /// The accepting end of a new link, its other end for the caller to speak raw bytes over.
    pub fn connect_raw(&self) -> Rc<MemoryTransport> {
        let (near, far) = MemoryTransport::pair();
        for end in [&near, &far] {
            end.cut_into_pieces_of(self.piece_bytes.get());
        }
        let end = far.clone();
        let accepted = Session::accept(
            "memory",
            self.service.clone(),
            self.options.clone(),
            move |events| {
                end.start(events);
                Ok(end as Rc<dyn Transport>)
            },
        );
        if let Ok(session) = accepted {
            self.accepted.borrow_mut().push((session, far));
        }
        near
    }
}

impl Connect for Hub {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        if self.refusing.get() {
            let error = io::Error::from(io::ErrorKind::ConnectionRefused);
            debug_assert_eq!(
                Error::from_connect("memory", &error).kind(),
                ErrorKind::ConnectionRefused
            );
            return Err(Error::from_connect("memory", &error));
        }
        let near = self.connect_raw();
        near.start(events);
        Ok(near)
    }

    fn address(&self) -> &str {
        "memory"
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("accepted", &self.accepted.borrow().len())
            .finish_non_exhaustive()
    }
}

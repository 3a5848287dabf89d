//! A listener in memory, within one loop: the network of a test or a simulation.

use crate::error::{Error, ErrorKind};
use crate::session::options::Options;
use crate::session::{Accounts, Service, Session};
use crate::transport::memory::MemoryTransport;
use crate::transport::{Connect, Events, Transport};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;

/// Accepts links as sessions of one service.
///
/// ```
/// use yue_rpc::session::{Service, Session};
/// use yue_rpc::MemoryListener;
/// use yue_rpc::typed::{Caller, Server};
/// use yue_rpc::{Error, ErrorKind, Options};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let service = Server::new().handler("add", |(a, b): (i64, i64)| Ok(a + b)).into_service();
///     let listener = MemoryListener::new(service, Options::default());
///     let session = Session::open(listener.clone(), Service::none(), Options::default());
///     let sum: i64 = Caller::new(session.clone()).call("add", (1, 2))?;
///     assert_eq!(sum, 3);
///     session.close();
///
///     listener.refuse(true);
///     let late = Session::open(listener, Service::none(), Options::default());
///     let error = Caller::new(late).call::<_, i64>("add", (1, 2)).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemoryListener {
    service: Service,
    options: Options,
    accounts: Rc<Accounts>,
    refusing: Cell<bool>,
    piece_bytes: Cell<usize>,
    accepted: RefCell<Vec<(Session, Rc<MemoryTransport>)>>,
}

impl MemoryListener {
    /// Creates a listener that accepts.
    pub fn new(service: Service, options: Options) -> Rc<MemoryListener> {
        Rc::new(MemoryListener {
            service,
            options,
            accounts: Rc::default(),
            refusing: Cell::new(false),
            piece_bytes: Cell::new(usize::MAX),
            accepted: RefCell::default(),
        })
    }

    /// Starts or stops refusing connections.
    pub fn refuse(&self, on: bool) {
        self.refusing.set(on);
    }

    /// Cuts the bytes of connections made from now on into pieces of `bytes`, in both directions.
    pub fn cut_into_pieces_of(&self, bytes: usize) {
        self.piece_bytes.set(bytes);
    }

    /// The sessions accepted so far, ended ones included.
    pub fn sessions(&self) -> Vec<Session> {
        self.accepted
            .borrow()
            .iter()
            .map(|(session, _)| session.clone())
            .collect()
    }

    /// The connections, requests and bytes counted against a listener's limits.
    #[doc(hidden)] // For the tests, which look whether anything is left.
    pub fn in_use(&self) -> [usize; 3] {
        self.accounts.in_use()
    }

    /// Breaks the newest link, as a reset would.
    pub fn break_last(&self) {
        let last = self.accepted.borrow().last().map(|(_, end)| end.clone());
        if let Some(end) = last {
            end.reset();
        }
    }

    /// Sends raw bytes to the client of the newest link, as a faulty server might.
    #[doc(hidden)]
    pub fn send_raw_to_last(&self, bytes: Vec<u8>) {
        let last = self.accepted.borrow().last().map(|(_, end)| end.clone());
        if let Some(end) = last {
            end.send(bytes);
        }
    }

    /// Creates a link to the listener, and returns the caller's end for speaking raw bytes.
    #[doc(hidden)]
    pub fn connect_raw(&self) -> Rc<MemoryTransport> {
        let (near, far) = MemoryTransport::pair();
        for end in [&near, &far] {
            end.cut_into_pieces_of(self.piece_bytes.get());
        }
        let end = far.clone();
        let accepted = Session::accept_into(
            self.accounts.clone(),
            "memory".to_owned(),
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

impl Connect for MemoryListener {
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

impl fmt::Debug for MemoryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryListener")
            .field("accepted", &self.accepted.borrow().len())
            .finish_non_exhaustive()
    }
}

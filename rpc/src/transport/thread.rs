//! Links between loops of one process: whole buffers change owners, nothing is copied.
//!
//! ```text
//!   loop A                                              loop B
//!   ThreadLink ── parcel (the buffer itself) ─▶ inbox ──▶ ThreadLink ── Events::data(Owned)
//!        ▲                                                    │ the emptied buffer joins B's pool and carries an
//!        answer └──────────────── inbox ◀── parcel ──────────────────┘
//! ```
//!
//! A link has an end on each loop, in a table of the thread, under a key that is unique in the process. A parcel is a
//! closure for the other loop's inbox, which keeps the order. A parcel that cannot be delivered, because that loop is
//! gone, is dropped, and its drop notifies the sender that the link has ended. Bytes in flight are counted in a pair of
//! atomics, so that a sender sees how far the peer lags behind.

use super::traits::{Connect, Events, Incoming, Transport};
use crate::error::{Error, ErrorKind};
use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use yue_scheduler::simulation::{Hashing, PerHost};
use yue_scheduler::{LoopHandle, this_loop};

/// Returns the next key of a link or a listener.
fn next_key() -> u64 {
    static NEXT: PerHost<AtomicU64> = PerHost::new(|| AtomicU64::new(1));
    // Relaxed: it only matters that no value is returned twice.
    NEXT.get().fetch_add(1, Ordering::Relaxed)
}

/// One direction of a link.
#[derive(Default)]
struct Lane {
    /// Bytes sent and not yet handed to the receiving session. Pairs with `asks`: the sender stores `asks` and then
    /// loads this, the receiver subtracts here and then loads `asks`, all SeqCst, so that one of them sees the other.
    outstanding_bytes: AtomicUsize,
    /// The sender wants an event when bytes have been handed over.
    asks: AtomicBool,
}

/// The address of one end of a link: its loop and its key.
#[derive(Clone)]
struct Endpoint {
    home: LoopHandle,
    key: u64,
}

enum Content {
    Data(Vec<u8>),
    /// The sender sends no more.
    End,
    /// The link has ended.
    Closed(io::Result<()>),
    /// Bytes have been handed over.
    Taken,
}

/// A message in flight to another loop.
struct Parcel {
    to: u64,
    from: Endpoint,
    content: Option<Content>,
}

impl Parcel {
    fn send(to: &Endpoint, from: Endpoint, content: Content) {
        let parcel = Parcel {
            to: to.key,
            from,
            content: Some(content),
        };
        to.home.run(move || parcel.deliver());
    }

    fn deliver(mut self) {
        let Some(content) = self.content.take() else {
            return;
        };
        let end = with_ends(|ends| ends.get(&self.to).cloned());
        if let Some(end) = end {
            end.receive(content);
        }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // Never delivered: the other loop is gone. A sender of data or of an end waits to learn that.
        if let Some(Content::Data(_) | Content::End) = self.content {
            let key = self.from.key;
            self.from.home.run(move || {
                if let Some(end) = with_ends(|ends| ends.get(&key).cloned()) {
                    end.receive(Content::Closed(Err(io::ErrorKind::ConnectionReset.into())));
                }
            });
        }
    }
}

/// The ends that live on this thread. When the thread ends, the other ends are notified.
#[derive(Default)]
struct Ends(RefCell<Links>);

/// In a simulation it is dropped in an order that the seed determines.
type Links = HashMap<u64, Rc<ThreadLink>, Hashing>;

impl Drop for Ends {
    fn drop(&mut self) {
        for end in self.0.take().into_values() {
            let reset = Err(io::ErrorKind::ConnectionReset.into());
            Parcel::send(&end.other, end.endpoint.clone(), Content::Closed(reset));
        }
    }
}

type Acceptor = Rc<dyn Fn(IncomingLink)>;

thread_local! {
    static ENDS: Ends = Ends::default();
    static ACCEPTORS: RefCell<HashMap<u64, Acceptor>> = RefCell::default();
}

fn with_ends<R>(f: impl FnOnce(&mut Links) -> R) -> R {
    ENDS.with(|ends| f(&mut ends.0.borrow_mut()))
}

/// One end of a link.
struct ThreadLink {
    endpoint: Endpoint,
    other: Endpoint,
    events: RefCell<Option<Rc<dyn Events>>>,
    lane_out: Arc<Lane>,
    lane_in: Arc<Lane>,
    reading: Cell<bool>,
    /// Buffers that arrived while nobody read.
    waiting: RefCell<VecDeque<Vec<u8>>>,
    /// The peer sends no more: the result to report when all waiting buffers are read.
    ended: RefCell<Option<io::Result<()>>>,
}

impl ThreadLink {
    fn start(
        endpoint: Endpoint,
        other: Endpoint,
        lanes: (Arc<Lane>, Arc<Lane>),
        events: Rc<dyn Events>,
    ) -> Rc<ThreadLink> {
        let key = endpoint.key;
        let link = Rc::new(ThreadLink {
            endpoint,
            other,
            events: RefCell::new(Some(events)),
            lane_out: lanes.0,
            lane_in: lanes.1,
            reading: Cell::new(true),
            waiting: RefCell::default(),
            ended: RefCell::default(),
        });
        with_ends(|ends| ends.insert(key, link.clone()));
        link
    }

    fn post(&self, content: Content) {
        Parcel::send(&self.other, self.endpoint.clone(), content);
    }

    fn receive(&self, content: Content) {
        match content {
            Content::Data(buffer) => {
                self.waiting.borrow_mut().push_back(buffer);
                self.hand_over();
            }
            Content::End => {
                *self.ended.borrow_mut() = Some(Ok(()));
                self.hand_over();
            }
            // Buffers that arrived before an orderly close are still read.
            Content::Closed(Ok(())) => {
                *self.ended.borrow_mut() = Some(Ok(()));
                self.hand_over();
            }
            Content::Closed(error) => self.finish(error),
            Content::Taken => {
                let events = self.events.borrow().clone();
                if let Some(events) = events {
                    events.sent(None);
                }
            }
        }
    }

    /// Passes the buffers that have arrived to the session, as long as it reads.
    fn hand_over(&self) {
        while self.reading.get() {
            let Some(buffer) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            let Some(events) = self.events.borrow().clone() else {
                return;
            };
            let bytes = buffer.len();
            events.data(Incoming::Owned(buffer));
            // SeqCst: see `Lane`.
            let before = self
                .lane_in
                .outstanding_bytes
                .fetch_sub(bytes, Ordering::SeqCst);
            if self.lane_in.asks.load(Ordering::SeqCst) {
                if before == bytes {
                    self.lane_in.asks.store(false, Ordering::SeqCst);
                }
                self.post(Content::Taken);
            }
        }
        if self.waiting.borrow().is_empty()
            && let Some(result) = self.ended.take()
        {
            // The session may still have to start what it was sent; then it closes this end itself.
            let events = self.events.borrow().clone();
            if !events.is_some_and(|events| events.end_of_input()) {
                self.finish(result);
            }
        }
    }

    /// Finishes this end, once, and notifies its session and the other end.
    fn finish(&self, result: io::Result<()>) {
        let Some(events) = self.events.take() else {
            return;
        };
        with_ends(|ends| ends.remove(&self.endpoint.key));
        self.waiting.take();
        self.post(Content::Closed(Ok(())));
        events.closed(result);
    }
}

impl Transport for ThreadLink {
    fn send(&self, buffer: Vec<u8>) {
        if self.events.borrow().is_some() {
            self.lane_out
                .outstanding_bytes
                .fetch_add(buffer.len(), Ordering::SeqCst);
            self.post(Content::Data(buffer));
        }
    }

    fn queued_bytes(&self) -> usize {
        // Relaxed: only an estimate; a session that needs exact notice sets `asks`.
        self.lane_out.outstanding_bytes.load(Ordering::Relaxed)
    }

    fn notify_when_sent(&self) {
        // SeqCst: see `Lane`.
        self.lane_out.asks.store(true, Ordering::SeqCst);
        if self.lane_out.outstanding_bytes.load(Ordering::SeqCst) == 0 {
            let (home, key) = (self.endpoint.home.clone(), self.endpoint.key);
            home.run(move || {
                if let Some(end) = with_ends(|ends| ends.get(&key).cloned()) {
                    end.receive(Content::Taken);
                }
            });
        }
    }

    fn set_reading(&self, on: bool) {
        if !self.reading.replace(on) && on {
            // Not from inside the session's own call: the event comes as a separate parcel.
            let (home, key) = (self.endpoint.home.clone(), self.endpoint.key);
            home.run(move || {
                if let Some(end) = with_ends(|ends| ends.get(&key).cloned()) {
                    end.hand_over();
                }
            });
        }
    }

    fn shutdown_write(&self) {
        self.post(Content::End);
    }

    fn close(&self) {
        self.finish(Ok(()));
    }
}

/// A link that another loop has made to a listener of this loop.
pub struct IncomingLink {
    endpoint: Endpoint,
    other: Endpoint,
    lanes: (Arc<Lane>, Arc<Lane>),
    /// The loop that it comes from.
    pub from_loop: u32,
}

impl IncomingLink {
    /// Accepts the link.
    pub fn start(self, events: Rc<dyn Events>) -> Rc<dyn Transport> {
        ThreadLink::start(self.endpoint, self.other, self.lanes, events)
    }
}

impl fmt::Debug for IncomingLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingLink")
            .field("from_loop", &self.from_loop)
            .finish_non_exhaustive()
    }
}

/// Runs `f` with the names of this process under which loops accept links.
fn with_names<R>(f: impl FnOnce(&mut HashMap<String, Endpoint>) -> R) -> R {
    static NAMES: PerHost<Mutex<HashMap<String, Endpoint>>> = PerHost::new(Mutex::default);
    f(&mut yue_scheduler::lock(&NAMES.get()))
}

/// A name under which a loop accepts links, until it is dropped.
pub struct ThreadName {
    name: String,
    key: u64,
}

impl ThreadName {
    /// Accepts links to `thread://name` on this loop: `accept` is called there with each link, outside fibers.
    ///
    /// # Errors
    /// `AddressInUse` if a loop already uses the name.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn listen(name: &str, accept: impl Fn(IncomingLink) + 'static) -> io::Result<ThreadName> {
        let endpoint = Endpoint {
            home: this_loop::handle(),
            key: next_key(),
        };
        let key = endpoint.key;
        let is_new = with_names(|names| match names.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(endpoint);
                true
            }
            Entry::Occupied(_) => false,
        });
        if !is_new {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        ACCEPTORS.with(|acceptors| acceptors.borrow_mut().insert(key, Rc::new(accept)));
        Ok(ThreadName {
            name: name.to_owned(),
            key,
        })
    }
}

impl Drop for ThreadName {
    fn drop(&mut self) {
        with_names(|names| names.remove(&self.name));
        let _ = ACCEPTORS.try_with(|acceptors| acceptors.borrow_mut().remove(&self.key));
    }
}

impl fmt::Debug for ThreadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreadName").field(&self.name).finish()
    }
}

/// Makes links to a loop by its name.
#[derive(Debug)]
pub struct ThreadConnector {
    name: String,
    text: String,
}

impl ThreadConnector {
    /// Creates a connector for `thread://name`.
    pub fn new(name: &str) -> ThreadConnector {
        ThreadConnector {
            name: name.to_owned(),
            text: format!("thread://{name}"),
        }
    }
}

impl Connect for ThreadConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let Some(listener) = with_names(|names| names.get(&self.name).cloned()) else {
            let text = format!("no thread of this process listens at {}", self.text);
            return Err(Error::retryable(ErrorKind::ConnectionRefused, text));
        };
        let home = this_loop::handle();
        let from_loop = home.id();
        let endpoint = Endpoint {
            home,
            key: next_key(),
        };
        let other = Endpoint {
            home: listener.home.clone(),
            key: next_key(),
        };
        let (there, back) = (Arc::<Lane>::default(), Arc::<Lane>::default());
        let link = ThreadLink::start(
            endpoint.clone(),
            other.clone(),
            (there.clone(), back.clone()),
            events,
        );
        let incoming = IncomingLink {
            endpoint: other,
            other: endpoint,
            lanes: (back, there),
            from_loop,
        };
        let pending = PendingLink(Some(incoming));
        listener.home.run(move || pending.accept(listener.key));
        Ok(link)
    }

    fn address(&self) -> &str {
        &self.text
    }
}

/// A link in flight to its listener. If the listener is gone, the connecting end is notified.
struct PendingLink(Option<IncomingLink>);

impl PendingLink {
    fn accept(mut self, listener: u64) {
        let acceptor = ACCEPTORS.with(|acceptors| acceptors.borrow().get(&listener).cloned());
        if let Some(acceptor) = acceptor
            && let Some(incoming) = self.0.take()
        {
            acceptor(incoming);
        }
    }
}

impl Drop for PendingLink {
    fn drop(&mut self) {
        if let Some(link) = self.0.take() {
            let refused = Err(io::ErrorKind::ConnectionRefused.into());
            Parcel::send(&link.other, link.endpoint, Content::Closed(refused));
        }
    }
}

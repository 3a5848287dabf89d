//! The adversary between the two sessions: a connector whose links go through two lanes. Each lane treats the bytes
//! according to a script.

use crate::script::Script;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::session::Session;
use yue_rpc::transport::memory::MemoryTransport;
use yue_rpc::transport::{Connect, Events, Incoming, Transport};
use yue_rpc::{Error, MemoryListener};
use yue_scheduler::{sleep, spawn};

/// The longest delay of one piece, in milliseconds: all that a script can hold up together is less than any limit.
const DELAY_MAX_MS: usize = 50;

/// Bytes of the stream that are kept to be sent once more.
const KEPT_MAX: usize = 4096;

/// Connects to a listener, through lanes that the script governs.
pub(super) struct Adversary {
    listener: Rc<MemoryListener>,
    shared: Rc<Shared>,
    lanes: RefCell<Vec<Rc<Lane>>>,
}

struct Shared {
    script: RefCell<Script>,
    fair: Cell<bool>,
}

impl Adversary {
    pub(super) fn new(listener: Rc<MemoryListener>, script: Script) -> Adversary {
        Adversary {
            listener,
            shared: Rc::new(Shared {
                script: RefCell::new(script),
                fair: Cell::new(true),
            }),
            lanes: RefCell::default(),
        }
    }

    /// Whether all bytes have arrived as they were sent, so far.
    pub(super) fn is_fair(&self) -> bool {
        self.shared.fair.get()
    }

    /// The server's side of the link that was made last.
    pub(super) fn server_session(&self) -> Option<Session> {
        // The first is the witness's.
        self.listener.sessions().into_iter().skip(1).next_back()
    }

    /// Breaks whatever is still connected.
    pub(super) fn cut(&self) {
        self.shared.fair.set(false);
        let lanes = self.lanes.take();
        lanes.iter().for_each(|lane| lane.to.reset());
    }
}

impl Connect for Adversary {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let outer = self.listener.connect_raw();
        let (near, inner) = MemoryTransport::pair();
        for (from, to) in [(&inner, &outer), (&outer, &inner)] {
            let lane = Rc::new_cyclic(|this: &Weak<Lane>| Lane {
                this: this.clone(),
                shared: self.shared.clone(),
                from: Rc::downgrade(from),
                to: to.clone(),
                held: RefCell::default(),
                swapped: RefCell::default(),
                kept: RefCell::default(),
                ended: Cell::new(false),
            });
            from.start(lane.clone());
            self.lanes.borrow_mut().push(lane);
        }
        near.start(events);
        Ok(near)
    }

    fn address(&self) -> &str {
        "adversary"
    }
}

/// One direction of a link.
struct Lane {
    this: Weak<Lane>,
    shared: Rc<Shared>,
    from: Weak<MemoryTransport>,
    to: Rc<MemoryTransport>,
    /// Bytes that wait for what comes next, or for a delay to end.
    held: RefCell<Vec<u8>>,
    /// A piece that goes out behind the next one.
    swapped: RefCell<Vec<u8>>,
    /// Bytes that were sent before.
    kept: RefCell<Vec<u8>>,
    ended: Cell<bool>,
}

impl Events for Lane {
    fn data(&self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Borrowed(bytes) => self.held.borrow_mut().extend_from_slice(bytes),
            Incoming::Owned(bytes) => self.held.borrow_mut().extend(bytes),
        }
        self.tamper();
    }

    fn sent(&self, _: Option<Vec<u8>>) {}

    fn closed(&self, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.pass_on();
                self.send(self.swapped.take());
                self.ended.set(true);
                self.to.close();
            }
            Err(_) => self.to.reset(),
        }
    }
}

impl Lane {
    /// Does what the script says next to the bytes at hand.
    fn tamper(&self) {
        let mut script = self.shared.script.borrow_mut();
        if script.has_ended() {
            return self.pass_on();
        }
        let mut held = self.held.borrow_mut();
        let length = held.len().max(1);
        let what = script.byte() & 0x0f;
        if (5..=13).contains(&what) {
            self.shared.fair.set(false);
        }
        match what {
            1 => {
                let size = script.below(40) + 1;
                let pieces: Vec<Vec<u8>> = held.chunks(size).map(<[u8]>::to_vec).collect();
                held.clear();
                pieces.into_iter().for_each(|piece| self.send(piece));
                return;
            }
            // Until something follows, but not for long.
            2 => {
                drop(held);
                return self.later(1);
            }
            3 => {
                let ms = script.below(DELAY_MAX_MS);
                drop(held);
                return self.later(ms);
            }
            4 => {
                let ms = script.below(DELAY_MAX_MS);
                self.stop_reading(ms);
            }
            5 => {
                let (at, by) = (script.below(length), script.byte());
                held.iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= by);
            }
            6 => {
                let (at, count) = (script.below(length), script.below(length) + 1);
                let at = at.min(held.len());
                let end = (at + count).min(held.len());
                held.drain(at..end);
            }
            7 => {
                let at = script.below(length).min(held.len());
                let count = script.below(16);
                let added = script.take(count);
                held.splice(at..at, added);
            }
            8 => {
                let message = message(&mut script);
                let at = [0, held.len()][script.below(2)];
                held.splice(at..at, message);
            }
            9 => {
                let first = std::mem::take(&mut *held);
                self.send(self.swapped.replace(first));
                return;
            }
            10 => held
                .splice(0..0, self.kept.borrow().iter().copied())
                .for_each(drop),
            11 => held.clear(),
            12 => {
                drop((held, script));
                return self.to.reset();
            }
            13 => {
                drop((held, script));
                self.pass_on();
                self.ended.set(true);
                return self.to.close();
            }
            _ => {}
        }
        drop((held, script));
        self.pass_on();
        self.send(self.swapped.take());
    }

    fn pass_on(&self) {
        self.send(self.held.take());
    }

    fn send(&self, bytes: Vec<u8>) {
        if bytes.is_empty() || self.ended.get() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        let room = KEPT_MAX.saturating_sub(kept.len());
        kept.extend(bytes.iter().take(room));
        self.to.send(bytes);
    }

    fn later(&self, ms: usize) {
        let this = self.this.clone();
        drop(spawn(move || {
            let _ = sleep(Duration::from_millis(ms as u64));
            if let Some(lane) = this.upgrade() {
                lane.pass_on();
            }
        }));
    }

    fn stop_reading(&self, ms: usize) {
        let Some(from) = self.from.upgrade() else {
            return;
        };
        from.set_reading(false);
        drop(spawn(move || {
            let _ = sleep(Duration::from_millis(ms as u64));
            from.set_reading(true);
        }));
    }
}

/// A message of the protocol with numbers from the script: right in form, and wrong in what it says.
fn message(script: &mut Script) -> Vec<u8> {
    let names = [
        "$yue/hello",
        "$yue/granted",
        "$yue/refused",
        "$yue/cancel",
        "$yue/release",
        "$yue/ping",
        "$yue/chunk",
        "sum",
        "hang",
    ];
    let mut out = Vec::new();
    let kind = script.below(4);
    let number = script.byte();
    let msgid = u32::from(number % 16);
    let name = names[script.below(names.len())];
    let method = yue_rpc::proto::Method::Name(name.as_bytes());
    let count = script.below(6);
    let values = script.take(count);
    let argument = |out: &mut Vec<u8>| {
        match name {
            "$yue/release" => {
                let pairs = |out: &mut Vec<u8>| {
                    encode::uint(out, u64::from(number));
                    encode::uint(out, values.first().copied().unwrap_or(1).into());
                    Ok(2)
                };
                encode::array(out, |out| encode::array(out, pairs).map(|_| 1))?;
            }
            "$yue/cancel" => encode::uint(out, msgid.into()),
            "$yue/chunk" if kind < 2 => {
                encode::uint(out, msgid.into());
                match values[..] {
                    [] => return Ok(1),
                    [length] => encode::uint(out, length.into()),
                    _ => encode::bin(out, &values),
                }
                return Ok(2);
            }
            "$yue/hello" if kind < 2 => {
                encode::uint(out, u64::from(number));
                out.push(0x80);
                return Ok(2);
            }
            _ => encode::str_or_bin(out, &values),
        }
        Ok(1)
    };
    let written = match kind {
        0 => encode::request(&mut out, msgid, method, Some(number.into()), argument),
        1 => encode::notification(&mut out, method, argument),
        2 => encode::response(&mut out, msgid, true, argument),
        _ => encode::error_response(&mut out, msgid, argument),
    };
    written.expect("nothing is refused");
    out
}

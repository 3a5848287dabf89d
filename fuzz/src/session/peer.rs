//! The methods that both peers offer, and the record that each keeps of the other.

use super::{Settings, ints, use_function};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::proto::value::Reader;
use yue_rpc::session::{Call, CallMethod, Dispatch, Replied, Reply, Service, Session, peer};
use yue_rpc::{Error, ErrorKind, Failure, Hooks, Moment, Timeout, Verdict};
use yue_scheduler::sleep;
use yue_wire::{Owner, Reference};

/// The wait of a handler that no caller should wait for: longer than a handshake may take.
const HANG: Duration = Duration::from_secs(100);

/// The longest answer that is made because a peer, or bytes that the adversary has changed, ask for it.
const ANSWER_MAX: i64 = 20_000;

/// One side of the game.
pub(super) struct Player {
    this: Weak<Player>,
    tight: bool,
    notes_sent: Rc<Cell<i64>>,
    notes_received: RefCell<Vec<i64>>,
    exported: RefCell<Vec<u64>>,
    released: RefCell<Vec<u64>>,
}

impl Player {
    pub(super) fn new(settings: &Settings) -> Rc<Player> {
        Rc::new_cyclic(|this| Player {
            this: this.clone(),
            tight: settings.tight,
            notes_sent: Rc::default(),
            notes_received: RefCell::default(),
            exported: RefCell::default(),
            released: RefCell::default(),
        })
    }

    /// The service of this side. Its `on_accept`: 0 there is none, 1 it calls the peer and grants, 2 it refuses,
    /// 3 it takes longer than it may.
    pub(super) fn service(&self, accept: u8) -> Service {
        let player = self.this.upgrade().expect("it is alive");
        let service = Service::new(player);
        match accept {
            0 => service,
            _ => service.with_hooks(Rc::new(Accepting(accept))),
        }
    }

    /// An encoder of the next number in order. The number is taken when it is written.
    pub(super) fn next_note(&self) -> impl FnOnce(&mut Vec<u8>) -> Result<u32, Error> + use<> {
        let sent = self.notes_sent.clone();
        move |out| {
            sent.set(sent.get() + 1);
            encode::int(out, sent.get());
            Ok(1)
        }
    }

    /// The id of another function, for the peer.
    pub(super) fn export(&self, session: &Session) -> Result<u64, Error> {
        let token = self.exported.borrow().len() as u64;
        let id = session.export_reference(token)?;
        self.exported.borrow_mut().push(token);
        Ok(id)
    }

    /// Numbers arrived in order; without limits, all of them that came before the last one.
    pub(super) fn check_order(&self) {
        let received = self.notes_received.borrow();
        let ordered = received.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ordered, "in order: {received:?}");
        if !self.tight {
            let expected: Vec<i64> = (1..=received.len() as i64).collect();
            assert_eq!(*received, expected, "none is missing");
        }
    }

    /// Each function was released, once.
    pub(super) fn check_released(&self) {
        let mut released = self.released.borrow().clone();
        released.sort_unstable();
        assert_eq!(
            released,
            *self.exported.borrow(),
            "what was released, of what was exported"
        );
    }

    fn serve(&self, name: &[u8], call: &mut Call, reply: Reply) -> Replied {
        let values = read_ints(call.params().bytes);
        let first = values.first().copied().unwrap_or(0);
        match name {
            b"sum" => reply.results(ints(&[values.iter().fold(0, |a, b| a.wrapping_add(*b))])),
            b"echo" => reply.results(ints(&values)),
            b"note" => {
                self.notes_received.borrow_mut().push(first);
                reply.results(ints(&[]))
            }
            b"nap" | b"hang" => {
                call.release_params();
                let length = if name == b"hang" {
                    HANG
                } else {
                    Duration::from_millis(first.clamp(0, 1000) as u64)
                };
                match sleep(length) {
                    Ok(()) if name == b"nap" => reply.results(ints(&[first])),
                    Ok(()) => reply.fail(&Failure::new("nobody waits so long")),
                    Err(stopped) => reply.fail(&Failure::from(stopped)),
                }
            }
            b"ask" => {
                let asked = peer().ok_or_else(|| Error::new(ErrorKind::Rpc, "no peer"));
                answer(reply, asked.and_then(|peer| sum(&peer, &values)))
            }
            b"big" => {
                let padding = vec![0xff; first.clamp(0, ANSWER_MAX) as usize];
                reply.results(|out| {
                    encode::int(out, first);
                    encode::str_or_bin(out, &padding);
                    Ok(2)
                })
            }
            b"length" => {
                let length = Reader::new(call.params().bytes)
                    .read_bytes()
                    .map_or(-1, |bytes| bytes.len() as i64);
                reply.results(ints(&[length]))
            }
            b"call_me" => {
                let parsed = call.params().bytes.split_first_chunk::<10>();
                let parsed = parsed.and_then(|(function, rest)| {
                    let reference = Reference::parse(&function[2..])?;
                    (reference.to_bytes() == *function).then_some((reference, rest))
                });
                let Some((
                    Reference {
                        owner: Owner::Sender,
                        id,
                    },
                    rest,
                )) = parsed
                else {
                    return reply.fail(&Failure::of_kind(ErrorKind::Argument, "no function"));
                };
                let argument = read_ints(rest).first().copied().unwrap_or(0);
                answer(
                    reply,
                    use_function(call.session(), call.link(), id, argument),
                )
            }
            b"fail" => reply.fail(&Failure::new("it went wrong")),
            _ => reply.no_method(call),
        }
    }
}

impl Dispatch for Player {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        match call.method() {
            CallMethod::Name(name) => {
                let name = name.to_vec();
                self.serve(&name, call, reply)
            }
            CallMethod::Token(_) => {
                let argument = read_ints(call.params().bytes).first().copied().unwrap_or(0);
                reply.results(ints(&[argument]))
            }
        }
    }

    fn release(&self, tokens: &[u64]) {
        self.released.borrow_mut().extend(tokens);
    }
}

fn answer(reply: Reply, outcome: Result<i64, Error>) -> Replied {
    match outcome {
        Ok(value) => reply.results(ints(&[value])),
        Err(error) => reply.fail(&Failure::from(error)),
    }
}

fn sum(session: &Session, values: &[i64]) -> Result<i64, Error> {
    let answer = session.call("sum", Timeout::Default, ints(values))?;
    Ok(read_ints(answer.bytes()).first().copied().unwrap_or(0))
}

/// The integers at the beginning of some values.
pub(super) fn read_ints(bytes: &[u8]) -> Vec<i64> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(|| reader.read_int()).collect()
}

struct Accepting(u8);

impl Hooks for Accepting {
    fn wants(&self, moment: Moment) -> bool {
        moment == Moment::Accept
    }

    fn on_accept(&self, session: &Session, _granted: Option<&[u8]>) -> Verdict {
        match self.0 {
            // Whatever comes of it: with tight limits it may be an error.
            1 => {
                drop(sum(session, &[1, 2]));
                Verdict::granted()
            }
            2 => Verdict::Refuse(Failure::new("not you")),
            _ => {
                let _ = sleep(HANG);
                Verdict::granted()
            }
        }
    }
}

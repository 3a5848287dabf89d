//! Two sessions and an adversary between them, which cuts, holds, delays, changes, swaps and adds bytes.
//!
//! ```text
//!   input:  settings (3 bytes) | length of the actions (1 byte) | actions | what the adversary does
//!
//!   client session ◀──▶ adversary ◀──▶ listener's session     a witness, another client of the listener, is left alone
//! ```
//!
//! As long as the adversary is *fair* (it cuts and delays, but changes nothing), every call must get what it should,
//! in the right order. Whatever it does, every call ends, both sessions end when one of them is closed, nothing of them
//! is left in the listener's accounts, each function that was exported is released once, and the witness is served.

mod adversary;
mod peer;

use crate::rig::Rig;
use crate::script::Script;
use adversary::Adversary;
use peer::Player;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::session::{Response, Session, Target};
use yue_rpc::{Error, ErrorKind, Limits, MemoryListener, Options, Timeout};
use yue_scheduler::{JoinHandle, now, sleep, spawn, this_loop};
use yue_wire::{Owner, Reference};

/// Far longer than anything takes that makes progress.
const LONG: Timeout = Timeout::After(Duration::from_secs(300));

/// Everything ends within this time: limits of the sessions, handlers that wait, pauses before the next connect.
const END: Duration = Duration::from_secs(1000);

/// The size of chunks if most answers are to be divided.
const CHUNK_BYTES: usize = 16;

/// Plays one input.
///
/// # Panics
/// If a session does not keep its promises.
pub fn check(rig: &Rig, data: &[u8]) {
    let script = Script::new(data);
    rig.run(move || play(script));
}

fn play(mut script: Script) {
    let panics = this_loop::counters().panics;
    let settings = Settings::read(&mut script);
    let length = script.below(256);
    let actions = Script::new(&script.take(length));
    let tampering = Script::new(&script.rest());

    let server = Player::new(&settings);
    let listener = MemoryListener::new(server.service(settings.accept), settings.options());
    let witness = Session::open(
        listener.clone(),
        Player::new(&settings).service(0),
        Options::default(),
    );
    // A server that refuses refuses the witness, too.
    let serves = witness_is_served(&witness);
    assert_eq!(serves, settings.accept < 2, "the witness is served");

    let adversary = Rc::new(Adversary::new(listener.clone(), tampering));
    let player = Player::new(&settings);
    let client = Session::open(
        adversary.clone(),
        player.service(settings.own_accept),
        settings.options(),
    );
    let game = Game {
        fair: Rc::new(Cell::new(serves && settings.own_accept < 2)),
        adversary,
        client,
        players: [player, server],
        tight: settings.tight,
        legacy: settings.legacy,
        callers: RefCell::default(),
    };
    game.act(actions);
    game.end(&listener);
    assert_eq!(
        witness_is_served(&witness),
        serves,
        "the witness is served still"
    );
    witness.close();
    eventually("the listener's accounts are empty", || {
        listener.in_use() == [0, 0, 0]
    });
    assert_eq!(this_loop::counters().panics, panics, "a fiber panicked");
}

fn witness_is_served(witness: &Session) -> bool {
    witness
        .call("sum", Timeout::Default, ints(&[40, 2]))
        .is_ok_and(|answer| answer.bytes() == [42])
}

/// The settings of the sessions.
struct Settings {
    /// Limits are so small that honest messages meet them.
    tight: bool,
    legacy: bool,
    reconnect: bool,
    /// Answers are sent in many chunks.
    chunks: bool,
    /// The actions of the server's and the client's `on_accept`: see [`Player::service`].
    accept: u8,
    own_accept: u8,
    limits: Limits,
}

impl Settings {
    fn read(script: &mut Script) -> Settings {
        let (flags, accepts, sizes) = (script.byte(), script.byte(), script.byte());
        let tight = flags & 1 != 0;
        let mut limits = Limits::default();
        if tight {
            limits.message_bytes_max = [3000, 20_000][usize::from(sizes & 1)];
            limits.in_flight_max = [3, 20][usize::from(sizes >> 1 & 1)];
            limits.pending_input_bytes_max = [400, 5000][usize::from(sizes >> 2 & 1)];
            limits.output_bytes_high = [300, 5000][usize::from(sizes >> 3 & 1)];
            limits.output_bytes_max = limits.output_bytes_high + 10_000;
            limits.held_bytes_max = [200, 5000][usize::from(sizes >> 4 & 1)];
            limits.references_max = [1, 10][usize::from(sizes >> 5 & 1)];
            // Room for the input buffers of a few connections at least: a listener with less reads none to its end.
            limits.memory_max = [1 << 20, 8 << 20][usize::from(sizes >> 6 & 1)];
            limits.handlers_max = [2, 100][usize::from(sizes >> 7 & 1)];
        }
        let legacy = flags & 2 != 0;
        Settings {
            // A client that is not a yue client does not wait for its grant, and few of its requests may.
            tight: tight || legacy,
            legacy,
            reconnect: flags & 4 != 0,
            chunks: flags & 8 != 0,
            accept: accepts % 4,
            own_accept: accepts / 4 % 4,
            limits,
        }
    }

    fn options(&self) -> Options {
        let defaults = Options::default();
        Options {
            limits: self.limits.clone(),
            timeout: Duration::from_secs(20),
            legacy: self.legacy,
            reconnect: self.reconnect,
            chunk_bytes: if self.chunks {
                Some(CHUNK_BYTES)
            } else {
                defaults.chunk_bytes
            },
            ..defaults
        }
    }
}

struct Game {
    /// Nothing has been done yet that may keep a call from its outcome.
    fair: Rc<Cell<bool>>,
    adversary: Rc<Adversary>,
    client: Session,
    /// The client's side and the server's.
    players: [Rc<Player>; 2],
    tight: bool,
    legacy: bool,
    callers: RefCell<Vec<JoinHandle<()>>>,
}

/// Judges the outcome of a call.
#[derive(Clone)]
struct Judge {
    fair: Rc<Cell<bool>>,
    adversary: Rc<Adversary>,
    tight: bool,
}

impl Judge {
    fn is_fair(&self) -> bool {
        self.fair.get() && self.adversary.is_fair()
    }

    fn expect(&self, what: &str, outcome: Result<&[u8], &Error>, expected: &[i64]) {
        if !self.is_fair() {
            return;
        }
        match outcome {
            Ok(bytes) => assert_eq!(peer::read_ints(bytes), expected, "{what}"),
            Err(error) => {
                let refusals = [
                    ErrorKind::QueueFull,
                    ErrorKind::ServerBusy,
                    ErrorKind::MessageRefused,
                    ErrorKind::MessageTooLarge,
                ];
                let refused = refusals.iter().any(|kind| error.kind() == *kind);
                assert!(self.tight && refused, "{what}: {error}");
            }
        }
    }
}

impl Game {
    fn judge(&self) -> Judge {
        Judge {
            fair: self.fair.clone(),
            adversary: self.adversary.clone(),
            tight: self.tight,
        }
    }

    /// The session of that side, and who plays there. The server's plays when it has heard hello: before that neither
    /// knows what the other understands.
    fn side(&self, side: u8) -> (Session, Rc<Player>) {
        if side & 1 == 1
            && let Some(session) = self.adversary.server_session()
            && session.peer_is_yue()
        {
            return (session, self.players[1].clone());
        }
        (self.client.clone(), self.players[0].clone())
    }

    fn act(&self, mut script: Script) {
        while !script.has_ended() {
            let action = script.byte();
            let (session, player) = self.side(action >> 7);
            let argument = i64::from(script.byte());
            let calls = |method, values, expected| self.call(&session, method, values, expected);
            match action & 0x1f {
                0 => calls("sum", vec![argument, 1], vec![argument + 1]),
                1 => {
                    let values: Vec<i64> = (0..argument % 40).collect();
                    let expected = self.several(values.clone());
                    self.call_for(&session, "echo", values, expected);
                }
                2 => calls("nap", vec![argument], vec![argument]),
                3 => calls("ask", vec![argument, 2], vec![argument + 2]),
                4 => self.call_in_vain(
                    &session,
                    "hang",
                    Timeout::After(Duration::from_millis(argument as u64)),
                ),
                5 => drop(session.notify("note", player.next_note())),
                6 => {
                    let values = vec![argument * 64];
                    let expected = self.several(values.clone());
                    self.call_for(&session, "big", values, expected);
                }
                7 => self.call_with_much(&session, argument as usize * 64),
                8 if !self.legacy => self.call_with_function(&session, &player, argument),
                9 => self.call_and_cancel(&session, argument),
                10 => self.call_async_and_cancel(&session, argument),
                11 => self.call_in_vain(
                    &session,
                    ["fail", "nothing", "$yue/x", "_p"][argument as usize % 4],
                    LONG,
                ),
                12 => pause(argument as u64),
                13 => pause(0),
                // In vain the callers may wait until the sessions are closed.
                14 if self.judge().is_fair() => self.callers.take().into_iter().for_each(join),
                14 => pause(1000),
                15 => {
                    self.fair.set(false);
                    session.close_because("the game has ended");
                }
                16 => self.mark(&session, &player),
                17 => (0..argument % 64).for_each(|n| calls("sum", vec![n], vec![n])),
                18 => (0..argument % 64).for_each(|_| self.mark(&session, &player)),
                _ => pause(0),
            }
        }
    }

    /// Several results, as they arrive; a plain peer gets them as an array.
    fn several(&self, values: Vec<i64>) -> Option<Vec<i64>> {
        (!self.legacy).then_some(values)
    }

    fn start(&self, caller: impl FnOnce() + 'static) {
        self.callers.borrow_mut().push(spawn(caller));
    }

    fn call(&self, session: &Session, method: &'static str, values: Vec<i64>, expected: Vec<i64>) {
        self.call_for(session, method, values, Some(expected));
    }

    fn call_for(
        &self,
        session: &Session,
        method: &'static str,
        values: Vec<i64>,
        expected: Option<Vec<i64>>,
    ) {
        let (session, judge) = (session.clone(), self.judge());
        self.start(move || {
            let outcome = session.call(method, LONG, ints(&values));
            if let Some(expected) = expected {
                judge.expect(method, outcome.as_ref().map(Response::bytes), &expected);
            }
        });
    }

    /// A call that gets an error, if it gets anything.
    fn call_in_vain(&self, session: &Session, method: &'static str, timeout: Timeout) {
        let (session, judge) = (session.clone(), self.judge());
        self.start(move || {
            let outcome = session.call(method, timeout, ints(&[]));
            assert!(
                outcome.is_err() || !judge.is_fair(),
                "{method} was answered"
            );
        });
    }

    fn call_with_much(&self, session: &Session, length: usize) {
        let (session, judge) = (session.clone(), self.judge());
        self.start(move || {
            let outcome = session.call("length", LONG, |out| {
                encode::str_or_bin(out, &vec![0xfe; length]);
                Ok(1)
            });
            judge.expect(
                "length",
                outcome.as_ref().map(Response::bytes),
                &[length as i64],
            );
        });
    }

    /// A numbered call: they must start in the order of their numbers.
    fn mark(&self, session: &Session, player: &Rc<Player>) {
        let (session, judge, note) = (session.clone(), self.judge(), player.next_note());
        self.start(move || {
            let outcome = session.call("note", LONG, note);
            judge.expect("note", outcome.as_ref().map(Response::bytes), &[]);
        });
    }

    /// Passes a function, which the peer calls and then releases.
    fn call_with_function(&self, session: &Session, player: &Rc<Player>, argument: i64) {
        let (session, player, judge) = (session.clone(), player.clone(), self.judge());
        self.start(move || {
            let exporter = session.clone();
            let outcome = session.call("call_me", LONG, |out| {
                encode_function(out, player.export(&exporter)?);
                encode::int(out, argument);
                Ok(2)
            });
            judge.expect(
                "call_me",
                outcome.as_ref().map(Response::bytes),
                &[2 * argument],
            );
        });
    }

    fn call_and_cancel(&self, session: &Session, after_ms: i64) {
        let session = session.clone();
        let caller = spawn(move || drop(session.call("hang", LONG, ints(&[]))));
        self.start(move || {
            pause(after_ms as u64);
            caller.cancel();
            join(caller);
        });
    }

    fn call_async_and_cancel(&self, session: &Session, after_ms: i64) {
        let outcomes = Rc::new(Cell::new(0));
        let count = outcomes.clone();
        let done = move |_| count.set(count.get() + 1);
        let Ok(id) = session.call_async("nap", LONG, ints(&[after_ms]), done) else {
            return;
        };
        let session = session.clone();
        self.start(move || {
            pause(after_ms as u64);
            let cancelled = session.cancel_call(id);
            assert!(
                !cancelled || outcomes.get() == 1,
                "its outcome is reported at once"
            );
            eventually("the outcome is reported", || {
                outcomes.get() > 0 || !session.has_ended()
            });
            assert!(outcomes.get() <= 1, "its outcome is reported once");
        });
    }

    /// Ends the sessions and checks that nothing of them is left.
    fn end(&self, listener: &MemoryListener) {
        if self.judge().is_fair() {
            self.callers.take().into_iter().for_each(join);
        }
        if self.judge().is_fair() {
            let sides = [self.side(0).0, self.side(1).0];
            eventually("the functions are released", || {
                sides.iter().all(|side| side.references_held() == 0)
            });
            let malformed = sides.iter().map(|side| side.stats().refused_malformed);
            assert_eq!(malformed.sum::<u64>(), 0);
            assert!(self.client.stats().links <= 1, "one link is enough");
            for player in &self.players {
                player.check_order();
            }
        }
        self.fair.set(false);
        self.client.close();
        self.callers.take().into_iter().for_each(join);
        eventually("the client's session has ended", || self.client.has_ended());
        // Without its client, a session of the server ends when it learns of that.
        self.adversary.cut();
        let others = || listener.sessions().into_iter().skip(1);
        eventually("the server's sessions have ended", || {
            others().all(|session| session.has_ended())
        });
        eventually("the handlers have ended", || {
            let requests: usize = others().map(|session| session.requests_in_flight()).sum();
            requests + self.client.requests_in_flight() == 0
        });
        let sessions = || others().chain([self.client.clone()]);
        assert_eq!(
            sessions()
                .map(|session| session.calls_in_flight())
                .sum::<usize>(),
            0
        );
        assert_eq!(
            sessions()
                .map(|session| session.references_held())
                .sum::<usize>(),
            0
        );
        for player in &self.players {
            player.check_released();
        }
    }
}

/// Lets other fibers run for that time. A fiber that is cancelled continues at once.
fn pause(ms: u64) {
    let _ = sleep(Duration::from_millis(ms));
}

fn join(fiber: JoinHandle<()>) {
    // A caller that was cancelled on purpose is joined by the one who did it, and ends by itself.
    fiber.join().expect("a caller ends, and without a panic");
}

/// Encodes the numbers.
fn ints(values: &[i64]) -> impl FnOnce(&mut Vec<u8>) -> Result<u32, Error> {
    let values = values.to_vec();
    move |out| {
        values.iter().for_each(|value| encode::int(out, *value));
        Ok(values.len() as u32)
    }
}

/// Appends a function of the sender.
fn encode_function(out: &mut Vec<u8>, id: u64) {
    let owner = Owner::Sender;
    out.extend_from_slice(&Reference { owner, id }.to_bytes());
}

/// Waits for a condition, in virtual time.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let limit = now().saturating_add(END);
    let mut pause = Duration::from_micros(2);
    while !condition() {
        assert!(now() < limit, "this never came true: {what}");
        sleep(pause).expect("nobody stops the main fiber");
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// Calls the peer's function behind an id, twice, and then releases it.
fn use_function(
    session: &Session,
    link: yue_rpc::session::LinkNumber,
    id: u64,
    argument: i64,
) -> Result<i64, Error> {
    let function = session.import_reference(id, link);
    let half = |values: &[i64]| {
        let answer = session.call(Target::Reference(&function), Timeout::Default, ints(values))?;
        Ok(peer::read_ints(answer.bytes())
            .first()
            .copied()
            .unwrap_or(0))
    };
    let outcome = half(&[argument]).and_then(|first| Ok(first.wrapping_add(half(&[argument])?)));
    session.release_reference(&function, 1);
    outcome
}

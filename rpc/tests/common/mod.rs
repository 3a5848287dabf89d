//! Common parts of the session tests: a server and its clients over each transport, and a service of small methods.
#![allow(dead_code)]

pub mod behaviours;
pub mod http;
pub mod raw;
pub mod tls;
#[cfg(feature = "ws")]
pub mod websocket;

pub use tls::{bind, connector};

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use yue_rpc::proto::encode;
use yue_rpc::proto::value::Reader;
use yue_rpc::session::{Call, CallMethod, Replied, Reply, Response, Service, Session, peer};
use yue_rpc::{
    Address, CloseReason, Error, ErrorKind, Failure, Hooks, Limits, Listener, MemoryListener,
    Moment, Options, Retry, Timeout, Verdict,
};
use yue_scheduler::{Config, Instant, Loop, StopReport, now, sleep};

/// The transport of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Memory,
    /// Memory, byte by byte.
    Bytes,
    Tcp,
    Tls,
    Unix,
    Thread,
    Ws,
    Wss,
    Udp,
}

pub const ALL: &[Kind] = &[
    Kind::Memory,
    Kind::Bytes,
    Kind::Tcp,
    Kind::Tls,
    Kind::Unix,
    Kind::Thread,
    #[cfg(feature = "ws")]
    Kind::Ws,
    #[cfg(all(feature = "ws", feature = "tls"))]
    Kind::Wss,
    Kind::Udp,
];

/// A server over one of the transports.
pub enum Server {
    MemoryListener(Rc<MemoryListener>),
    Listener(Listener),
}

/// Runs a test's body as the main fiber of a loop with I/O.
pub fn run_loop(body: impl FnOnce() + 'static) {
    let driver = yue_io::driver(yue_io::Choice::Auto).unwrap();
    let config = Config {
        driver,
        ..Config::default()
    };
    let ((), report): ((), StopReport) = Loop::new(config).unwrap().run_reported(body);
    assert_eq!(report, StopReport::default());
}

/// Runs a test over each transport that `behaviours.rs` has for it, each in its own loop.
pub fn over_each<F: Fn(Kind) + Copy + 'static>(test: F) {
    // A closure's type is named after the function it stands in: "conformance::a_call_gets_its_answer::{{closure}}".
    let name = std::any::type_name::<F>();
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    let behaviour = behaviours::of_test(name).unwrap_or_else(|| {
        panic!("{name} is not in common/behaviours.rs: add it, with a description for the book")
    });
    for &kind in ALL {
        if behaviour.fault_over(kind).is_none() {
            run_loop(move || test(kind));
        }
    }
}

pub fn serve(kind: Kind, service: Service, options: Options) -> Server {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let address = match kind {
        Kind::Memory => return Server::MemoryListener(MemoryListener::new(service, options)),
        Kind::Bytes => {
            let listener = MemoryListener::new(service, options);
            listener.cut_into_pieces_of(1);
            return Server::MemoryListener(listener);
        }
        Kind::Tcp => "tcp://127.0.0.1:0".to_owned(),
        Kind::Tls => "tls://127.0.0.1:0".to_owned(),
        Kind::Unix => {
            let path =
                std::env::temp_dir().join(format!("yue-rpc-{}-{number}", std::process::id()));
            format!("unix://{}", path.display())
        }
        Kind::Thread => format!("thread://test-{number}"),
        Kind::Udp => "udp://127.0.0.1:0".to_owned(),
        Kind::Ws => "ws://127.0.0.1:0/rpc".to_owned(),
        Kind::Wss => "wss://127.0.0.1:0/rpc".to_owned(),
    };
    let address: Address = address.parse().unwrap();
    Server::Listener(bind(&address, service, options).unwrap())
}

impl Server {
    pub fn open(&self, service: Service, options: Options) -> Session {
        match self {
            Server::MemoryListener(listener) => Session::open(listener.clone(), service, options),
            Server::Listener(listener) => {
                Session::open(connector(listener.address()), service, options)
            }
        }
    }

    pub fn client(&self) -> Session {
        self.open(methods(), Options::default())
    }

    /// Sessions that have not been closed.
    pub fn sessions(&self) -> Vec<Session> {
        match self {
            Server::MemoryListener(listener) => listener
                .sessions()
                .into_iter()
                .filter(|session| !session.is_closed())
                .collect(),
            Server::Listener(listener) => listener.connections(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Server::Listener(listener) = self {
            listener.close();
            if let Address::Unix { path } = listener.address() {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// The default options with other limits.
pub fn limited(limits: Limits) -> Options {
    Options {
        limits,
        ..Options::default()
    }
}

/// Waits for a condition, generously.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let limit = now().saturating_add(Duration::from_secs(20));
    while !condition() {
        assert!(now() < limit, "this never came true: {what}");
        sleep(Duration::from_millis(1)).unwrap();
    }
}

pub fn ints(values: &[i64]) -> impl FnOnce(&mut Vec<u8>) -> Result<u32, Error> {
    let values = values.to_vec();
    move |out| {
        values.iter().for_each(|value| encode::int(out, *value));
        Ok(values.len() as u32)
    }
}

pub fn read_ints(bytes: &[u8]) -> Vec<i64> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(|| reader.read_int()).collect()
}

pub fn call(session: &Session, method: &str, values: &[i64]) -> Result<Vec<i64>, Error> {
    let response: Response = session.call(method, Timeout::Default, ints(values))?;
    let values = read_ints(response.bytes());
    assert_eq!(values.len() as u32, response.count());
    Ok(values)
}

/// A service with one method for each thing that the tests need.
pub fn methods() -> Service {
    Service::new(Rc::new(serve_method))
}

fn serve_method(call: &mut Call, reply: Reply) -> Replied {
    let CallMethod::Name(name) = call.method() else {
        return reply.no_method(call);
    };
    let name = String::from_utf8_lossy(name).into_owned();
    let values = read_ints(call.params().bytes);
    match name.as_str() {
        "sum" | "math.sum" => reply.results(ints(&[values.iter().sum()])),
        "echo" => reply.results(ints(&values)),
        "bytes" => reply.results(|out| {
            out.extend_from_slice(call.params().bytes);
            Ok(call.params().count)
        }),
        "big" => {
            let length = values[0] as usize;
            reply.results(move |out| {
                encode::str_or_bin(out, &vec![0xff; length]);
                Ok(1)
            })
        }
        "nap" => {
            call.release_params();
            match sleep(Duration::from_millis(values[0] as u64)) {
                Ok(()) => reply.results(ints(&values)),
                Err(stopped) => reply.fail(&Failure::from(stopped)),
            }
        }
        // Asks the caller for a number, in mid-call, and adds it.
        "ask" | "nap_and_ask" => {
            if name == "nap_and_ask" {
                let _ = sleep(Duration::from_millis(200));
            }
            match peer()
                .ok_or_else(|| Error::new(ErrorKind::Rpc, "no peer"))
                .and_then(|p| self::call(&p, "sum", &values))
            {
                Ok(answer) => reply.results(ints(&answer)),
                Err(error) => reply.fail(&Failure::from(error)),
            }
        }
        "time_left" => {
            let left = yue_scheduler::time_left(call.deadline());
            let ms = if call.deadline() == Instant::NEVER {
                -1
            } else {
                left.as_millis() as i64
            };
            reply.results(ints(&[ms]))
        }
        "fail" => reply.fail(&Failure::new("it went wrong")),
        "panic" => panic!("oh no"),
        "unencodable" => reply.results(|out| {
            out.push(1);
            Err(Error::new(
                ErrorKind::Argument,
                "results[1]: cannot be sent",
            ))
        }),
        _ => reply.no_method(call),
    }
}

/// A thread that serves until its loop is shut down.
pub fn worker(
    address: &str,
) -> (
    std::thread::JoinHandle<()>,
    yue_scheduler::LoopHandle,
    Address,
) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let address: Address = address.parse().unwrap();
    let worker = std::thread::spawn(move || {
        run_loop(move || {
            let listener = bind(&address, methods(), Options::default()).unwrap();
            sender
                .send((
                    yue_scheduler::this_loop::handle(),
                    listener.address().clone(),
                ))
                .unwrap();
            yue_scheduler::this_loop::wait_for_shutdown().unwrap();
            listener.close();
            listener.close_connections();
            eventually("all are closed", || listener.connections().is_empty());
        });
    });
    let (handle, address) = receiver.recv().unwrap();
    (worker, handle, address)
}

pub type Accept = Box<dyn Fn(&Session, Option<&[u8]>) -> Verdict>;
pub type Open = Box<dyn Fn(&Session) -> Result<(), Failure>>;
pub type Close = Box<dyn Fn(&Session, &CloseReason) -> Retry>;
pub type Notice = Box<dyn Fn(&Session)>;

/// Hooks that call closures.
#[derive(Default)]
pub struct TestHooks {
    pub accept: Option<Accept>,
    pub open: Option<Open>,
    pub close: Option<Close>,
    pub timeout: Option<Notice>,
    pub full: Option<Notice>,
    pub room: Option<Notice>,
}

impl Hooks for TestHooks {
    fn wants(&self, moment: Moment) -> bool {
        match moment {
            Moment::Open => self.open.is_some(),
            Moment::Accept => self.accept.is_some(),
            Moment::Close => self.close.is_some(),
            Moment::Timeout => self.timeout.is_some(),
            Moment::Full => self.full.is_some(),
            Moment::Room => self.room.is_some(),
        }
    }

    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        self.open.as_ref().map_or(Ok(()), |open| open(session))
    }

    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        self.accept
            .as_ref()
            .map_or(Verdict::granted(), |accept| accept(session, granted))
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) -> Retry {
        self.close
            .as_ref()
            .map_or_else(Default::default, |close| close(session, reason))
    }

    fn on_timeout(&self, session: &Session) {
        if let Some(timeout) = &self.timeout {
            timeout(session);
        }
    }

    fn on_full(&self, session: &Session) {
        if let Some(full) = &self.full {
            full(session);
        }
    }

    fn on_room(&self, session: &Session) {
        if let Some(room) = &self.room {
            room(session);
        }
    }
}

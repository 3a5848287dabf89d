//! Every call that waits, stopped in every possible way: a cancel, a scope's cancel, deadlines alone and nested, a
//! timeout, a timeout within a shield, the end of the loop. Run on both drivers by `YUE_IO`.

use std::cell::RefCell;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use yue::fs::{File, TempDir};
use yue::inotify::{Events, Watcher};
use yue::net::{ListenOptions, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream};
use yue::process::{Command, Stdio};
use yue::scheduler::{now, park_until, prepare_park, this_loop};
use yue::sync::RecvError;
use yue::{
    CancelScope, Elapsed, JoinSet, Runtime, Stopped, block_on, blocking, scope, select, shield,
    sleep, spawn, timeout, wait_for_shutdown, with_deadline, yield_now,
};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(3);

/// A call that would wait forever.
type Call = fn() -> io::Result<()>;

/// Calls that wait for other fibers, for one of the two lock policies.
macro_rules! waits {
    ($($sync:ident)::+) => {{
        use yue::$($sync)::+::*;
        &[
            ("lock", || {
                let mutex = Mutex::new(());
                let _held = mutex.lock()?;
                Ok(drop(mutex.lock()?))
            }),
            ("read lock", || {
                let lock = RwLock::new(());
                let _held = lock.write()?;
                Ok(drop(lock.read()?))
            }),
            ("write lock", || {
                let lock = RwLock::new(());
                let _held = lock.read()?;
                Ok(drop(lock.write()?))
            }),
            ("condition", || {
                let mutex = Mutex::new(());
                let waited = Condvar::new().wait(mutex.lock()?).map(drop);
                waited.map_err(|error| error.stopped.into())
            }),
            ("semaphore", || Ok(drop(Semaphore::new(0).acquire(1)?))),
            ("barrier", || Ok(Barrier::new(2).wait().map(|_| ())?)),
            ("notification", || Ok(Notify::new().notified()?)),
            ("receive", || {
                let (_sender, receiver) = channel::<()>(1);
                received(receiver.recv())
            }),
            ("receive, unbounded", || {
                let (_sender, receiver) = unbounded::<()>();
                received(receiver.recv())
            }),
            ("send", || {
                let (sender, _receiver) = channel(1);
                loop {
                    match sender.send(()) {
                        Ok(()) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }),
            ("oneshot", || {
                let (_sender, receiver) = oneshot::<()>();
                received(receiver.recv())
            }),
            ("select", || {
                let (_sender, receiver) = channel::<()>(1);
                let notify = Notify::new();
                Ok(select! {
                    _ = recv(receiver) => (),
                    _ = notified(notify) => (),
                    _ = after(LONG) => (),
                }?)
            }),
        ]
    }};
}

fn received(outcome: Result<(), RecvError>) -> io::Result<()> {
    outcome.map_err(io::Error::from)
}

const OF_ONE_LOOP: &[(&str, Call)] = waits!(sync::local);
const BETWEEN_LOOPS: &[(&str, Call)] = waits!(sync);

fn calls() -> impl Iterator<Item = &'static (&'static str, Call)> {
    CALLS.iter().chain(OF_ONE_LOOP).chain(BETWEEN_LOOPS)
}

const CALLS: &[(&str, Call)] = &[
    ("sleep", || Ok(sleep(LONG)?)),
    ("yield", || {
        loop {
            yield_now()?;
        }
    }),
    ("park", || {
        let _ = prepare_park();
        park_until("forever", None)?;
        Ok(())
    }),
    ("join", || {
        let mut child = spawn(|| sleep(LONG));
        let waited = child.wait();
        assert!(child.cancel_and_join().unwrap().is_err());
        Ok(waited?)
    }),
    ("join of another loop", || {
        let mut child = this_loop::handle().spawn(|| sleep(LONG));
        let waited = child.wait();
        assert!(child.cancel_and_join().unwrap().is_err());
        Ok(waited?)
    }),
    ("join set", || {
        let mut set = JoinSet::new();
        set.spawn(|| sleep(LONG));
        let waited = set.join_next().map(drop);
        set.cancel_and_join();
        Ok(waited?)
    }),
    ("scope", || {
        let outcome = scope(|s| s.spawn(|| sleep(LONG)).join());
        outcome??;
        Ok(())
    }),
    ("wait_for_shutdown", || Ok(wait_for_shutdown()?)),
    ("blocking", || {
        let over = Arc::new(AtomicBool::new(false));
        let end = over.clone();
        let waited = blocking(move || {
            while !end.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        over.store(true, Ordering::SeqCst);
        Ok(waited?)
    }),
    ("block_on", || Ok(block_on(std::future::pending::<()>())?)),
    ("accept", || {
        TcpListener::bind("127.0.0.1:0")?.accept().map(drop)
    }),
    ("read", || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        stream.read(&mut [0; 8]).map(drop)
    }),
    ("receive a datagram", || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.recv_from(&mut [0; 8]).map(drop)
    }),
    ("receive a datagram of Unix", || {
        let (socket, _other) = UnixDatagram::pair()?;
        socket.recv(&mut [0; 8]).map(drop)
    }),
    ("connect", || {
        let options = ListenOptions {
            backlog: 1,
            ..ListenOptions::default()
        };
        // Nobody accepts: when as many wait as may, the kernel lets further ones wait for an answer.
        let listener = TcpListener::bind_with("127.0.0.1:0", &options)?;
        let mut connected = Vec::new();
        loop {
            connected.push(TcpStream::connect(listener.local_addr()?)?);
        }
    }),
    ("write", || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        loop {
            stream.write_all(&[0; 1 << 16])?;
        }
    }),
    ("read a pipe", || {
        let (mut reader, _writer) = yue::pipe::pipe()?;
        reader.read(&mut [0; 8]).map(drop)
    }),
    ("wait until readable", || {
        let (stream, _other) = UnixStream::pair()?;
        stream.readable()
    }),
    ("wait until writable", || {
        let (_reader, mut writer) = yue::pipe::pipe()?;
        loop {
            writer.writable()?;
            writer.write_all(&[0; 4096])?;
        }
    }),
    ("select over readiness", || {
        let (stream, _other) = UnixStream::pair()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let (reader, _writer) = yue::pipe::pipe()?;
        select! {
            ready = readable(stream) => ready,
            ready = readable(listener) => ready,
            ready = readable(socket) => ready,
            ready = readable(reader) => ready,
        }?
    }),
    ("write a file", || {
        let place = TempDir::new()?;
        let mut file = File::create(place.path().join("file"))?;
        loop {
            file.write_all(b"again")?;
            file.seek(SeekFrom::Start(0))?;
        }
    }),
    ("read a file", || {
        let mut file = File::open(FILE)?;
        loop {
            file.read_to_end(&mut Vec::new())?;
            file.seek(SeekFrom::Start(0))?;
        }
    }),
    ("open a file", || {
        loop {
            File::open(FILE)?;
        }
    }),
    ("sync a file", || {
        let place = TempDir::new()?;
        let file = File::create(place.path().join("file"))?;
        loop {
            file.sync_data()?;
        }
    }),
    ("look at a file", || {
        loop {
            yue::fs::metadata(FILE)?;
        }
    }),
    ("list a directory", || {
        loop {
            for entry in yue::fs::read_dir(env!("CARGO_MANIFEST_DIR"))? {
                entry?;
            }
        }
    }),
    ("wait for a child", || {
        let mut child = sleeper().spawn()?;
        child.wait().map(drop)
    }),
    ("read from a child", || {
        let mut child = sleeper().stdout(Stdio::piped()).spawn()?;
        child.stdout.take().unwrap().read(&mut [0; 8]).map(drop)
    }),
    ("wait for a child's output", || sleeper().output().map(drop)),
    ("watch a file", || {
        let watcher = Watcher::new()?;
        watcher.add(env!("CARGO_MANIFEST_DIR"), Events::SELF_REMOVED)?;
        watcher.next().map(drop)
    }),
];

/// A file that is there.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// A child that runs for long, unless it is dropped.
fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("3600").kill_on_drop(true);
    command
}

/// The reason with which the call stopped.
fn reason(outcome: io::Result<()>) -> Option<Stopped> {
    let error = outcome.err()?;
    let inner = error.get_ref();
    inner
        .and_then(|inner| inner.downcast_ref::<Stopped>())
        .copied()
}

fn each(way: &str, expected: Stopped, stop: impl Fn(Call) -> io::Result<()> + 'static) {
    let way = way.to_owned();
    let runtime = Runtime::new().unwrap();
    let ((), report) = runtime.run_reported(move || {
        for (name, call) in calls() {
            let outcome = stop(*call);
            let said = format!("{outcome:?}");
            assert_eq!(reason(outcome), Some(expected), "{name}, {way}: {said}");
            // Nothing is left of it.
            while this_loop::counters().fibers > 1 || this_loop::counters().operations > 0 {
                sleep(Duration::from_millis(1)).unwrap();
            }
            assert_eq!(this_loop::counters().timers, 0, "{name}, {way}");
        }
    });
    assert_eq!(report.fibers_abandoned + report.operations_left, 0);
}

fn soon() -> yue::scheduler::Instant {
    now().saturating_add(SHORT)
}

fn late() -> yue::scheduler::Instant {
    now().saturating_add(LONG)
}

#[test]
fn a_cancel_reaches_every_call() {
    each("cancelled while it waits", Stopped::Cancelled, |call| {
        let fiber = spawn(call);
        sleep(SHORT).unwrap();
        assert!(!fiber.is_done());
        fiber.cancel_and_join().unwrap()
    });
    each("cancelled before", Stopped::Cancelled, |call| {
        spawn(call).cancel_and_join().unwrap()
    });
    each("cancelled with its scope", Stopped::Cancelled, |call| {
        let scope = CancelScope::new();
        let inner = scope.clone();
        let fiber = spawn(move || inner.enter(call));
        sleep(SHORT).unwrap();
        scope.cancel();
        fiber.join().unwrap()
    });
}

#[test]
fn a_deadline_reaches_every_call() {
    each("a deadline", Stopped::Deadline, |call| {
        with_deadline(soon(), call)
    });
    each("an outer deadline", Stopped::Deadline, |call| {
        with_deadline(soon(), || with_deadline(late(), call))
    });
    each("an inner deadline", Stopped::Deadline, |call| {
        with_deadline(late(), || with_deadline(soon(), call))
    });
    each("a timeout", Stopped::Deadline, |call| {
        let outcome = RefCell::new(Ok(()));
        let elapsed = timeout(SHORT, || outcome.replace(call()));
        assert!(matches!(elapsed, Err(Elapsed)));
        outcome.into_inner()
    });
    each("a timeout in a shield", Stopped::Deadline, |call| {
        let fiber = spawn(move || {
            assert_eq!(sleep(LONG), Err(Stopped::Cancelled));
            shield(|| with_deadline(soon(), call))
        });
        sleep(SHORT).unwrap();
        fiber.cancel_and_join().unwrap()
    });
}

#[test]
fn the_end_of_the_loop_reaches_every_call() {
    for shielded in [false, true] {
        let said: Rc<RefCell<Vec<_>>> = Rc::default();
        let log = said.clone();
        let runtime = Runtime::builder().stop_grace(Duration::from_secs(30));
        let runtime = if shielded {
            // Shields end at the hard stop.
            runtime.stop_grace(Duration::from_millis(300))
        } else {
            runtime
        };
        // Their children are not shielded, so the end of the loop gives them what they wait for.
        let concerned = move |name: &str| !(shielded && name.starts_with("join"));
        let ((), report) = runtime.build().unwrap().run_reported(move || {
            for (name, call) in calls().filter(|(name, _)| concerned(name)) {
                let log = log.clone();
                drop(spawn(move || {
                    let outcome = if shielded { shield(call) } else { call() };
                    log.borrow_mut().push((*name, reason(outcome)));
                }));
            }
            sleep(SHORT).unwrap();
        });
        // A closure that was left may take a moment to see that it may end.
        assert_eq!(report.fibers_abandoned + report.operations_left, 0);
        let count = calls().filter(|(name, _)| concerned(name)).count();
        assert_eq!(said.borrow().len(), count);
        for (name, reason) in said.take() {
            // The end is what that one waits for.
            let expected = (name != "wait_for_shutdown").then_some(Stopped::Cancelled);
            assert_eq!(reason, expected, "{name}");
        }
    }
}

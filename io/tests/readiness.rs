//! `select!` over readiness, and plain waits for readiness, on both drivers.

mod common;

use common::*;
use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use yue_io::ReadinessBranch;
use yue_io::net::{
    Shutdown, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream,
};
use yue_io::pipe::pipe;
use yue_scheduler::sync::select::{self, AnyBranch};
use yue_scheduler::sync::{channel, local};
use yue_scheduler::*;

const SHORT: Duration = Duration::from_millis(2);

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
}

/// Waits for the branch for at most `moment`. Returns whether it became ready.
fn becomes_ready(branch: ReadinessBranch<'_>, moment: Duration) -> bool {
    let outcome = select! {
        ready = branch => { ready.unwrap(); true },
        _ = after(moment) => false,
    };
    outcome.unwrap()
}

/// Checks a source that is not readable yet: a timer wins, then `bring` makes it readable, and it stays readable.
fn becomes_readable(branch: &dyn Fn() -> ReadinessBranch<'static>, bring: impl FnOnce() + 'static) {
    assert!(!becomes_ready(branch(), SHORT));
    wait_until(|| operations() == 0);
    let fiber = spawn(move || {
        wait_until(|| operations() == 1);
        bring();
    });
    assert!(becomes_ready(branch(), LONG));
    fiber.join().unwrap();
    // While it is readable, the branch is ready at once.
    assert!(becomes_ready(branch(), LONG));
    wait_until(|| operations() == 0);
    assert_eq!(this_loop::counters().timers, 0);
}

/// Leaks a value for the duration of the test.
fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Takes a leaked value back and drops it, which closes it.
fn close<T>(value: &'static T) {
    // SAFETY: created by `kept`, and no longer used.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(value).cast_mut()) });
}

#[test]
fn streams_and_pipes_become_readable_and_lose_no_byte() {
    on_each_driver(|| {
        let (here, mut there) = tcp_pair();
        let here = kept(here);
        becomes_readable(&|| here.readable_branch(), move || {
            there.write_all(b"through").unwrap();
        });
        let mut bytes = [0; 7];
        (&*here).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"through");
        close(here);

        let (here, mut there) = UnixStream::pair().unwrap();
        let here = kept(here);
        becomes_readable(&|| here.readable_branch(), move || {
            there.write_all(b"through").unwrap();
        });
        (&*here).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"through");
        close(here);

        let (reader, mut writer) = pipe().unwrap();
        let reader = kept(reader);
        becomes_readable(&|| reader.readable_branch(), move || {
            writer.write_all(b"through").unwrap();
        });
        (&*reader).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"through");
        close(reader);
    });
}

#[test]
fn listeners_become_readable_when_a_connection_waits() {
    on_each_driver(|| {
        let listener = kept(TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        becomes_readable(&|| listener.readable_branch(), move || {
            drop(std::net::TcpStream::connect(address).unwrap());
        });
        listener.accept().unwrap();
        assert!(!becomes_ready(listener.readable_branch(), SHORT));
        close(listener);

        let dir = yue_io::fs::TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let listener = kept(UnixListener::bind(&path).unwrap());
        becomes_readable(&|| listener.readable_branch(), move || {
            drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
        });
        listener.accept().unwrap();
        close(listener);
    });
}

#[test]
fn datagram_sockets_become_readable() {
    on_each_driver(|| {
        let socket = kept(UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap();
        becomes_readable(&|| socket.readable_branch(), move || {
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            other.send_to(b"ping", address).unwrap();
        });
        assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 4);
        assert!(!becomes_ready(socket.readable_branch(), SHORT));
        assert!(becomes_ready(socket.writable_branch(), LONG));
        close(socket);

        let (socket, other) = UnixDatagram::pair().unwrap();
        let socket = kept(socket);
        becomes_readable(&|| socket.readable_branch(), move || {
            other.send(b"ping").unwrap();
        });
        assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 4);
        close(socket);
    });
}

/// Writes until there is no more room.
fn fill(mut writer: impl Write) -> usize {
    let mut count = 0;
    while let Ok(Ok(more)) = timeout(Duration::from_millis(20), || writer.write(&[7; 4096])) {
        count += more;
    }
    count
}

#[test]
fn a_full_stream_becomes_writable_when_its_peer_reads() {
    on_each_driver(|| {
        let (here, there) = UnixStream::pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        let (one, other) = tcp_pair();
        for (from, to, branch) in [
            (
                &there as &dyn ReadRef,
                &here as &dyn WriteRef,
                here.writable_branch(),
            ),
            (&reader, &writer, writer.writable_branch()),
            (&other, &one, one.writable_branch()),
        ] {
            let mut left = fill(to.writes());
            assert!(left > 4096);
            let empties = || {
                let mut buffer = [0; 65536];
                while left > 0 {
                    left -= from.reads().read(&mut buffer).unwrap();
                }
            };
            assert_eq!(select::wait(&[&branch, &select::after(SHORT)]), Ok(1));
            scope(|s| {
                s.spawn(empties);
                assert_eq!(select::wait(&[&branch, &select::after(LONG)]), Ok(0));
            });
        }
        drop((here, reader, one));
        wait_until(|| operations() == 0);
    });
}

/// A reader that can be used through a shared reference.
trait ReadRef {
    fn reads(&self) -> Box<dyn Read + '_>;
}

/// A writer that can be used through a shared reference.
trait WriteRef {
    fn writes(&self) -> Box<dyn Write + '_>;
}

impl<T> ReadRef for T
where
    for<'a> &'a T: Read,
{
    fn reads(&self) -> Box<dyn Read + '_> {
        Box::new(self)
    }
}

impl<T> WriteRef for T
where
    for<'a> &'a T: Write,
{
    fn writes(&self) -> Box<dyn Write + '_> {
        Box::new(self)
    }
}

#[test]
fn a_channel_that_wins_leaves_every_byte() {
    on_each_driver(|| {
        let (mut here, mut there) = tcp_pair();
        let (sender, receiver) = local::channel(1);
        drop(spawn(move || {
            wait_until(|| operations() == 1);
            // Both become ready in one turn.
            sender.send("message").unwrap();
            there.write_all(b"and bytes").unwrap();
        }));
        let mut got = Vec::new();
        while got.len() < 2 {
            select! {
                message = recv(receiver) if !got.contains(&"message") => got.push(message.unwrap()),
                ready = readable(here) => {
                    ready.unwrap();
                    got.push("bytes");
                    let mut bytes = [0; 9];
                    here.read_exact(&mut bytes).unwrap();
                    assert_eq!(&bytes, b"and bytes");
                },
            }
            .unwrap();
        }
        got.sort_unstable();
        assert_eq!(got, ["bytes", "message"]);
    });
}

#[test]
fn a_closed_peer_makes_a_stream_readable_and_writable() {
    on_each_driver(|| {
        let (mut here, there) = UnixStream::pair().unwrap();
        drop(spawn(move || {
            wait_until(|| operations() == 1);
            drop(there);
        }));
        assert!(becomes_ready(here.readable_branch(), LONG));
        assert!(becomes_ready(here.writable_branch(), LONG));
        assert_eq!(here.read(&mut [0; 8]).unwrap(), 0);

        let (reader, mut writer) = pipe().unwrap();
        fill(&writer);
        drop(spawn(move || {
            wait_until(|| operations() == 1);
            drop(reader);
        }));
        assert!(becomes_ready(writer.writable_branch(), LONG));
        assert_eq!(
            writer.write(b"x").unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
    });
}

#[test]
fn a_stream_that_another_fiber_shuts_down_wakes_a_select_over_it() {
    on_each_driver(|| {
        let (here, _there) = tcp_pair();
        let here = Rc::new(here);
        let other = here.clone();
        drop(spawn(move || {
            wait_until(|| operations() == 1);
            other.shutdown(Shutdown::Both).unwrap();
            // Its handle and a clone's are dropped; the waiting fiber's handle keeps the descriptor open.
            drop(other.try_clone().unwrap());
        }));
        assert!(becomes_ready(here.readable_branch(), LONG));
        assert_eq!((&*here).read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn a_dropped_source_of_a_select_is_closed_at_once() {
    on_each_driver(|| {
        for round in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            assert!(!becomes_ready(listener.readable_branch(), SHORT));
            if round % 2 == 0 {
                drop(listener);
            } else {
                drop(listener.into_std().unwrap());
            }
            // The address is free without a turn of the loop.
            drop(TcpListener::bind(address).unwrap());

            let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
            let here = UnixStream::from(here);
            assert!(!becomes_ready(here.readable_branch(), SHORT));
            drop(here);
            there.set_nonblocking(true).unwrap();
            assert_eq!((&there).read(&mut [0; 8]).unwrap(), 0, "end of input");
        }
        wait_until(|| operations() == 0);
    });
}

#[test]
fn a_cancelled_select_takes_nothing_and_leaves_nothing_in_flight() {
    on_each_driver(|| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let here = Rc::new(here);
        let other = here.clone();
        let selects = spawn(move || select! { _ = readable(other) => () });
        let other = here.clone();
        let waits = spawn(move || other.readable());
        wait_until(|| operations() == 2);
        selects.cancel();
        waits.cancel();
        assert_eq!(selects.join().unwrap(), Err(Stopped::Cancelled));
        let error = waits.join().unwrap().unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
        let late = with_deadline(
            now().saturating_add(SHORT),
            || select! { _ = readable(here) => () },
        );
        assert_eq!(late, Err(Stopped::Deadline));
        wait_until(|| operations() == 0);
        there.write_all(b"all").unwrap();
        drop(there);
        assert_eq!(io::read_to_string(&*here).unwrap(), "all");
    });
}

#[test]
fn readable_and_writable_wait_in_fibers_and_threads() {
    on_each_driver(|| {
        let (here, there) = UnixStream::pair().unwrap();
        here.writable().unwrap();
        assert!(timeout(SHORT, || here.readable()).is_err());
        here.set_read_timeout(Some(SHORT)).unwrap();
        assert_eq!(here.readable().unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(
            !becomes_ready(here.readable_branch(), 4 * SHORT),
            "a timeout must not count as readiness"
        );
        here.set_read_timeout(None).unwrap();
        drop(spawn(move || (&there).write_all(b"x").map(|()| there)));
        here.readable().unwrap();
        here.readable().unwrap();
        assert_eq!((&here).read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(operations(), 0);
    });
    let (here, there) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || here.readable().map(|()| here));
    (&there).write_all(b"x").unwrap();
    let here = thread.join().unwrap().unwrap();
    // A plain thread has no loop that could watch.
    (&here).read_exact(&mut [0]).unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        becomes_ready(here.readable_branch(), LONG)
    }));
    let panic = outcome.unwrap_err().downcast::<&str>().unwrap();
    assert!(panic.starts_with("not in a fiber"), "{panic}");
}

#[test]
fn a_loop_without_io_reports_that() {
    let (reader, _writer) = pipe().unwrap();
    let outcome = Loop::new(Config::default())
        .unwrap()
        .run(move || select! { ready = readable(reader) => ready });
    assert_eq!(outcome.unwrap().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_default_arm_is_taken_only_while_nothing_is_ready() {
    on_each_driver(|| {
        let (here, there) = UnixStream::pair().unwrap();
        let ready = || select! { ready = readable(here) => ready.is_ok(), default => false };
        assert_eq!(ready(), Ok(false));
        (&there).write_all(b"x").unwrap();
        assert_eq!(ready(), Ok(true));
        (&here).read_exact(&mut [0]).unwrap();
        assert_eq!(ready(), Ok(false));
        assert_eq!(operations(), 0);
    });
}

#[test]
fn one_ready_branch_of_many_is_found() {
    on_each_driver(|| {
        let pairs: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        for index in (0..200).step_by(17) {
            let branches: Vec<_> = pairs
                .iter()
                .map(|(here, _)| here.readable_branch())
                .collect();
            let any: Vec<_> = branches
                .iter()
                .map(|branch| branch as &dyn AnyBranch)
                .collect();
            let taken = scope(|s| {
                s.spawn(|| {
                    wait_until(|| operations() == 200);
                    (&pairs[index].1).write_all(b"x").unwrap();
                });
                select::wait(&any).unwrap()
            });
            assert_eq!(taken, index);
            drop(branches);
            (&pairs[index].0).read_exact(&mut [0]).unwrap();
        }
        wait_until(|| operations() == 0);
    });
}

#[test]
fn fibers_of_several_loops_waiting_for_one_stream_are_all_woken() {
    on_each_driver(|| {
        let (other_loop, thread) = worker(this_choice());
        for _ in 0..50 {
            let (here, there) = UnixStream::pair().unwrap();
            let here = Arc::new(here);
            let wait_until_ready =
                |here: Arc<UnixStream>| move || becomes_ready(here.readable_branch(), LONG);
            let remote = other_loop.spawn(wait_until_ready(here.clone()));
            let local = [
                spawn(wait_until_ready(here.clone())),
                spawn(wait_until_ready(here.clone())),
            ];
            yield_now().unwrap();
            (&there).write_all(b"x").unwrap();
            assert!(remote.join().unwrap());
            assert!(local.map(|fiber| fiber.join().unwrap()) == [true, true]);
        }
        other_loop.shutdown();
        assert_eq!(thread.join().unwrap(), StopReport::default());
    });
}

#[test]
fn races_of_bytes_messages_and_timers_lose_nothing() {
    const ROUNDS: u32 = 3000;
    on_each_driver(|| {
        let (mut here, there) = tcp_pair();
        let there = there.into_std().unwrap();
        let (sender, receiver) = channel(4);
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        // A plain thread, so that its actions fall anywhere into the loop's turns.
        let thread = std::thread::spawn(move || {
            for number in 0..ROUNDS {
                match number % 3 {
                    0 => (&there).write_all(&number.to_be_bytes()).unwrap(),
                    1 => sender.send(number).unwrap(),
                    _ => {
                        (&there).write_all(&number.to_be_bytes()).unwrap();
                        sender.send(number).unwrap();
                    }
                }
                if number % 64 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            seen.store(true, Ordering::SeqCst);
            there
        });
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        let ticks = Cell::new(0);
        let (mut open, wanted) = (true, 4 * (ROUNDS as usize).div_ceil(3) * 2);
        let complete = timeout(LONG, || {
            while bytes.len() < wanted || open {
                select! {
                    ready = readable(here) => {
                        ready.unwrap();
                        let mut buffer = [0; 1024];
                        let count = here.read(&mut buffer).unwrap();
                        assert!(count > 0);
                        bytes.extend_from_slice(&buffer[..count]);
                    },
                    message = recv(receiver) if open => match message {
                        Ok(number) => messages.push(number),
                        Err(_) => open = false,
                    },
                    _ = after(Duration::from_micros(50)) => ticks.set(ticks.get() + 1),
                }
                .unwrap();
            }
        });
        complete.unwrap_or_else(|_| panic!("{} bytes, {} messages", bytes.len(), messages.len()));
        let there = thread.join().unwrap();
        assert!(over.load(Ordering::SeqCst));
        let expected = |kind: u32| (0..ROUNDS).filter(move |number| number % 3 != kind);
        let rest = bytes
            .chunks(4)
            .map(|four| u32::from_be_bytes(four.try_into().unwrap()));
        assert!(rest.eq(expected(1)));
        assert!(messages.into_iter().eq(expected(0)));
        drop((here, there));
        wait_until(|| operations() == 0);
        assert_eq!(this_loop::counters().timers, 0);
    });
}

#[test]
fn no_wake_is_missed_while_sources_are_created_and_dropped() {
    on_each_driver(|| {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let answers = spawn(move || {
            let mut byte = [0];
            while there.read(&mut byte).unwrap() == 1 {
                there.write_all(&byte).unwrap();
            }
        });
        for round in 0..3000u32 {
            here.write_all(&[round as u8]).unwrap();
            // Waits that end at any moment before the answer arrives, and leave it.
            for _ in 0..round % 4 {
                select! { ready = readable(here) => ready.unwrap(), _ = after(Duration::ZERO) => () }
                    .unwrap();
            }
            assert!(becomes_ready(here.readable_branch(), LONG));
            let mut byte = [0];
            here.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], round as u8);
        }
        drop(here);
        answers.join().unwrap();
        wait_until(|| operations() == 0);
    });
}

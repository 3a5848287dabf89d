//! Resource limits: exhausted descriptors, loops that start and end, bells that ring at awkward moments.

#[path = "common/child.rs"]
mod child;
mod common;

use child::{child_output, in_child};
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::*;

/// Describes each open descriptor of the process.
fn open_descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let name = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).unwrap_or_default();
    entries
        .map(|entry| format!("{:?}", name(entry.unwrap())))
        .collect()
}

/// Sets the process's descriptor limit, up to the hard limit. Returns the limit that was set.
fn limit_descriptors(most: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a live, writable rlimit.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(got, 0);
    limit.rlim_cur = most.min(limit.rlim_max);
    // SAFETY: a live rlimit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(set, 0);
    limit.rlim_cur
}

#[test]
fn an_accept_without_free_descriptors_fails_after_a_pause_and_recovers() {
    in_child(
        "an_accept_without_free_descriptors_fails_after_a_pause_and_recovers",
        || {
            on_each_driver(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                limit_descriptors(64);
                // Both ends are in this process, so all clients are queued before the first accept.
                let mut held = Vec::new();
                let client = TcpStream::connect(address).unwrap();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                let (errors, before) = (Rc::new(Cell::new(0u32)), now());
                let count = errors.clone();
                let server = spawn(move || {
                    loop {
                        match listener.accept() {
                            Ok((stream, _)) => return stream,
                            Err(error) => {
                                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                                count.set(count.get() + 1);
                            }
                        }
                    }
                });
                wait_until(|| errors.get() >= 3);
                // Each error came after a pause: a loop that ignores errors does not spin.
                assert!(Instant::system().saturating_since(before) >= Duration::from_millis(150));
                held.clear();
                let stream = server.join().unwrap();
                assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
            });
        },
    );
}

#[test]
fn connections_that_arrive_without_free_descriptors_are_accepted_later() {
    const CLIENTS: usize = 12;
    in_child(
        "connections_that_arrive_without_free_descriptors_are_accepted_later",
        || {
            on_each_driver(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                limit_descriptors(64);
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|_| TcpStream::connect(address).unwrap())
                    .collect();
                let mut held = Vec::new();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                // Descriptors for some of them only.
                held.truncate(held.len() - CLIENTS / 3);
                let (before, accepted) = (now(), Rc::new(RefCell::new(Vec::new())));
                let server = {
                    let accepted = accepted.clone();
                    // The README's accept loop: a shortage must not end it.
                    spawn(move || -> std::io::Result<()> {
                        for stream in listener.incoming() {
                            let stream = stream?;
                            accepted.borrow_mut().push(stream);
                        }
                        Ok(())
                    })
                };
                wait_until(|| accepted.borrow().len() == CLIENTS / 3);
                let ticks = this_loop::counters().ticks;
                sleep(Duration::from_millis(150)).unwrap();
                assert!(!server.is_done());
                // The loop pauses between two attempts.
                assert!(this_loop::counters().ticks - ticks < 50);
                held.clear();
                wait_until(|| accepted.borrow().len() == CLIENTS);
                assert!(Instant::system().saturating_since(before) >= Duration::from_millis(150));
                // It still ends when it is cancelled.
                server.cancel_and_join().unwrap().unwrap();
                let accepted = accepted.take();
                let local = clients.iter().map(|client| client.local_addr().unwrap());
                let peers = accepted.iter().map(|stream| stream.peer_addr().unwrap());
                assert!(local.eq(peers));
            });
        },
    );
}

#[test]
fn a_fiber_that_accepts_without_free_descriptors_is_cancelled_and_times_out() {
    in_child(
        "a_fiber_that_accepts_without_free_descriptors_is_cancelled_and_times_out",
        || {
            on_each_driver(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                limit_descriptors(64);
                let _client = TcpStream::connect(address).unwrap();
                let mut held = Vec::new();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                // The time limit keeps running during the pause.
                listener
                    .set_read_timeout(Some(Duration::from_millis(120)))
                    .unwrap();
                let error = listener.incoming().next().unwrap().unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
                listener.set_read_timeout(None).unwrap();
                let server = spawn(move || listener.incoming().count());
                sleep(Duration::from_millis(20)).unwrap();
                assert_eq!(server.cancel_and_join().unwrap(), 0);
            });
        },
    );
}

#[test]
fn a_shortage_is_logged_once_and_not_for_each_client() {
    let output = child_output(
        "a_shortage_is_logged_once_and_not_for_each_client",
        |_| {},
        || {
            on_each_driver(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = listener.local_addr().unwrap();
                limit_descriptors(64);
                let _clients: Vec<_> = (0..5)
                    .map(|_| TcpStream::connect(address).unwrap())
                    .collect();
                let mut held = Vec::new();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                let server = spawn(move || listener.incoming().count());
                sleep(Duration::from_millis(250)).unwrap();
                assert_eq!(server.cancel_and_join().unwrap(), 0);
            });
        },
    );
    if let Some(output) = output {
        assert_eq!(
            output.matches("cannot accept connections").count(),
            1,
            "{output}"
        );
    }
}

/// The number of loops created and dropped; each does some I/O.
const LOOPS: usize = if cfg!(debug_assertions) {
    3_000
} else {
    10_000
};

#[test]
fn loops_that_end_leave_no_descriptor_behind() {
    in_child("loops_that_end_leave_no_descriptor_behind", || {
        for choice in choices() {
            let round = || {
                run_on(choice, || {
                    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                    let address = listener.local_addr().unwrap();
                    drop(spawn(move || listener.accept()));
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(b"gone").unwrap();
                });
            };
            let before = open_descriptors();
            (0..LOOPS).for_each(|_| round());
            // The bells of the last loops are freed only in the epoch in which no thread can ring them.
            let after = open_descriptors();
            assert!(
                after.len() < before.len() + 10,
                "{before:?} became {after:?}"
            );
        }
    });
}

#[test]
fn a_loop_that_is_dropped_with_fibers_in_operations_drains_them() {
    for choice in choices() {
        run_on(choice, || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let streams: Vec<_> = (0..50)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect();
            for mut stream in streams {
                drop(spawn(move || stream.read(&mut [0; 64])));
            }
            yield_now().unwrap();
            sleep(Duration::from_millis(1)).unwrap();
            assert_eq!(operations(), 50);
        });
    }
}

/// Refuses every switch, as Lua's bindings do where a switch would break them.
struct Never;

impl SwitchHook for Never {
    fn leave(&self) -> Result<(), &'static str> {
        Err("not here")
    }

    fn enter(&self) {}
}

#[test]
fn an_operation_whose_wait_is_refused_ends_before_its_memory_is_freed() {
    on_each_driver(|| {
        let (mut one, mut other) = yue_io::net::UnixStream::pair().unwrap();
        for refuse in [false, true] {
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut bytes = [7; 64];
                if refuse {
                    with_switch_hook(&Never, |_| one.read(&mut bytes))
                } else {
                    no_suspend(|| one.read(&mut bytes))
                }
            }));
            assert!(panic.is_err());
            assert_eq!(operations(), 0);
        }
        // The refused reads took no bytes.
        other.write_all(b"mine").unwrap();
        let mut bytes = [0; 4];
        one.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"mine");
    });
}

#[test]
fn no_ring_of_the_bell_is_lost_between_two_loops() {
    const ROUNDS: u64 = 5_000;
    on_each_driver(|| {
        let (there, thread) = worker(this_choice());
        let here = this_loop::handle();
        let count = Arc::new(AtomicU64::new(0));
        for round in 0..ROUNDS {
            let waker = prepare_park().remote();
            let (back, count) = (here.clone(), count.clone());
            there.run(move || {
                count.fetch_add(1, Ordering::Relaxed);
                back.run(move || waker.wake());
            });
            // Between the rounds both loops sleep, or are about to: each ring falls into another moment of that.
            if round % 7 == 0 {
                std::thread::yield_now();
            }
            timeout(LONG, || park("the other loop"))
                .expect("a ring was lost")
                .unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), ROUNDS);
        there.shutdown();
        assert_eq!(thread.join().unwrap(), StopReport::default());
    });
}

#[test]
fn timers_fire_in_order_while_the_driver_waits() {
    on_each_driver(|| {
        let order = Rc::new(std::cell::RefCell::new(Vec::new()));
        let fibers: Vec<_> = [900u64, 300, 600, 100, 1200]
            .into_iter()
            .map(|micros| {
                let order = order.clone();
                spawn(move || {
                    let before = Instant::system();
                    sleep(Duration::from_micros(micros)).unwrap();
                    assert!(
                        Instant::system().saturating_since(before)
                            >= Duration::from_micros(micros / 2)
                    );
                    order.borrow_mut().push(micros);
                })
            })
            .collect();
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(*order.borrow(), [100, 300, 600, 900, 1200]);
    });
}

#[test]
fn a_hundred_thousand_timers_all_fire_and_none_early() {
    on_each_driver(|| {
        const TIMERS: u64 = 100_000;
        let fired = Rc::new(Cell::new(0u64));
        let begin = now();
        let timers: Vec<_> = (0..TIMERS)
            .map(|n| {
                let at = begin.saturating_add(Duration::from_micros(n % 50_000));
                let count = fired.clone();
                let timer = Timer::new(move || {
                    assert!(now() >= at, "a timer fired early");
                    count.set(count.get() + 1);
                });
                timer.arm(at);
                timer
            })
            .collect();
        // The driver does its other work meanwhile.
        let (mut one, mut other) = yue_io::net::UnixStream::pair().unwrap();
        while fired.get() < TIMERS {
            one.write_all(b"x").unwrap();
            other.read_exact(&mut [0]).unwrap();
            sleep(Duration::from_micros(100)).unwrap();
        }
        assert_eq!(this_loop::counters().panics, 0);
        drop(timers);
        assert_eq!(this_loop::counters().timers, 0);
    });
}

#[test]
fn a_writer_waits_for_a_peer_that_does_not_read() {
    on_each_driver(|| {
        let (mut one, mut other) = yue_io::net::UnixStream::pair().unwrap();
        let written = Rc::new(Cell::new(0usize));
        let count = written.clone();
        let writer = spawn(move || {
            for _ in 0..10_000 {
                one.write_all(&[7; 1000]).unwrap();
                count.set(count.get() + 1000);
            }
        });
        // The writer stops long before the end, and continues when there is room.
        let before = Cell::new(usize::MAX);
        wait_until(|| operations() == 1 && before.replace(written.get()) == written.get());
        assert!(written.get() < 5_000_000, "{}", written.get());
        let mut total = 0;
        let mut buffer = vec![0; 65_536];
        while total < 10_000_000 {
            total += other.read(&mut buffer).unwrap();
        }
        writer.join().unwrap();
    });
}

#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    on_each_driver(|| {
        // Far more than the submission queue (1024) and the completion queue (4096) hold.
        const PAIRS: usize = 2500;
        let limit = limit_descriptors(2 * PAIRS as u64 + 500);
        let pairs = PAIRS.min((limit as usize - 200) / 2);
        let mut fibers = Vec::new();
        let mut writers = Vec::new();
        for n in 0..pairs {
            let (mut one, other) = yue_io::net::UnixStream::pair().unwrap();
            writers.push(other);
            fibers.push(spawn(move || {
                let mut bytes = [0; 8];
                one.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes, (n as u64).to_le_bytes());
            }));
        }
        yield_now().unwrap();
        wait_until(|| operations() == pairs);
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.write_all(&(n as u64).to_le_bytes()).unwrap();
        }
        fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        assert_eq!(operations(), 0);
    });
}

#[test]
fn a_conversion_to_the_standard_library_takes_no_descriptor() {
    in_child(
        "a_conversion_to_the_standard_library_takes_no_descriptor",
        || {
            on_each_driver(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (server, _) = listener.accept().unwrap();
                let (reader, writer) = yue_io::pipe::pipe().unwrap();
                limit_descriptors(64);
                let mut held = Vec::new();
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    held.push(file);
                }
                let (mut client, mut server) =
                    (client.into_std().unwrap(), server.into_std().unwrap());
                let (mut reader, mut writer) =
                    (reader.into_std().unwrap(), writer.into_std().unwrap());
                let listener = listener.into_std().unwrap();
                client.write_all(b"socket").unwrap();
                server.read_exact(&mut [0; 6]).unwrap();
                writer.write_all(b"pipe").unwrap();
                reader.read_exact(&mut [0; 4]).unwrap();
                drop(held);
                // It still listens, and its accept waits.
                drop(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
                listener.accept().unwrap();
            });
        },
    );
}

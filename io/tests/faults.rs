//! Temporary failures of the kernel: full queues, no buffers, `EBUSY`, `EAGAIN`, `EINTR`, short results. The tests
//! provoke each one, check that it occurred, and check that not one byte of what many fibers transfer is lost.

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/supervised.rs"]
mod supervised;

use child::child_output;
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use supervised::supervised;
use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, UnixStream};
use yue_scheduler::*;

/// The number of concurrent streams. A third of them use plain reads, a third reads that are cancelled repeatedly, and
/// a third no fiber.
const STREAMS: usize = 96;
const BYTES: usize = 60_000;
/// The size of a socket's buffer, so small that most writes are short.
const SOCKET_BUFFER: usize = 4096;

/// Returns byte `at` of stream `n`.
fn byte(n: usize, at: usize) -> u8 {
    (at.wrapping_mul(at / 255 + 7) + n * 13) as u8
}

/// Counts outcomes other than requested that are not errors.
#[derive(Debug, Default)]
struct Seen {
    short_writes: Cell<usize>,
    short_reads: Cell<usize>,
    cancelled_reads: Cell<usize>,
    refused_waits: Cell<usize>,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

/// Records what its connection delivers.
#[derive(Default)]
struct Collector {
    data: RefCell<Vec<u8>>,
    ended: Cell<bool>,
}

impl Sink for Collector {
    fn data(&self, bytes: &[u8]) {
        self.data.borrow_mut().extend_from_slice(bytes);
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, result: io::Result<()>) {
        result.unwrap();
        self.ended.set(true);
    }
}

fn write_all(n: usize, mut stream: UnixStream, seen: &Seen) {
    // Nothing can be read yet, so the first read of each impatient reader is certainly cancelled.
    wait_until(|| seen.cancelled_reads.get() >= STREAMS / 3);
    let bytes: Vec<u8> = (0..BYTES).map(|at| byte(n, at)).collect();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let asked = rest.len().min(20_000);
        match stream.write(&rest[..asked]) {
            Ok(written) => {
                if written < asked {
                    count(&seen.short_writes);
                }
                rest = &rest[written..];
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}"),
        }
    }
}

/// Reads to the end. Every third stream's reads have a deadline that usually passes first, and some may not wait at
/// all.
fn read_all(n: usize, mut stream: UnixStream, seen: &Seen) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 3000];
    for round in 0.. {
        if n % 3 == 1 && round % 8 == 0 && refuse_a_wait(&mut stream) {
            count(&seen.refused_waits);
        }
        let impatient = n % 3 == 1 && round % 2 == 0;
        let result = match impatient {
            true => with_deadline(now().saturating_add(Duration::from_micros(30)), || {
                stream.read(&mut buffer)
            }),
            false => stream.read(&mut buffer),
        };
        match result {
            Ok(0) => break,
            Ok(length) => {
                if length < buffer.len() {
                    count(&seen.short_reads);
                }
                got.extend_from_slice(&buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => count(&seen.cancelled_reads),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}"),
        }
    }
    got
}

/// Reads where data is missing and the fiber may not wait: the ring must release the buffer before the panic continues.
fn refuse_a_wait(stream: &mut UnixStream) -> bool {
    struct Never;
    impl SwitchHook for Never {
        fn leave(&self) -> Result<(), &'static str> {
            Err("not here")
        }
        fn enter(&self) {}
    }
    let peek = || with_switch_hook(&Never, |_| stream.peek(&mut [0; 1]));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(peek)).is_err()
}

/// Transfers among many fibers and compares every byte.
fn transfer() -> Rc<Seen> {
    let seen = Rc::new(Seen::default());
    let mut readers = Vec::new();
    let mut collectors = Vec::new();
    for n in 0..STREAMS {
        let (reader, writer) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&writer)
            .set_send_buffer_size(SOCKET_BUFFER)
            .unwrap();
        let noted = seen.clone();
        drop(spawn(move || write_all(n, writer, &noted)));
        if n % 3 == 2 {
            let collector = Rc::new(Collector::default());
            Connection::start_unix(reader, collector.clone()).unwrap();
            collectors.push((n, collector));
        } else {
            let noted = seen.clone();
            readers.push((n, spawn(move || read_all(n, reader, &noted))));
        }
    }
    for (n, reader) in readers {
        compare(n, &reader.join().unwrap());
    }
    for (n, collector) in collectors {
        wait_until(|| collector.ended.get());
        compare(n, &collector.data.borrow());
    }
    assert_eq!(operations(), 0);
    seen
}

fn compare(n: usize, got: &[u8]) {
    assert_eq!(got.len(), BYTES, "stream {n}");
    let wrong = (0..BYTES).find(|&at| got[at] != byte(n, at));
    assert_eq!(wrong, None, "the first wrong byte of stream {n}");
}

#[test]
fn short_reads_and_writes_and_cancelled_ones_lose_nothing() {
    on_each_driver(|| {
        let seen = transfer();
        assert!(seen.short_writes.get() > 0, "{seen:?}");
        assert!(seen.short_reads.get() > 0, "{seen:?}");
        assert!(seen.cancelled_reads.get() > 0, "{seen:?}");
    });
}

/// Runs `body` in a child process with rings of that size. Skipped where io_uring is not available.
fn with_ring_entries(test: &str, entries: &str, body: fn()) {
    if yue_io::probe_uring().is_err() {
        eprintln!("skipped: io_uring is not available");
        return;
    }
    let prepare = |command: &mut std::process::Command| {
        command
            .env("YUE_URING_ENTRIES", entries)
            .env("YUE_IO", "uring");
    };
    child_output(test, prepare, body);
}

#[test]
fn a_ring_with_one_entry_takes_as_many_operations_as_any() {
    with_ring_entries(
        "a_ring_with_one_entry_takes_as_many_operations_as_any",
        "1",
        || {
            run_on(Choice::Uring, || {
                let seen = transfer();
                let met = yue_io::counters().unwrap();
                assert!(met.submissions_full > 100, "{met:?}");
                assert!(met.completions_full > 0, "{met:?}");
                assert!(seen.cancelled_reads.get() > 0, "{seen:?}");
                assert!(seen.refused_waits.get() > 0, "{seen:?}");
            });
        },
    );
}

#[test]
fn completions_beyond_the_queues_size_arrive_later_and_none_is_lost() {
    with_ring_entries(
        "completions_beyond_the_queues_size_arrive_later_and_none_is_lost",
        "2",
        || {
            run_on(Choice::Uring, || {
                // The queue has eight entries; all of these completions arrive between two checks.
                const READS: usize = 400;
                let (readers, writers): (Vec<_>, Vec<_>) =
                    (0..READS).map(|_| UnixStream::pair().unwrap()).unzip();
                let fibers: Vec<_> = readers
                    .into_iter()
                    .map(|mut reader| {
                        spawn(move || {
                            let mut byte = [0];
                            reader.read_exact(&mut byte).unwrap();
                            byte[0]
                        })
                    })
                    .collect();
                wait_until(|| operations() == READS);
                for (n, writer) in writers.iter().enumerate() {
                    // Not through the ring: this fiber does not let the loop turn meanwhile.
                    socket2::SockRef::from(writer).send(&[n as u8]).unwrap();
                }
                for (n, fiber) in fibers.into_iter().enumerate() {
                    assert_eq!(fiber.join().unwrap(), n as u8);
                }
                let met = yue_io::counters().unwrap();
                assert!(met.completions_full > 0, "{met:?}");
                assert_eq!(operations(), 0);
            });
        },
    );
}

#[test]
fn the_error_for_an_invalid_size_names_the_valid_range() {
    for entries in ["0", "many", "100000"] {
        let prepare = |command: &mut std::process::Command| {
            command
                .env("YUE_URING_ENTRIES", entries)
                .env_remove("YUE_IO");
        };
        let test = "the_error_for_an_invalid_size_names_the_valid_range";
        let child = child_output(test, prepare, || {
            for choice in [Choice::Auto, Choice::Uring] {
                let error = yue_io::driver(choice).err().unwrap();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert!(error.to_string().contains("from 1 to 32768"), "{error}");
            }
            assert!(yue_io::driver(Choice::Mio).is_ok());
        });
        if child.is_none() {
            return;
        }
    }
}

/// Transfers while about every other call of those numbers fails with one of the errors.
fn transfer_despite(choice: Choice, numbers: &[i64], errors: &[i32]) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut injected = vec![0u64; errors.len()];
    let answer = |_| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Let every other call succeed: otherwise the transfer would never end.
        let which = (random >> 20) as usize % (2 * errors.len());
        let error = errors.get(which).copied();
        if error.is_some() {
            injected[which] += 1;
        }
        error
    };
    let result = supervised(numbers, answer, move || {
        run_on(choice, || drop(transfer()));
    });
    match result {
        Ok(()) => assert!(injected.iter().all(|count| *count > 20), "{injected:?}"),
        Err(error) => eprintln!("skipped on {choice:?}: no supervised system calls: {error}"),
    }
}

/// Simulates a machine that is short of every resource and constantly interrupted.
fn fail_calls_now_and_then(test: &str, of_ring: &'static [i32], of_calls: &'static [i32]) {
    child_output(
        test,
        |_| {},
        || {
            for choice in choices() {
                match choice {
                    Choice::Uring => {
                        transfer_despite(choice, &[libc::SYS_io_uring_enter], of_ring);
                    }
                    _ => {
                        let calls = [
                            libc::SYS_epoll_wait,
                            libc::SYS_epoll_pwait,
                            libc::SYS_recvfrom,
                            libc::SYS_recvmsg,
                            libc::SYS_sendto,
                            libc::SYS_sendmsg,
                            libc::SYS_read,
                            libc::SYS_write,
                        ];
                        transfer_despite(choice, &calls, of_calls);
                    }
                }
            }
        },
    );
}

#[test]
fn interrupted_system_calls_are_retried() {
    fail_calls_now_and_then(
        "interrupted_system_calls_are_retried",
        &[libc::EINTR],
        &[libc::EINTR],
    );
}

#[test]
fn calls_are_retried_when_the_kernel_is_busy_or_short_of_memory() {
    fail_calls_now_and_then(
        "calls_are_retried_when_the_kernel_is_busy_or_short_of_memory",
        &[libc::EBUSY, libc::EAGAIN, libc::EINTR],
        &[libc::EINTR],
    );
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn note_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_storm_of_signals_interrupts_everything_and_breaks_nothing() {
    child_output(
        "a_storm_of_signals_interrupts_everything_and_breaks_nothing",
        |_| {},
        || {
            // SAFETY: a zeroed sigaction has no flags: system calls are not restarted.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = note_signal as *const () as usize;
            // SAFETY: a live action whose handler only adds to an atomic.
            let set = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
            assert_eq!(set, 0);
            for choice in choices() {
                let before = SIGNALS.load(Ordering::Relaxed);
                // SAFETY: no arguments.
                let target = unsafe { libc::pthread_self() };
                let over = std::sync::atomic::AtomicBool::new(false);
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            // SAFETY: the target thread outlives this one, which its scope waits for.
                            unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                            std::thread::sleep(Duration::from_micros(20));
                        }
                    });
                    let _over = SetWhenDropped(&over);
                    run_on(choice, || drop(transfer()));
                });
                assert!(SIGNALS.load(Ordering::Relaxed) > before + 100);
            }
        },
    );
}

struct SetWhenDropped<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The errors in `accept(2)` that concern one client, or are temporary.
const CLIENTS_ERRORS: [i32; 8] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::EPERM,
    libc::ENETDOWN,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::ENONET,
    libc::ENOPROTOOPT,
];
const SHORTAGES: [i32; 5] = [
    libc::EMFILE,
    libc::ENFILE,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::ENOSPC,
];

#[test]
fn a_server_survives_every_accept_error_of_one_client_or_shortage() {
    child_output(
        "a_server_survives_every_accept_error_of_one_client_or_shortage",
        |_| {},
        || {
            let errors = CLIENTS_ERRORS.iter().chain(&SHORTAGES);
            let mut errors = errors.flat_map(|error| [Some(*error), None]);
            let clients = errors.clone().count() / 2;
            let answer = move |_| errors.next().flatten();
            let served = supervised(&[libc::SYS_accept4], answer, move || {
                run_on(Choice::Mio, move || {
                    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                    let address = listener.local_addr().unwrap();
                    let served = Rc::new(Cell::new(0));
                    let server = {
                        let served = served.clone();
                        // The accept loop of the README.
                        spawn(move || -> io::Result<()> {
                            for stream in listener.incoming() {
                                drop(stream?);
                                count(&served);
                            }
                            Ok(())
                        })
                    };
                    for n in 0..clients {
                        let _client = std::net::TcpStream::connect(address).unwrap();
                        wait_until(|| served.get() == n + 1);
                    }
                    server.cancel_and_join().unwrap().unwrap();
                    served.get()
                })
            });
            match served {
                Ok(served) => assert_eq!(served, clients),
                Err(error) => eprintln!("skipped: no supervised system calls: {error}"),
            }
        },
    );
}

#[test]
fn a_system_that_refuses_every_client_does_not_keep_the_loop_busy() {
    child_output(
        "a_system_that_refuses_every_client_does_not_keep_the_loop_busy",
        |_| {},
        || {
            let calls = AtomicU64::new(0);
            let answer = |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                Some(libc::EPERM)
            };
            let result = supervised(&[libc::SYS_accept4], answer, || {
                run_on(Choice::Mio, || {
                    for one_by_one in [false, true] {
                        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                        let server = spawn(move || match one_by_one {
                            true => drop(listener.accept()),
                            false => drop(listener.incoming().next()),
                        });
                        sleep(Duration::from_millis(300)).unwrap();
                        assert!(!server.is_done());
                        server.cancel_and_join().unwrap();
                    }
                });
            });
            match result {
                // Some attempts at once, then some after each pause.
                Ok(()) => assert!(calls.into_inner() < 4_000),
                Err(error) => eprintln!("skipped: no supervised system calls: {error}"),
            }
        },
    );
}

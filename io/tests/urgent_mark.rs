//! TCP's urgent mark while a signal is pending. There the kernel's receive fails with `EAGAIN` although bytes follow,
//! and those bytes have had their event already.
//!
//! On mio a supervisor fails the receives at the mark. On io_uring a real signal is pending: a send that leaves in the
//! loop's turn raises it, in the same system call that receives.

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/supervised.rs"]
mod supervised;

use child::in_child;
use common::*;
use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;
use supervised::supervised;
use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream, UnixStream};
use yue_scheduler::*;

/// The number of receives that fail at each mark on mio.
const FAILURES: usize = 3;

/// The descriptor whose receives fail at the mark, and the number of those that may still fail.
static READING: AtomicI32 = AtomicI32::new(-1);
static FAILURES_LEFT: AtomicUsize = AtomicUsize::new(0);

/// Sets the thread that a descriptor's `SIGIO` goes to (`fcntl(2)`); the `libc` crate lacks both.
const F_SETOWN_EX: i32 = 15;
const F_OWNER_TID: i32 = 0;

/// The number of signals received.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

/// Records received bytes.
#[derive(Default)]
struct Noted {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
}

impl Sink for Noted {
    fn data(&self, bytes: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(bytes);
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, _: io::Result<()>) {
        self.closed.set(true);
    }
}

/// A reader of a stream: a fiber, or a connection without one.
enum Reader {
    Fiber(JoinHandle<io::Result<()>>),
    Connection(Connection),
}

impl Reader {
    fn start(stream: TcpStream, owned: bool, noted: &Rc<Noted>) -> Reader {
        let sink = noted.clone();
        if owned {
            return Reader::Connection(Connection::start(stream, sink).unwrap());
        }
        Reader::Fiber(spawn(move || {
            let mut buffer = [0; 64];
            loop {
                let count = (&stream).read(&mut buffer)?;
                sink.data(&buffer[..count]);
            }
        }))
    }

    fn end(self, noted: &Rc<Noted>) {
        match self {
            Reader::Fiber(fiber) => drop(fiber.cancel_and_join()),
            Reader::Connection(connection) => {
                connection.close();
                wait_until(|| noted.closed.get());
            }
        }
    }
}

fn tcp_pair() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Sends by a system call. On loopback the reader's socket has the bytes when it returns.
fn send(stream: &std::net::TcpStream, bytes: &[u8], flags: i32) {
    // SAFETY: live bytes of that length.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
        )
    };
    assert_eq!(sent, bytes.len() as isize);
}

/// Whether the next byte to read is the urgent one (`SIOCATMARK`, see `sockatmark(3)`).
fn is_at_mark(fd: i32) -> bool {
    let mut answer = 0;
    // SAFETY: one live integer. On a descriptor that is not a socket the call fails.
    (unsafe { libc::ioctl(fd, 0x8905, &mut answer) }) == 0 && answer == 1
}

#[test]
fn a_receive_that_fails_at_the_mark_is_repeated_if_bytes_follow() {
    let name = "a_receive_that_fails_at_the_mark_is_repeated_if_bytes_follow";
    in_child(name, || {
        let answer = |_| {
            let fails = is_at_mark(READING.load(Ordering::SeqCst))
                && FAILURES_LEFT
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok();
            fails.then_some(libc::EAGAIN)
        };
        let body = || {
            run_on(Choice::Mio, || {
                for owned in [false, true] {
                    let (reader, writer) = tcp_pair();
                    READING.store(reader.as_raw_fd(), Ordering::SeqCst);
                    let noted = Rc::new(Noted::default());
                    let reader = Reader::start(reader, owned, &noted);
                    for round in 1..=3 {
                        // The reader waits, and has read before.
                        sleep(Duration::from_millis(2)).unwrap();
                        FAILURES_LEFT.store(FAILURES, Ordering::SeqCst);
                        send(&writer, b"abc", 0);
                        send(&writer, b"!", libc::MSG_OOB);
                        send(&writer, b"def", 0);
                        wait_until(|| noted.bytes.borrow().len() == 6 * round);
                        assert_eq!(FAILURES_LEFT.load(Ordering::SeqCst), 0);
                    }
                    assert_eq!(*noted.bytes.borrow(), b"abcdef".repeat(3));
                    reader.end(&noted);
                }
            });
        };
        if let Err(error) = supervised(&[libc::SYS_recvfrom], answer, body) {
            eprintln!("skipped: no supervised system calls: {error}");
        }
    });
}

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// Raises a signal on this thread within the loop's next turn, in the system call that submits and receives: a
/// connection's bytes leave through the ring, and their arrival at this end raises it.
struct Trigger {
    connection: Connection,
    noted: Rc<Noted>,
    _end: UnixStream,
}

impl Trigger {
    fn new() -> Trigger {
        let (one, end) = UnixStream::pair().unwrap();
        let fd = end.as_raw_fd();
        // SAFETY: the handler only counts, and the owner is a live `f_owner_ex` that names this thread (`fcntl(2)`).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = count_signal as *const () as usize;
            action.sa_flags = libc::SA_RESTART;
            let installed = libc::sigaction(libc::SIGIO, &action, std::ptr::null_mut());
            assert_eq!(installed, 0);
            let owner = [F_OWNER_TID, libc::gettid()];
            assert_eq!(libc::fcntl(fd, F_SETOWN_EX, owner.as_ptr()), 0);
            assert_eq!(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC), 0);
        }
        let noted = Rc::new(Noted::default());
        let connection = Connection::start_unix(one, noted.clone()).unwrap();
        Trigger {
            connection,
            noted,
            _end: end,
        }
    }

    /// Raises the signal, and returns after that turn.
    fn raise(&self) {
        let before = SIGNALS.load(Ordering::SeqCst);
        self.connection.send(vec![0]);
        wait_until(|| SIGNALS.load(Ordering::SeqCst) > before);
    }

    fn end(self) {
        self.connection.close();
        wait_until(|| self.noted.closed.get());
    }
}

/// Sends bytes before and after an urgent one, and receives while a signal is pending. With `apart` the bytes before
/// the mark are received earlier, without a signal.
fn receive_with_a_signal(owned: bool, apart: bool) {
    let (reader, writer) = tcp_pair();
    let socket = reader.as_raw_fd();
    let noted = Rc::new(Noted::default());
    let trigger = Trigger::new();
    let reader = Reader::start(reader, owned, &noted);
    sleep(Duration::from_millis(2)).unwrap();
    send(&writer, b"abc", 0);
    if apart {
        wait_until(|| noted.bytes.borrow().len() == 3);
        sleep(Duration::from_millis(2)).unwrap();
    }
    send(&writer, b"!", libc::MSG_OOB);
    send(&writer, b"def", 0);
    trigger.raise();
    sleep(Duration::from_millis(2)).unwrap();
    let mut expected = b"abcdef".to_vec();
    if let Reader::Connection(connection) = &reader
        && is_at_mark(socket)
    {
        // The kernel has dropped the event. The next bytes have their own, and a new receive checks the socket.
        eprintln!("stalled at the mark, apart: {apart}");
        if apart {
            connection.set_reading(false);
            sleep(Duration::from_millis(2)).unwrap();
            connection.set_reading(true);
        } else {
            send(&writer, b"ghi", 0);
            expected.extend(b"ghi");
        }
    }
    wait_until(|| noted.bytes.borrow().len() >= expected.len());
    assert_eq!(*noted.bytes.borrow(), expected);
    reader.end(&noted);
    trigger.end();
}

#[test]
fn on_io_uring_a_fiber_reads_past_the_mark_and_a_stalled_connection_resumes() {
    let name = "on_io_uring_a_fiber_reads_past_the_mark_and_a_stalled_connection_resumes";
    if !choices().contains(&Choice::Uring) {
        return;
    }
    in_child(name, || {
        run_on(Choice::Uring, || {
            for owned in [false, true] {
                for apart in [false, true] {
                    receive_with_a_signal(owned, apart);
                }
            }
        });
    });
}

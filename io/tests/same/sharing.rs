//! Programs in which several fibers share one object: a full receiver or listener, acceptors of one listener, handles
//! of one open file, a FIFO. Timing may decide which fiber is first, but not what is recorded: what arrives whole, in
//! order, and how much.

use super::*;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::rc::Rc;
use yue_io::connection::{Connection, Sink};
use yue_io::net::UnixListener;
use yue_scheduler::sync::local::Notify;

pub const KINDS: u64 = 9;

pub fn run(kind: u64, random: Random) -> Vec<String> {
    match kind {
        0 => full_receiver(random),
        1 => descriptors_and_bytes(random),
        2 => urgent_data(random),
        3 => full_backlog(random),
        4 => standard_listener(random),
        5 => standard_pipe(random),
        6 => acceptors(random),
        7 => fifo(random),
        _ => late(random),
    }
}

/// Returns an unused abstract address.
fn fresh_address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("yue-same-{}-{number}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

/// Lets other fibers run, or some time pass, or neither.
fn dawdle(random: &mut Random) {
    match random.below(8) {
        0 => drop(sleep(Duration::from_micros(random.below(400)))),
        1..=3 => drop(yield_now()),
        _ => {}
    }
}

/// Two senders, and a bound receiver that holds ten datagrams and is slower than they are.
fn full_receiver(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let address = fresh_address();
    let receiver = UnixDatagram::bind_addr(&address).unwrap();
    let ways = [random.below(3), random.below(3)];
    let count = 6 + random.below(20);
    let senders: Vec<_> = (0u8..)
        .zip(ways)
        .map(|(name, way)| {
            let (sender, address) = (UnixDatagram::unbound().unwrap(), address.clone());
            let mut random = Random(random.below(u64::MAX) | 1);
            spawn(move || -> io::Result<()> {
                if way > 0 {
                    sender.connect_addr(&address)?;
                }
                for _ in 0..count {
                    let size = random.below(300) as usize;
                    let message = [&[name][..], &random.bytes(size)].concat();
                    let sent = match way {
                        0 => sender.send_to_addr(&message, &address)?,
                        1 => sender.send(&message)?,
                        _ => sender.send_with_fds(&message, &[sender.as_fd()])?,
                    };
                    assert_eq!(sent, message.len());
                }
                Ok(())
            })
        })
        .collect();
    let mut received = [Vec::new(), Vec::new()];
    for _ in 0..2 * count {
        dawdle(&mut random);
        let mut buffer = [0; 400];
        match receiver.recv(&mut buffer) {
            // If the sender's name is missing, the datagram was not whole.
            Ok(length @ 1..) => received[usize::from(buffer[0])].push(buffer[..length].to_vec()),
            other => transcript.note("receive", other, &[]),
        }
    }
    for (messages, sender) in received.iter().zip(senders) {
        for message in messages {
            transcript.note("message", Ok(message.len()), message);
        }
        transcript.note("sender", sender.join().unwrap().map(|()| 0), &[]);
    }
    transcript.0
}

/// Collects the bytes of a connection without a fiber.
#[derive(Default)]
struct Gathered {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    news: Notify,
}

impl Sink for Gathered {
    fn data(&self, bytes: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        self.news.notify_one();
    }

    fn sent(&self, _: Vec<u8>) {}

    fn closed(&self, _: io::Result<()>) {
        self.closed.set(true);
        self.news.notify_one();
    }
}

/// A reader of a stream: on a fiber, or without one.
struct Reading {
    gathered: Rc<Gathered>,
    connection: Option<Connection>,
    fiber: Option<JoinHandle<()>>,
}

impl Reading {
    fn start(end: End, owned: bool, size: usize) -> Reading {
        let gathered = Rc::new(Gathered::default());
        let sink = gathered.clone();
        if owned {
            let connection = match end {
                End::Tcp(end) => Connection::start(end, sink),
                End::Unix(end) => Connection::start_unix(end, sink),
                _ => unreachable!("not a stream"),
            };
            let connection = Some(connection.unwrap());
            let fiber = None;
            return Reading {
                gathered,
                connection,
                fiber,
            };
        }
        let fiber = spawn(move || {
            let mut buffer = vec![0; size];
            while let Ok(count @ 1..) = end.read(&mut buffer) {
                sink.data(&buffer[..count]);
            }
        });
        Reading {
            gathered,
            connection: None,
            fiber: Some(fiber),
        }
    }

    /// Waits until that many bytes have arrived, and returns them.
    fn wait(&self, length: usize) -> io::Result<Vec<u8>> {
        while self.gathered.bytes.borrow().len() < length {
            self.gathered.news.notified()?;
        }
        Ok(self.gathered.bytes.take())
    }

    /// Like [`Reading::wait`], for bytes around an urgent one. Accepts one stall: that of a connection on io_uring at
    /// the urgent mark (the book's `drivers.md` has the reason). Restarting its receive ends it.
    fn wait_past_mark(&self, length: usize, socket: &OwnedFd) -> io::Result<Vec<u8>> {
        const STALL: Duration = Duration::from_secs(3);
        while self.gathered.bytes.borrow().len() < length {
            match timeout(STALL, || self.gathered.news.notified()) {
                Ok(news) => news?,
                Err(_) => match &self.connection {
                    Some(connection)
                        if this_choice() == Choice::Uring && is_readable_at_mark(socket) =>
                    {
                        // Not with `eprintln!`, which the harness captures.
                        let _ =
                            io::stderr().write_all(b"a connection stalled at the urgent mark\n");
                        connection.set_reading(false);
                        sleep(Duration::from_millis(10))?;
                        connection.set_reading(true);
                    }
                    _ => {}
                },
            }
        }
        Ok(self.gathered.bytes.take())
    }

    fn end(self) {
        if let Some(connection) = self.connection {
            connection.close();
            while !self.gathered.closed.get() && self.gathered.news.notified().is_ok() {}
        }
        if let Some(fiber) = self.fiber {
            let _ = fiber.cancel_and_join();
        }
    }
}

/// Bytes in a series of writes, some with descriptors, for a reader that already waits and takes no descriptors.
fn descriptors_and_bytes(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let (writer, reader) = UnixStream::pair().unwrap();
    let size = 1 + random.below(300) as usize;
    let reading = Reading::start(End::Unix(reader), random.below(2) == 0, size);
    for _ in 0..STEPS / 8 {
        let _ = sleep(Duration::from_micros(random.below(300)));
        let mut written = 0;
        for _ in 0..1 + random.below(5) {
            let size = 1 + random.below(100) as usize;
            let bytes = random.bytes(size);
            let result = match random.below(2) {
                0 => writer.send_with_fds(&bytes, &[writer.as_fd()]),
                _ => (&writer).write(&bytes),
            };
            written += *result.as_ref().unwrap_or(&0);
            transcript.note("write", result, &bytes);
        }
        match reading.wait(written) {
            Ok(bytes) => transcript.note("read", Ok(bytes.len()), &bytes),
            Err(error) => transcript.note("read", Err(error), &[]),
        }
    }
    reading.end();
    transcript.0
}

/// Whether the next byte to read is an urgent one (`SIOCATMARK`, see `sockatmark(3)`), and others follow it.
fn is_readable_at_mark(socket: &OwnedFd) -> bool {
    let fd = socket.as_raw_fd();
    let mut at_mark = 0;
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: a live integer, and one live entry.
    let answers = unsafe {
        [
            libc::ioctl(fd, 0x8905, &mut at_mark),
            libc::poll(&mut entry, 1, 0),
        ]
    };
    // At the mark, the urgent byte alone does not make the socket readable.
    answers == [0, 1] && at_mark == 1
}

/// Bytes before and after an urgent one.
fn urgent_data(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let (End::Tcp(writer), End::Tcp(reader)) = ends(0) else {
        unreachable!("the ends are TCP")
    };
    let socket = reader.as_fd().try_clone_to_owned().unwrap();
    let reader = End::Tcp(reader);
    let size = 1 + random.below(300) as usize;
    let reading = Reading::start(reader, random.below(2) == 0, size);
    for _ in 0..1 + random.below(4) {
        let _ = sleep(Duration::from_micros(random.below(300)));
        let mut written = 0;
        for urgent in [true, false] {
            let size = 1 + random.below(100) as usize;
            let bytes = random.bytes(size);
            let result = (&writer).write(&bytes);
            written += *result.as_ref().unwrap_or(&0);
            transcript.note("write", result, &bytes);
            if urgent {
                // SAFETY: one live byte.
                let sent = unsafe {
                    libc::send(writer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB)
                };
                assert_eq!(sent, 1);
            }
        }
        // An urgent byte that arrives before the last one was passed turns that one into a plain byte.
        match reading.wait_past_mark(written, &socket) {
            Ok(bytes) => transcript.note("read", Ok(bytes.len()), &bytes),
            Err(error) => transcript.note("read", Err(error), &[]),
        }
    }
    reading.end();
    transcript.0
}

/// Clients of a Unix listener whose backlog is full until it accepts.
fn full_backlog(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let address = fresh_address();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let listener = UnixListener::from(listener);
    let mut first = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    first.write_all(&[255]).unwrap();
    let connect = |name: u8| {
        let address = address.clone();
        spawn(move || UnixStream::connect_addr(&address).and_then(|end| (&end).write(&[name])))
    };
    let late = connect(0);
    let clients: Vec<_> = (1..3 + random.below(3) as u8).map(connect).collect();
    let _ = sleep(Duration::from_micros(random.below(3_000)));
    // The backlog certainly had no room for it.
    transcript.note("cancelled", late.cancel_and_join().unwrap(), &[]);
    let mut names = Vec::new();
    for _ in 0..=clients.len() {
        let mut name = [0];
        match listener
            .accept()
            .and_then(|(end, _)| (&end).read(&mut name))
        {
            Ok(1) => names.push(name[0]),
            other => transcript.note("client", other, &[]),
        }
    }
    names.sort();
    transcript.note("clients", Ok(names.len()), &names);
    for client in clients {
        transcript.note("connect", client.join().unwrap(), &[]);
    }
    transcript.0
}

/// A listener that keeps accepting while clones of it are converted to the standard library's type.
fn standard_listener(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut standard = Vec::new();
    for _ in 0..2 + random.below(4) {
        if random.below(2) == 0 {
            standard.push(listener.try_clone().unwrap().into_std().unwrap());
        }
        let accepting = {
            let (listener, many) = (listener.try_clone().unwrap(), random.below(2) == 0);
            spawn(move || match many {
                true => listener.incoming().next().unwrap().map(drop),
                false => listener.accept().map(drop),
            })
        };
        let _ = yield_now();
        if random.below(2) == 0 {
            // Set to blocking mode while a fiber already waits.
            standard.push(listener.try_clone().unwrap().into_std().unwrap());
        }
        if random.below(3) == 0 {
            standard.clear();
        }
        // If the loop were blocked, this would never arrive.
        let client = std::net::TcpStream::connect(address).map(|_| 0);
        transcript.note("connect", client, &[]);
        transcript.note("accept", accepting.join().unwrap().map(|()| 0), &[]);
    }
    transcript.0
}

/// A pipe that stays in use while clones of its ends are converted to the standard library's types.
fn standard_pipe(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let (reader, writer) = pipe().unwrap();
    let mut standard: Vec<OwnedFd> = Vec::new();
    for _ in 0..2 + random.below(4) {
        // Sometimes more than a pipe holds: then the writer waits.
        let size = match random.below(4) {
            0 => 70_000 + random.below(10_000) as usize,
            _ => 1 + random.below(2_000) as usize,
        };
        let bytes = random.bytes(size);
        let mut change = |reader: &PipeReader, writer: &PipeWriter| match random.below(3) {
            0 => standard.push(reader.try_clone().unwrap().into_std().unwrap().into()),
            1 => standard.push(writer.try_clone().unwrap().into_std().unwrap().into()),
            _ => standard.clear(),
        };
        change(&reader, &writer);
        let reading = {
            let mut reader = reader.try_clone().unwrap();
            spawn(move || {
                let mut bytes = vec![0; size];
                reader.read_exact(&mut bytes).map(|()| bytes)
            })
        };
        let _ = yield_now();
        change(&reader, &writer);
        transcript.note("write", (&writer).write_all(&bytes).map(|()| size), &bytes);
        match reading.join().unwrap() {
            Ok(bytes) => transcript.note("read", Ok(size), &bytes),
            Err(error) => transcript.note("read", Err(error), &[]),
        }
    }
    transcript.0
}

/// As many clients as acceptors. Each acceptor serves one client until all others are served.
fn acceptors(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..2 {
        let count = 2 + random.below(3) as usize;
        let served = Rc::new((RefCell::new(Vec::new()), sync::local::Barrier::new(count)));
        let acceptors: Vec<_> = (0..count)
            .map(|_| {
                let (listener, served) = (listener.try_clone().unwrap(), served.clone());
                let way = random.below(4);
                let fiber = spawn(move || -> io::Result<()> {
                    match way {
                        0 => listener.readable()?,
                        1 => select! { ready = readable(listener) => ready }??,
                        _ => {}
                    }
                    let stream = match way {
                        2 => listener
                            .incoming()
                            .next()
                            .unwrap_or_else(|| Err(Stopped::Deadline.into())),
                        _ => listener.accept().map(|(stream, _)| stream),
                    }?;
                    served.0.borrow_mut().push(stream.peer_addr()?);
                    served.1.wait()?;
                    Ok(())
                });
                dawdle(&mut random);
                fiber
            })
            .collect();
        let connect = |_| std::net::TcpStream::connect(address).unwrap();
        let clients: Vec<_> = (0..count).map(connect).collect();
        for acceptor in acceptors {
            transcript.note("acceptor", acceptor.join().unwrap().map(|()| 0), &[]);
        }
        let all = clients
            .iter()
            .all(|client| served.0.borrow().contains(&client.local_addr().unwrap()));
        transcript.note(if all { "all" } else { "some" }, Ok(count), &[]);
    }
    transcript.0
}

/// A FIFO whose reader gives up repeatedly.
fn fifo(mut random: Random) -> Vec<String> {
    let mut transcript = Transcript::default();
    let dir = fs::TempDir::new().unwrap();
    let path = dir.path().join("fifo");
    let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a live, terminated string.
    assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
    let open = || {
        let both = std::fs::File::options().read(true).write(true).open(&path);
        OwnedFd::from(both.unwrap())
    };
    let (reading, mut writer) = (open(), PipeWriter::from(open()));
    let as_file = random.below(2) == 0;
    let limit = Duration::from_micros(50 + random.below(400));
    let sizes: Vec<_> = (0..6).map(|_| 1 + random.below(500) as usize).collect();
    let total: usize = sizes.iter().sum();
    let reader = spawn(move || -> io::Result<Vec<u8>> {
        let (pipe, file);
        let read: &dyn Fn(&mut [u8]) -> io::Result<usize> = match as_file {
            true => {
                file = fs::File::from(reading);
                &|buffer| (&file).read(buffer)
            }
            false => {
                pipe = PipeReader::from(reading);
                &|buffer| (&pipe).read(buffer)
            }
        };
        let mut got = Vec::new();
        while got.len() < total {
            let mut buffer = [0; 200];
            if let Ok(result) = timeout(limit, || read(&mut buffer)) {
                got.extend_from_slice(&buffer[..result?]);
            }
        }
        Ok(got)
    });
    for size in sizes {
        let _ = sleep(Duration::from_micros(random.below(700)));
        let bytes = random.bytes(size);
        transcript.note("write", writer.write_all(&bytes).map(|()| size), &bytes);
    }
    match reader.join().unwrap() {
        Ok(bytes) => transcript.note("read", Ok(bytes.len()), &bytes),
        Err(error) => transcript.note("read", Err(error), &[]),
    }
    transcript.0
}

/// Computes, so that everything on the loop is late.
fn late(mut random: Random) -> Vec<String> {
    let mut rounds = 0;
    for _ in 0..3 {
        let until =
            Instant::system().saturating_add(Duration::from_micros(500 + random.below(3_000)));
        while Instant::system() < until {
            std::hint::spin_loop();
        }
        rounds += 1;
        let _ = sleep(Duration::from_micros(random.below(1_000)));
    }
    vec![format!("{rounds} rounds")]
}

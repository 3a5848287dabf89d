//! Random programs on random networks, compared with a simple model: a stream delivers a prefix of what was sent, all
//! of it if it ends without an error, and nothing else.

use super::*;
use crate::simulated::links::Link;
use crate::simulated::readiness::PollerId;
use std::collections::BTreeMap;
use std::net::Shutdown;
use yue_scheduler::simulation::Random;

/// The most sockets of a program, and its steps.
const STREAMS_MAX: usize = 12;
const STEPS: usize = 1500;

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    sent: Vec<u8>,
    received: Vec<u8>,
    /// The writer has shut down or closed.
    finished: bool,
    ended: bool,
}

struct Stream {
    fds: [RawFd; 2],
    open: [bool; 2],
    /// Whether a call at that end has reported that the connection broke.
    broken: [bool; 2],
    /// `directions[n]` is what `fds[n]` sends.
    directions: [Direction; 2],
}

struct Program {
    world: World,
    random: Random,
    listener: RawFd,
    poller: PollerId,
    streams: Vec<Stream>,
    /// Clients by their local address, until they are accepted.
    connecting: BTreeMap<SocketAddr, RawFd>,
    faults: bool,
}

impl Stream {
    /// Records that a call at `end` has reported an error. Without faults, only a close may cause one.
    fn fail(&mut self, end: usize, error: &io::Error, faults: bool) {
        let excused = faults || !self.open[1 - end];
        assert!(excused, "{error} at end {end} of a stream that is open");
        self.broken[end] = true;
    }
}

impl Program {
    fn new(seed: u64, faults: bool) -> Program {
        let mut world = World::new(seed);
        let mut random = Random::new(seed ^ 0xabcd);
        if faults {
            let link = Link {
                latency: Duration::from_micros(random.below(20_000)),
                jitter: Duration::from_micros(random.below(20_000)),
                loss: random.below(10) as f64 / 50.0,
                bandwidth: (random.below(2) == 0).then(|| 50_000 + random.below(10_000_000)),
                ..Link::default()
            };
            world.network.set_default_link(link);
            world.network.set_short_transfers(1, 0.2, 0.2);
            world.network.set_short_transfers(2, 0.2, 0.2);
        }
        let listener = world.listener(2, "0.0.0.0:80");
        let poller = world.network.add_poller();
        world.network.register(poller, listener, 0).unwrap();
        Program {
            world,
            random,
            listener,
            poller,
            streams: Vec::new(),
            connecting: BTreeMap::new(),
            faults,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..4 if self.streams.len() + self.connecting.len() < STREAMS_MAX => self.open(),
            0..8 => self.accept(),
            8..50 => self.send(),
            50..85 => self.receive(),
            85..86 => self.end(),
            86..87 if self.faults => self.disturb(),
            _ => self.pass_time(),
        }
        assert!(self.world.network.buffered_bytes() <= STREAMS_MAX * 4 * 450_000);
        assert!(self.world.network.event_count() < 4000);
    }

    fn open(&mut self) {
        if self.random.below(4) == 0 {
            let fds = [self.world.fd(), self.world.fd()];
            self.world
                .network
                .pair(1, fds[0], fds[1], Type::Stream)
                .unwrap();
            return self.add(fds);
        }
        let client = self.world.start_connect(1, "10.0.0.2:80");
        let local = self.world.local(client);
        self.connecting.insert(local, client);
    }

    fn add(&mut self, fds: [RawFd; 2]) {
        for fd in fds {
            self.world
                .network
                .register(self.poller, fd, fd as usize)
                .unwrap();
        }
        self.streams.push(Stream {
            fds,
            open: [true, true],
            broken: [false, false],
            directions: Default::default(),
        });
    }

    fn accept(&mut self) {
        let fd = self.world.fd();
        let Ok(peer) = self.world.network.accept(self.listener, fd) else {
            return;
        };
        match self.connecting.remove(&peer.inet().unwrap()) {
            Some(client) => self.add([client, fd]),
            None => self.world.network.close(fd).unwrap(),
        }
    }

    /// Chooses an open end of a stream.
    fn choose(&mut self) -> Option<(usize, usize)> {
        let stream = self.random.below(self.streams.len() as u64) as usize;
        let end = self.random.below(2) as usize;
        self.streams.get(stream)?.open[end].then_some((stream, end))
    }

    fn send(&mut self) {
        let Some((stream, end)) = self.choose() else {
            return;
        };
        let length = 1 + self.random.below(40_000) as usize;
        let stream = &mut self.streams[stream];
        let direction = &mut stream.directions[end];
        // The bytes tell their position and direction, so that misplaced ones are noticed.
        let start = direction.sent.len();
        let bytes: Vec<u8> = (start..start + length)
            .map(|n| (n * 7 + n / 251 + end * 100) as u8)
            .collect();
        match self.world.network.send(stream.fds[end], &bytes) {
            Ok(count) => {
                assert!(!direction.finished, "a direction that was shut down");
                direction.sent.extend_from_slice(&bytes[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) && direction.finished => {}
            Err(error) => stream.fail(end, &error, self.faults),
        }
    }

    fn receive(&mut self) {
        let Some((stream, end)) = self.choose() else {
            return;
        };
        let length = 1 + self.random.below(60_000) as usize;
        self.receive_at(stream, end, length);
    }

    /// Receives at one end. Returns whether bytes came.
    fn receive_at(&mut self, stream: usize, end: usize, length: usize) -> bool {
        let stream = &mut self.streams[stream];
        let direction = &mut stream.directions[1 - end];
        let mut buffer = vec![0; length];
        match self.world.network.recv(stream.fds[end], &mut buffer, 0) {
            Ok(0) => direction.ended = true,
            Ok(count) => {
                assert!(!direction.ended, "nothing follows the end");
                direction.received.extend_from_slice(&buffer[..count]);
                assert!(
                    direction.sent.starts_with(&direction.received),
                    "a prefix arrives"
                );
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => stream.fail(end, &error, self.faults),
        }
        false
    }

    fn end(&mut self) {
        let Some((stream, end)) = self.choose() else {
            return;
        };
        let stream = &mut self.streams[stream];
        let fd = stream.fds[end];
        if self.random.below(3) > 0 {
            if self.world.network.shutdown(fd, Shutdown::Write).is_ok() {
                stream.directions[end].finished = true;
            }
            return;
        }
        self.world.network.close(fd).unwrap();
        stream.open[end] = false;
        stream.directions[end].finished = true;
    }

    fn disturb(&mut self) {
        match self.random.below(5) {
            0 => self.world.network.partition_one_way(1, 2),
            1 => self.world.network.partition(1, 2),
            2 | 3 => self.world.network.heal(1, 2),
            _ => self.world.network.reset_connections(1, 2),
        }
    }

    fn pass_time(&mut self) {
        let time = Duration::from_micros(self.random.below(30_000));
        self.world.run_for(time);
    }

    /// Ends all partitions and reads until everything has arrived. Returns the number of complete directions.
    fn settle(&mut self) -> usize {
        let mut complete = 0;
        self.world.network.heal(1, 2);
        for index in 0..self.streams.len() {
            for end in 0..2 {
                let stream = &mut self.streams[index];
                let direction = &mut stream.directions[end];
                if stream.open[end]
                    && !direction.finished
                    && self
                        .world
                        .network
                        .shutdown(stream.fds[end], Shutdown::Write)
                        .is_ok()
                {
                    direction.finished = true;
                }
            }
        }
        for _ in 0..4000 {
            self.world.run_for(SECOND);
            for index in 0..self.streams.len() {
                for end in 0..2 {
                    while self.streams[index].open[end] && self.receive_at(index, end, 100_000) {}
                }
            }
            let done = |stream: &Stream| {
                (0..2).all(|end| !stream.open[1 - end] || stream.directions[end].ended)
            };
            if self.streams.iter().all(done) {
                break;
            }
        }
        for (number, stream) in self.streams.iter().enumerate() {
            for (end, direction) in stream.directions.iter().enumerate() {
                let reader = 1 - end;
                if !stream.open[reader] {
                    continue;
                }
                let (sent, received) = (direction.sent.len(), direction.received.len());
                let what = format!("stream {number}.{end}: {received} of {sent} bytes arrived");
                assert!(direction.ended, "{what} and then nothing");
                assert!(
                    sent == received || stream.broken[reader],
                    "{what} without an error"
                );
                complete += usize::from(sent == received && sent > 0);
            }
        }
        complete
    }

    /// Closes everything, and expects nothing to be left.
    fn close(&mut self) {
        let mut fds: Vec<RawFd> = self.connecting.values().copied().collect();
        fds.push(self.listener);
        for stream in &self.streams {
            fds.extend(
                (0..2)
                    .filter(|end| stream.open[*end])
                    .map(|end| stream.fds[end]),
            );
        }
        for fd in fds {
            self.world.network.close(fd).unwrap();
        }
        self.world.run_for(20 * MINUTE);
        assert_eq!(self.world.network.socket_count(), 0);
        assert_eq!(self.world.network.event_count(), 0);
        assert_eq!(self.world.network.buffered_bytes(), 0);
    }
}

/// Runs a program. Returns its trace, and the number of directions that were complete.
fn run(seed: u64, faults: bool) -> (Vec<Record>, usize) {
    let mut program = Program::new(seed, faults);
    for _ in 0..STEPS {
        program.step();
    }
    let complete = program.settle();
    program.close();
    (program.world.network.take_trace(), complete)
}

#[test]
fn streams_deliver_every_byte_once_and_in_order() {
    let complete: usize = (0..25).map(|seed| run(seed, false).1).sum();
    assert!(complete > 100, "{complete} directions of streams");
}

#[test]
fn streams_deliver_in_order_or_report_an_error_whatever_happens() {
    let (mut lost, mut repeated, mut complete) = (0, 0, 0);
    for seed in 100..140 {
        let (trace, directions) = run(seed, true);
        lost += World::count(&trace, Happened::SegmentLost);
        repeated += World::count(&trace, Happened::Retransmitted);
        complete += directions;
    }
    assert!(
        lost > 1000 && repeated > 300 && complete > 100,
        "{lost} lost, {repeated} repeated, {complete} complete"
    );
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in [3, 203] {
        let (one, other) = (run(seed, true).0, run(seed, true).0);
        assert!(one.len() > 100);
        assert!(one == other, "seed {seed}");
    }
    assert!(run(3, true).0 != run(4, true).0);
}

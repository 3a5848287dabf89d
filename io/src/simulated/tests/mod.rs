//! Tests of the simulated network: a small world of hosts, and shorthands for calls.

mod datagrams;
mod faults;
mod handshake;
mod hosts;
mod programs;
mod readiness;
mod tcp;
mod unix;

use super::address::{Address, Domain, Type, UnixName};
use super::hosts::HostId;
use super::network::Network;
use super::trace::{Happened, Record};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::time::Duration;
use yue_scheduler::Instant;

/// A network whose descriptors are numbered by a counter.
struct World {
    network: Network,
    last_fd: RawFd,
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn inet(text: &str) -> Address {
    Address::Inet(text.parse().unwrap())
}

fn path(text: &str) -> Address {
    Address::Unix(UnixName::Path(text.as_bytes().to_vec()))
}

fn abstract_name(text: &str) -> Address {
    Address::Unix(UnixName::Abstract(text.as_bytes().to_vec()))
}

/// The error number of a failed call.
#[track_caller]
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

impl World {
    /// A world with hosts 1 (10.0.0.1) and 2 (10.0.0.2), and a trace.
    fn new(seed: u64) -> World {
        let mut network = Network::new(seed);
        network.keep_trace();
        let mut world = World {
            network,
            last_fd: 100,
        };
        assert_eq!(world.host("10.0.0.1"), 1);
        assert_eq!(world.host("10.0.0.2"), 2);
        world
    }

    fn host(&mut self, address: &str) -> HostId {
        let address: IpAddr = address.parse().unwrap();
        self.network.add_host(&[address])
    }

    fn fd(&mut self) -> RawFd {
        self.last_fd += 1;
        self.last_fd
    }

    fn socket(&mut self, host: HostId, domain: Domain, kind: Type) -> RawFd {
        let fd = self.fd();
        self.network.socket(host, fd, domain, kind).unwrap();
        fd
    }

    fn tcp(&mut self, host: HostId) -> RawFd {
        self.socket(host, Domain::V4, Type::Stream)
    }

    fn udp(&mut self, host: HostId, address: &str) -> RawFd {
        let fd = self.socket(host, Domain::V4, Type::Datagram);
        self.network.bind(fd, &inet(address)).unwrap();
        fd
    }

    fn listener(&mut self, host: HostId, address: &str) -> RawFd {
        let fd = self.tcp(host);
        self.network.options_mut(fd).unwrap().reuse_address = true;
        self.network.bind(fd, &inet(address)).unwrap();
        self.network.listen(fd, 16).unwrap();
        fd
    }

    /// Begins to connect, and returns the descriptor.
    #[track_caller]
    fn start_connect(&mut self, host: HostId, address: &str) -> RawFd {
        let fd = self.tcp(host);
        let begun = self.network.connect(fd, &inet(address));
        assert_eq!(errno(begun), libc::EINPROGRESS);
        fd
    }

    #[track_caller]
    fn accept(&mut self, listener: RawFd) -> RawFd {
        let fd = self.fd();
        self.network.accept(listener, fd).unwrap();
        fd
    }

    /// Returns a connection from host 1 to host 2: the client's and the server's descriptors, and the listener's.
    #[track_caller]
    fn connection(&mut self) -> (RawFd, RawFd, RawFd) {
        let listener = self.listener(2, "10.0.0.2:80");
        let client = self.start_connect(1, "10.0.0.2:80");
        self.run_for(10 * MILLISECOND);
        let server = self.accept(listener);
        assert!(self.network.take_error(client).unwrap().is_none());
        (client, server, listener)
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.network.now().saturating_add(time);
        self.network.advance(until);
    }

    /// Runs to the next events until `done`, for a day at most. Returns the time that passed.
    #[track_caller]
    fn run_until(&mut self, mut done: impl FnMut(&mut Network) -> bool) -> Duration {
        let start = self.network.now();
        while !done(&mut self.network) {
            let next = self.network.next_event().expect("something happens");
            let passed = next.saturating_since(start);
            assert!(passed < Duration::from_secs(86_400), "it took {passed:?}");
            self.network.advance(next);
        }
        self.network.now().saturating_since(start)
    }

    /// Receives everything that is there. Returns the bytes, and whether the stream has ended.
    fn drain(&mut self, fd: RawFd) -> io::Result<(Vec<u8>, bool)> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match self.network.recv(fd, &mut buffer, 0) {
                Ok(0) => return Ok((all, true)),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((all, false)),
                Err(error) => return Err(error),
            }
        }
    }

    #[track_caller]
    fn read(&mut self, fd: RawFd) -> Vec<u8> {
        self.drain(fd).unwrap().0
    }

    fn local(&self, fd: RawFd) -> SocketAddr {
        self.network.local_address(fd).unwrap().inet().unwrap()
    }

    /// The number of records of that kind since the last call that took them.
    fn count(trace: &[Record], happened: Happened) -> usize {
        trace
            .iter()
            .filter(|record| record.happened == happened)
            .count()
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }
}

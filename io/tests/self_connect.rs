//! A socket that is assigned the very port it connects to is connected to itself (TCP's simultaneous open). Such a
//! connection is refused, unless the program has asked for it.
//!
//! Where the machine allows it, the tests run in a network namespace with only two ports to choose from, so that the
//! kernel soon chooses the port in question. Elsewhere they try often.

#[path = "common/child.rs"]
mod child;
mod common;

use child::child_output;
use common::*;
use std::ffi::CStr;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use yue_io::net::{ConnectOptions, TcpStream};

const RANGE: &CStr = c"/proc/sys/net/ipv4/ip_local_port_range";

/// Gives the process that `command` starts a network namespace, with a loopback device and two ports to choose from.
fn use_private_network(command: &mut Command) {
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe { command.pre_exec(make_network) };
}

fn check(answer: i32) -> io::Result<i32> {
    match answer {
        0.. => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}

fn make_network() -> io::Result<()> {
    const LOOPBACK: [libc::c_char; 2] = [b'l' as libc::c_char, b'o' as libc::c_char];
    const PORTS: &[u8] = b"40000 40001";
    // SAFETY: no memory is passed.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        // SAFETY: as above.
        check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) })?;
    }
    // SAFETY: a zeroed request is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&LOOPBACK);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: no memory is passed.
    let socket = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) })?;
    // SAFETY: a live request with the name of a device and its flags.
    check(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &request) })?;
    // SAFETY: a live, terminated string.
    let range = check(unsafe { libc::open(RANGE.as_ptr(), libc::O_WRONLY) })?;
    // SAFETY: live bytes.
    let written = unsafe { libc::write(range, PORTS.as_ptr().cast(), PORTS.len()) };
    check(written as i32)?;
    for fd in [socket, range] {
        // SAFETY: the descriptor was opened here, and nothing else owns it.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Runs `body` in a child, with the number of attempts after which the kernel has chosen each port.
fn with_few_ports(test: &str, body: impl FnOnce(usize)) {
    const MARK: &str = "YUE_TEST_OWN_NETWORK";
    let mut probe = Command::new("true");
    use_private_network(&mut probe);
    let allowed = probe.status().is_ok_and(|status| status.success());
    let prepare = |command: &mut Command| {
        if allowed {
            use_private_network(command);
            command.env(MARK, "1");
        }
    };
    child_output(test, prepare, || {
        body(if std::env::var_os(MARK).is_some() {
            20
        } else {
            30_000
        });
    });
}

/// Returns the first two ports that the kernel may choose: it prefers one parity for connects.
fn addresses() -> [SocketAddr; 2] {
    let range = std::fs::read_to_string(RANGE.to_str().unwrap()).unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    [first, first + 1].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
}

fn never_connects(attempts: usize, connect: impl Fn(SocketAddr) -> io::Result<TcpStream>) {
    for address in addresses() {
        for _ in 0..attempts {
            match connect(address) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
                Ok(stream) => panic!("{stream:?}"),
            }
        }
        // The port is still free, and a server can bind it.
        drop(std::net::TcpListener::bind(address).unwrap());
    }
}

#[test]
fn connecting_to_a_local_port_without_a_listener_is_refused() {
    with_few_ports(
        "connecting_to_a_local_port_without_a_listener_is_refused",
        |attempts| {
            for choice in choices() {
                run_on(choice, move || never_connects(attempts, TcpStream::connect));
            }
        },
    );
}

#[test]
fn a_plain_thread_is_refused_too() {
    with_few_ports("a_plain_thread_is_refused_too", |attempts| {
        let limit = Duration::from_secs(5);
        never_connects(attempts, |address| {
            TcpStream::connect_timeout(&address, limit)
        });
        never_connects(attempts, TcpStream::connect);
    });
}

#[test]
fn a_program_that_chooses_the_local_port_may_connect_to_itself() {
    on_each_driver(|| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let options = ConnectOptions {
            local: Some(address),
            ..ConnectOptions::default()
        };
        let stream = TcpStream::connect_with(address, &options).unwrap();
        assert_eq!(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    });
}

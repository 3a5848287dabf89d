//! The kinds of sockets that the kernel treats differently. A socket never changes its kind. yue knows the kind of a
//! socket that it created, and asks the kernel once for that of any other.

use crate::simulated;
use socket2::{Domain, Protocol, SockRef, Type};
use std::os::fd::{AsRawFd, OwnedFd};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    unix: bool,
    /// Whether each send is one message, sent as a whole or not at all.
    messages: bool,
    tcp: bool,
}

impl Kind {
    /// Something that is not a socket.
    const OTHER: Kind = Kind {
        unix: false,
        messages: false,
        tcp: false,
    };

    pub(crate) fn new(domain: Domain, kind: Type, protocol: Option<Protocol>) -> Kind {
        let stream = kind == Type::STREAM;
        let internet = domain == Domain::IPV4 || domain == Domain::IPV6;
        // The default protocol of an internet stream is TCP.
        let tcp = matches!(protocol, None | Some(Protocol::TCP));
        Kind {
            unix: domain == Domain::UNIX,
            messages: !stream,
            tcp: internet && stream && tcp,
        }
    }

    /// Returns the kind of a socket created elsewhere. The Rust type does not tell: a `UnixStream` may be built from a
    /// descriptor that preserves message boundaries (`SOCK_SEQPACKET`).
    pub(crate) fn of(fd: &OwnedFd) -> Kind {
        if simulated::is_on() {
            let (domain, kind) = match simulated::kind_of(fd.as_raw_fd()) {
                Some(found) => found,
                None => return Kind::OTHER,
            };
            return Kind::new(domain, kind, None);
        }
        let socket = SockRef::from(fd);
        match (socket.domain(), socket.r#type(), socket.protocol()) {
            (Ok(domain), Ok(kind), Ok(protocol)) => Kind::new(domain, kind, protocol),
            // Not a socket: every call on it will report that.
            _ => Kind::OTHER,
        }
    }

    pub(crate) fn is_unix(self) -> bool {
        self.unix
    }

    pub(crate) fn has_messages(self) -> bool {
        self.messages
    }

    pub(crate) fn is_tcp(self) -> bool {
        self.tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn the_kernel_reports_the_kind_of_an_existing_socket() {
        let tcp = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
        assert_eq!(
            Kind::of(&tcp),
            Kind::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
        );
        assert!(Kind::of(&tcp).is_tcp() && !Kind::of(&tcp).has_messages());
        let udp = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(Kind::of(&udp).has_messages() && !Kind::of(&udp).is_unix());
        let stream = OwnedFd::from(UnixStream::pair().unwrap().0);
        assert!(Kind::of(&stream).is_unix() && !Kind::of(&stream).has_messages());
        let datagram = OwnedFd::from(UnixDatagram::pair().unwrap().0);
        assert!(Kind::of(&datagram).is_unix() && Kind::of(&datagram).has_messages());
        let packets = socket2::Socket::pair(Domain::UNIX, Type::SEQPACKET, None)
            .unwrap()
            .0;
        assert!(Kind::of(&OwnedFd::from(packets)).has_messages());
    }
}

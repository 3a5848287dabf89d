//! A relay between clients and a server that cuts each link after a random number of bytes: in the middle of messages,
//! records, frames and handshakes, in either direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// One link in four is cut within this: in the handshake of TLS or WebSocket, or in yue's greeting.
const EARLY_BYTES: u64 = 2_000;
/// The other links are cut within this.
const LATE_BYTES: u64 = 400_000;

/// The relay. Its threads end with the test's process.
pub struct Cutter {
    /// The port that clients connect to.
    pub port: u16,
    /// Whether new links are cut.
    pub cuts: Arc<AtomicBool>,
    /// The number of links that were cut.
    pub links_cut: Arc<AtomicU64>,
}

impl Cutter {
    /// Relays to a port of this machine; `seed` decides where links are cut.
    pub fn new(to: u16, seed: u64) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (cuts, links_cut) = (Arc::new(AtomicBool::new(true)), Arc::default());
        let cutter = Cutter {
            port,
            cuts: Arc::clone(&cuts),
            links_cut: Arc::clone(&links_cut),
        };
        std::thread::spawn(move || {
            let mut random = seed | 1;
            for client in listener.incoming().flatten() {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let (number, early) = (random >> 33, random >> 62 == 0);
                let most = if early { EARLY_BYTES } else { LATE_BYTES };
                // The server may be gone at the end of the test.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)) {
                    relay(&client, &server, number % most, &cuts, &links_cut);
                }
            }
        });
        cutter
    }
}

fn relay(
    client: &TcpStream,
    server: &TcpStream,
    bytes: u64,
    cuts: &Arc<AtomicBool>,
    links_cut: &Arc<AtomicU64>,
) {
    let left = Arc::new(AtomicI64::new(bytes as i64));
    for (from, to) in [(client, server), (server, client)] {
        let (from, to) = (from.try_clone(), to.try_clone());
        let (mut from, mut to) = (from.expect("a descriptor"), to.expect("a descriptor"));
        let (left, cuts, links_cut) = (Arc::clone(&left), Arc::clone(cuts), Arc::clone(links_cut));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = from.read(&mut buffer) {
                let before = left.fetch_sub(read as i64, Ordering::Relaxed);
                let cut = cuts.load(Ordering::Relaxed) && before < read as i64;
                let passed = if cut { before.max(0) as usize } else { read };
                // An error is the end of the peer.
                if read == 0 || to.write_all(&buffer[..passed]).is_err() || cut {
                    links_cut.fetch_add(u64::from(cut), Ordering::Relaxed);
                    break;
                }
            }
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

//! A time service over UDP: SNTP (RFC 4330), server and client.
//!
//! `cargo run --release -p yue --example time -- serve 127.0.0.1:12300` serves; `… time -- ask 127.0.0.1:12300` asks
//! it (or any NTP server) how far this machine's clock is off.
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use yue::net::UdpSocket;

/// The size of a packet without extensions.
const PACKET_BYTES: usize = 48;
/// The seconds from the NTP epoch (1900) to the Unix epoch (1970).
const SECONDS_TO_1970: u64 = 2_208_988_800;
/// The client's time limit per request, and its number of attempts.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: usize = 4;

type Packet = [u8; PACKET_BYTES];

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = yue::Runtime::new()?;
    match arguments[..] {
        ["serve", address] => {
            let address = address.to_owned();
            runtime.run(move || serve(&UdpSocket::bind(address)?))
        }
        ["ask", address] => {
            let address = address.to_owned();
            let (offset, round_trip) = runtime.run(move || ask(&address))?;
            println!("this clock is {offset:+.6} s off, measured over {round_trip:.6} s");
            Ok(())
        }
        _ => {
            eprintln!("usage: time serve ADDRESS | time ask ADDRESS");
            std::process::exit(2)
        }
    }
}

/// Answers every request, forever. Requests that are too short get no answer, so that the service cannot amplify an
/// attack on a victim.
fn serve(socket: &UdpSocket) -> io::Result<()> {
    println!("serving at {}", socket.local_addr()?);
    let mut request: Packet = [0; PACKET_BYTES];
    loop {
        let (length, sender): (usize, SocketAddr) = socket.recv_from(&mut request)?;
        let received = now();
        let is_client = request[0] & 7 == 3;
        if length == PACKET_BYTES && is_client {
            // An unreachable sender must not stop the service.
            let _ = socket.send_to(&answer(&request, received), sender);
        }
    }
}

fn answer(request: &Packet, received: u64) -> Packet {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = request[0] & 0b0011_1000 | 4; // the client's version; mode: server
    packet[1] = 2; // stratum: synchronized to another server
    packet[2] = request[2];
    packet[3] = (-20i8) as u8; // precision: a microsecond
    packet[12..16].copy_from_slice(b"LOCL");
    packet[16..24].copy_from_slice(&received.to_be_bytes());
    packet[24..32].copy_from_slice(&request[40..48]);
    packet[32..40].copy_from_slice(&received.to_be_bytes());
    packet[40..48].copy_from_slice(&now().to_be_bytes());
    packet
}

/// Returns how far our clock is behind the server's, and the round-trip time, in seconds.
fn ask(address: &str) -> io::Result<(f64, f64)> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    for _ in 0..TRIES {
        match yue::timeout(PATIENCE, || ask_once(&socket)) {
            Ok(answer) => return answer,
            Err(yue::Elapsed) => eprintln!("no answer within {PATIENCE:?}"),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("{address} does not answer"),
    ))
}

fn ask_once(socket: &UdpSocket) -> io::Result<(f64, f64)> {
    let mut request: Packet = [0; PACKET_BYTES];
    request[0] = 4 << 3 | 3; // version 4; mode: client
    let sent = now();
    request[40..48].copy_from_slice(&sent.to_be_bytes());
    socket.send(&request)?;
    let mut packet: Packet = [0; PACKET_BYTES];
    loop {
        let length = socket.recv(&mut packet)?;
        let arrived = now();
        // Accept only the answer to this request: it carries the time that we sent.
        if length == PACKET_BYTES && packet[24..32] == sent.to_be_bytes() {
            let (received, answered) = (stamp(&packet[32..40]), stamp(&packet[40..48]));
            let offset = seconds_between(sent, received) + seconds_between(arrived, answered);
            let round_trip = seconds_between(sent, arrived) - seconds_between(received, answered);
            return Ok((offset / 2.0, round_trip));
        }
    }
}

fn stamp(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Returns the NTP time: seconds since 1900 in the upper half, units of 2^-32 s in the lower half.
fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    ((since.as_secs() + SECONDS_TO_1970) << 32) + fraction
}

fn seconds_between(from: u64, to: u64) -> f64 {
    to.wrapping_sub(from) as i64 as f64 / (1u64 << 32) as f64
}

//! An HTTP/1.1 server: httparse over plain `Read` and `Write`, with keep-alive and pipelining.
//!
//! `cargo run --release --example http -- 127.0.0.1:8080`, then `curl http://127.0.0.1:8080/`. Each connection is a
//! fiber that reads a request, answers it, and reads the next.
use std::io::{self, Read, Write};
use std::time::Duration;
use yue::net::{TcpListener, TcpStream};

const BUFFER_BYTES: usize = 8 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    yue::Runtime::new()?.run(move || {
        let listener = TcpListener::bind(address)?;
        println!("serving at http://{}/", listener.local_addr()?);
        for stream in listener.incoming() {
            let stream = stream?;
            drop(yue::spawn(move || converse(stream)));
        }
        Ok(())
    })
}

/// One connection, until it is closed, falls silent, or makes no sense.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match parse(&input) {
            Ok(Some((request, used))) => {
                answer(&request, &mut output);
                if !request.keep_alive {
                    return stream.write_all(&output);
                }
                input.drain(..used);
            }
            Ok(None) => {
                // Nothing more to answer: now the answers to all that was pipelined leave in one write.
                stream.write_all(&output)?;
                output.clear();
                match yue::timeout(IDLE, || read_more(&mut stream, &mut buffer, &mut input)) {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0)) | Err(yue::Elapsed) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                }
            }
            Err(status) => {
                respond(&mut output, status, b"", false);
                return stream.write_all(&output);
            }
        }
    }
}

fn read_more(stream: &mut TcpStream, buffer: &mut [u8], input: &mut Vec<u8>) -> io::Result<usize> {
    let count = stream.read(buffer)?;
    input.extend_from_slice(&buffer[..count]);
    Ok(count)
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a [u8],
    keep_alive: bool,
}

/// The first request of the input and its length, if all of it is there; or the status that refuses it.
fn parse(input: &[u8]) -> Result<Option<(Request<'_>, usize)>, &'static str> {
    if input.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(_) if input.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err("431 Request Header Fields Too Large");
        }
        Err(_) => return Err("400 Bad Request"),
    };
    let (method, path) = (head.method.unwrap_or(""), head.path.unwrap_or(""));
    let mut keep_alive = head.version == Some(1);
    let mut length = None;
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| "400 Bad Request")?;
        if header.name.eq_ignore_ascii_case("content-length") {
            let claimed: usize = value.trim().parse().map_err(|_| "400 Bad Request")?;
            // Two lengths that differ are how a request is smuggled past a proxy.
            if length
                .replace(claimed)
                .is_some_and(|other| other != claimed)
            {
                return Err("400 Bad Request");
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("501 Not Implemented");
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep_alive &= !value.eq_ignore_ascii_case("close");
            keep_alive |= value.eq_ignore_ascii_case("keep-alive");
        }
    }
    let length = length.unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return Err("413 Content Too Large");
    }
    let used = head_bytes + length;
    Ok(input.get(head_bytes..used).map(|body| {
        let request = Request {
            method,
            path,
            body,
            keep_alive,
        };
        (request, used)
    }))
}

/// The program: two pages.
fn answer(request: &Request<'_>, output: &mut Vec<u8>) {
    let keep = request.keep_alive;
    match (request.method, request.path) {
        ("GET", "/") => respond(output, "200 OK", b"hello, world\n", keep),
        ("POST", "/echo") => respond(output, "200 OK", request.body, keep),
        (_, "/" | "/echo") => respond(output, "405 Method Not Allowed", b"", keep),
        _ => respond(output, "404 Not Found", b"there is no such page\n", keep),
    }
}

fn respond(output: &mut Vec<u8>, status: &str, body: &[u8], keep_alive: bool) {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let (kind, length) = ("text/plain", body.len());
    // Writing to a vector does not fail.
    let _ = write!(
        output,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n"
    );
    output.extend_from_slice(body);
}

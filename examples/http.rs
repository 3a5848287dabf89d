//! An HTTP/1.1 server: httparse over plain `Read` and `Write`, with keep-alive, pipelining and a graceful shutdown.
//!
//! `cargo run --release -p yue --example http -- 127.0.0.1:8080`, then `curl http://127.0.0.1:8080/`. Each connection
//! is a fiber that reads a request, answers it, and reads the next. Ctrl-C ends the program once the answers are sent.
use std::io::{self, Read, Write};
use std::time::Duration;
use yue::net::{TcpListener, TcpStream};

const BUFFER_BYTES: usize = 8 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The time after which an idle connection is closed.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let runtime = yue::Runtime::builder().shutdown_on_signals(true).build()?;
    runtime.run(move || {
        let listener = TcpListener::bind(address)?;
        println!("serving at http://{}/", listener.local_addr()?);
        drop(yue::spawn(move || -> io::Result<()> {
            for stream in listener.incoming() {
                let stream = stream?;
                drop(yue::spawn(move || converse(stream)));
            }
            Ok(())
        }));
        yue::wait_for_shutdown()?;
        // The remaining fibers are cancelled here: they end where they wait for a request.
        Ok(())
    })
}

/// Serves one connection until it is closed, idle for too long, or sends an invalid request.
fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut told_to_continue = false;
    loop {
        match parse(&input) {
            Ok(Some((request, used))) => {
                answer(&request, &mut output);
                if !request.keep_alive {
                    return send(&mut stream, &output);
                }
                input.drain(..used);
                told_to_continue = false;
            }
            Ok(None) => {
                if !told_to_continue && expects_continue(&input) {
                    output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    told_to_continue = true;
                }
                // No request is left: send the answers to all pipelined requests in one write.
                send(&mut stream, &output)?;
                output.clear();
                match yue::timeout(IDLE, || read_more(&mut stream, &mut buffer, &mut input)) {
                    Ok(Ok(1..)) => {}
                    Ok(Ok(0)) | Err(yue::Elapsed) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                }
            }
            Err(status) => {
                respond(&mut output, status, b"", false);
                return send(&mut stream, &output);
            }
        }
    }
}

/// Sends answers, even while the program is being shut down.
fn send(stream: &mut TcpStream, output: &[u8]) -> io::Result<()> {
    yue::shield(|| stream.write_all(output))
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

/// Parses the first request of the input. Returns it with its length, or `None` if it is incomplete; or the status that
/// refuses it.
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
    let version_1_1 = head.version == Some(1);
    let (mut hosts, mut length) = (0, None);
    let (mut close, mut keep_alive) = (false, version_1_1);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| "400 Bad Request")?;
        if header.name.eq_ignore_ascii_case("content-length") {
            let claimed = digits(value.trim()).ok_or("400 Bad Request")?;
            // Two different lengths can smuggle a request past a proxy.
            if length
                .replace(claimed)
                .is_some_and(|other| other != claimed)
            {
                return Err("400 Bad Request");
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("501 Not Implemented");
        } else if header.name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                close |= option.eq_ignore_ascii_case("close");
                keep_alive |= option.eq_ignore_ascii_case("keep-alive");
            }
        } else if header.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        }
    }
    // RFC 9112, 3.2: an HTTP/1.1 request has exactly one Host.
    if hosts > 1 || (version_1_1 && hosts == 0) {
        return Err("400 Bad Request");
    }
    let (keep_alive, length) = (keep_alive && !close, length.unwrap_or(0));
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

/// Parses a number as HTTP writes it: digits only, whereas Rust would also accept a sign.
fn digits(text: &str) -> Option<usize> {
    let only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| only_digits)
}

/// Whether the client has sent a head with `Expect: 100-continue` and waits before it sends the body.
fn expects_continue(input: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    matches!(head.parse(input), Ok(httparse::Status::Complete(_)))
        && head.version == Some(1)
        && head.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("expect")
                && header.value.eq_ignore_ascii_case(b"100-continue")
        })
}

/// The application: two pages.
fn answer(request: &Request<'_>, output: &mut Vec<u8>) {
    let keep = request.keep_alive;
    let path = request.path.split('?').next().unwrap_or_default();
    match (request.method, path) {
        ("GET", "/") => respond(output, "200 OK", b"hello, world\n", keep),
        ("POST", "/echo") => respond(output, "200 OK", request.body, keep),
        ("HEAD", "/") => respond_head(output, "200 OK", b"hello, world\n".len(), keep),
        // The answer to a HEAD has no body, whatever its content-length.
        ("HEAD", _) => respond_head(output, "404 Not Found", 0, keep),
        (_, "/") => respond(
            output,
            "405 Method Not Allowed\r\nallow: GET, HEAD",
            b"",
            keep,
        ),
        (_, "/echo") => respond(output, "405 Method Not Allowed\r\nallow: POST", b"", keep),
        _ => respond(output, "404 Not Found", b"there is no such page\n", keep),
    }
}

fn respond(output: &mut Vec<u8>, status: &str, body: &[u8], keep_alive: bool) {
    respond_head(output, status, body.len(), keep_alive);
    output.extend_from_slice(body);
}

fn respond_head(output: &mut Vec<u8>, status: &str, length: usize, keep_alive: bool) {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let kind = "text/plain";
    // Writing to a vector does not fail.
    let _ = write!(
        output,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n"
    );
}

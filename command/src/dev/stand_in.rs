//! A server at the addresses of a program that is down: it answers with the reason.
//!
//! An open page that listens to the program's changes gets the error as its state, and shows it. A page that is asked
//! for is the error itself, with the same script, and becomes the program's page when that is back. All else is
//! answered with 503, so that clients try again.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue::lua::development::PAGE_SCRIPT;
use yue::net::{TcpListener, TcpStream};
use yue::{JoinHandle, sleep, spawn, timeout};

/// A request that does not arrive within this time is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a request that are read.
const HEAD_BYTES_MAX: u64 = 16 * 1024;

/// A browser opens a few connections to a server.
const CONNECTIONS_MAX: usize = 64;

/// The time for which a page's stream stays open; the script then asks again.
const STREAM: Duration = Duration::from_secs(3600);

/// The servers of one failure. Dropping it does not close them: [`end`](StandIn::end) does.
#[derive(Default)]
pub(super) struct StandIn {
    servers: Vec<JoinHandle<()>>,
}

impl StandIn {
    /// Serves at these URLs, as far as they are free and `http://`.
    pub(super) fn start(urls: &[String], text: &str) -> StandIn {
        let authorities = urls.iter().filter_map(|url| url.strip_prefix("http://"));
        let listeners = authorities.filter_map(|authority| TcpListener::bind(authority).ok());
        let text: Rc<str> = text.into();
        let servers = listeners.map(|listener| {
            let text = text.clone();
            spawn(move || serve(&listener, &text))
        });
        StandIn {
            servers: servers.collect(),
        }
    }

    /// Stops serving; the ports are free when this returns.
    pub(super) fn end(&mut self) {
        for server in self.servers.drain(..) {
            let _ = server.cancel_and_join();
        }
    }
}

fn serve(listener: &TcpListener, text: &Rc<str>) {
    let open = Rc::new(Cell::new(0));
    let _ = yue::try_scope(|s| -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept()?;
            if open.get() >= CONNECTIONS_MAX {
                continue;
            }
            open.set(open.get() + 1);
            let (open, text) = (open.clone(), text.clone());
            s.spawn(move || {
                // A client that has gone needs no answer.
                let _ = answer(&stream, &text);
                open.set(open.get() - 1);
                Ok::<(), io::Error>(())
            });
        }
    });
}

fn answer(stream: &TcpStream, text: &str) -> io::Result<()> {
    let (path, wants_page) = match timeout(PATIENCE, || read_request(stream)) {
        Ok(request) => request?,
        Err(yue::Elapsed) => return Ok(()),
    };
    match &*path {
        "/_yue/dev.js" => send(
            stream,
            "200 OK",
            "text/javascript; charset=utf-8",
            PAGE_SCRIPT,
        ),
        "/_yue/dev" => {
            let state = serde_json::json!({ "pages": null, "styles": false, "error": text });
            let head = head("200 OK", "text/event-stream");
            let mut stream: &TcpStream = stream;
            write!(
                stream,
                "{head}\r\nretry: 300\nevent: state\ndata: {state}\n\n"
            )?;
            Ok(sleep(STREAM)?)
        }
        _ if wants_page => send(
            stream,
            "503 Service Unavailable",
            "text/html; charset=utf-8",
            &error_page(text),
        ),
        _ => send(
            stream,
            "503 Service Unavailable",
            "text/plain; charset=utf-8",
            "the program is down: see the terminal of yue dev\n",
        ),
    }
}

/// Reads a request's path, without its query, and whether it is for a page.
fn read_request(stream: &TcpStream) -> io::Result<(String, bool)> {
    let mut lines = BufReader::new(stream.take(HEAD_BYTES_MAX)).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let mut wants_page = false;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        wants_page |= line.starts_with("accept:") && line.contains("text/html");
    }
    let target = first.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    Ok((path.to_owned(), wants_page))
}

fn head(status: &str, kind: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncache-control: no-store\r\nretry-after: 1\r\n\
         connection: close\r\n"
    )
}

fn send(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let head = head(status, kind);
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len())
}

/// A page that loads the script, which shows the error, and reloads the page when the program is back: the program's
/// stamp differs from this page's.
fn error_page(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<!doctype html><meta charset=utf-8><title>The program is down</title>\
         <style>:root {{ color-scheme: light dark }} pre {{ white-space: pre-wrap }}</style>\
         <h1>The program is down</h1><pre data-yue-error>{text}</pre>\
         <script src=\"/_yue/dev.js\" data-pages=\"none\"></script>"
    )
}

#[cfg(test)]
mod tests {
    use super::{StandIn, error_page};
    use std::io::{Read, Write};
    use yue::net::{TcpListener, TcpStream};

    fn ask(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        while !text.ends_with("\n\n") || !text.contains("data:") {
            let mut buffer = [0; 1024];
            match stream.read(&mut buffer).expect("it answers") {
                0 => break,
                count => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        text
    }

    #[test]
    fn each_kind_of_client_gets_the_reason_in_its_form() {
        let run = yue_io::run(|| {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = free.local_addr().expect("it is bound").to_string();
            drop(free);
            let urls = [
                format!("http://{address}"),
                "https://127.0.0.1:1".to_owned(),
            ];
            let mut stand_in = StandIn::start(&urls, "rules.lua:3: <oops>");
            let page = ask(&address, "GET / HTTP/1.1\r\nAccept: text/html,*/*\r\n\r\n");
            assert!(
                page.starts_with("HTTP/1.1 503 ") && page.contains("rules.lua:3: &lt;oops>"),
                "{page}"
            );
            let state = ask(&address, "GET /_yue/dev?x HTTP/1.1\r\n\r\n");
            assert!(
                state.contains(r#""error":"rules.lua:3: <oops>""#),
                "{state}"
            );
            let script = ask(&address, "GET /_yue/dev.js HTTP/1.1\r\n\r\n");
            assert!(script.contains("EventSource"), "{script}");
            let other = ask(&address, "GET /rpc HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
            assert!(
                other.starts_with("HTTP/1.1 503 ") && !other.contains("oops"),
                "{other}"
            );
            stand_in.end();
            TcpListener::bind(&*address).expect("the port is free again");
        });
        run.expect("a loop");
    }

    #[test]
    fn the_page_shows_no_markup_of_the_error() {
        assert!(error_page("<script>&").contains(">&lt;script>&amp;</pre>"));
    }
}

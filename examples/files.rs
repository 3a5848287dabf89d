//! A file server over HTTP, with a graceful shutdown.
//!
//! `cargo run --release -p yue --example files -- . 127.0.0.1:8080`, then `curl http://127.0.0.1:8080/README.md`.
//! Ctrl-C stops accepting, lets running downloads finish, and ends the program.
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use yue::fs::{self, File};
use yue::net::{TcpListener, TcpStream};

const HEAD_BYTES_MAX: u64 = 16 * 1024;
/// The time limit for a client to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let address = arguments.next();
    let address = address.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let runtime = yue::Runtime::builder()
        .shutdown_on_signals(true)
        .grace(Duration::from_secs(30))
        .build()?;
    runtime.run(move || serve(&folder, &address))
}

fn serve(folder: &Path, address: &str) -> io::Result<()> {
    let folder = &fs::canonicalize(folder)?;
    let listener = TcpListener::bind(address)?;
    println!("serving at http://{}/", listener.local_addr()?);
    yue::scope(|s| {
        let accepting = s.spawn(move || -> io::Result<()> {
            for stream in listener.incoming() {
                let stream = stream?;
                s.spawn(move || {
                    // A client that disconnects early does not affect the others.
                    let _ = serve_one(&stream, folder);
                });
            }
            Ok(())
        });
        yue::wait_for_shutdown()?;
        accepting.cancel();
        // The scope ends when the downloads finish, or when the grace period ends and they are cancelled.
        Ok::<(), yue::Stopped>(())
    })?;
    println!("all downloads are over");
    Ok(())
}

/// Waits for a request and answers it. A client that has not sent its request yet does not delay the shutdown.
fn serve_one(stream: &TcpStream, folder: &Path) -> io::Result<()> {
    let asked = yue::select! {
        outcome = readable(stream) => outcome.map(|()| true),
        _ = after(PATIENCE) => Ok(false),
        _ = shutdown() => Ok(false),
    };
    match asked? {
        Ok(true) => answer(stream, folder),
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Answers one request; then the connection is closed.
fn answer(stream: &TcpStream, folder: &Path) -> io::Result<()> {
    let path = match yue::timeout(PATIENCE, || read_request(stream)) {
        Ok(Ok(path)) => path,
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidData => {
            return refuse(stream, "400 Bad Request");
        }
        Ok(Err(error)) => return Err(error),
        Err(yue::Elapsed) => return refuse(stream, "408 Request Timeout"),
    };
    // Resolve the path before comparing it, so that neither `..` nor a link leads out of the folder.
    let wanted = match fs::canonicalize(folder.join(path.trim_start_matches('/'))) {
        Ok(wanted) if wanted.starts_with(folder) => wanted,
        Ok(_) => return refuse(stream, "403 Forbidden"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return refuse(stream, "403 Forbidden");
        }
        Err(_) => return refuse(stream, "404 Not Found"),
    };
    if fs::metadata(&wanted)?.is_dir() {
        return list(stream, &wanted);
    }
    let mut file = File::open(&wanted)?;
    let bytes = file.metadata()?.len();
    head(stream, "200 OK", bytes)?;
    // Send no more bytes than announced, even if the file is growing.
    io::copy(&mut (&mut file).take(bytes), &mut &*stream).map(drop)
}

/// Reads the path of a GET. The rest of the head is read and ignored.
fn read_request(stream: &TcpStream) -> io::Result<String> {
    let mut lines = BufReader::new(stream).take(HEAD_BYTES_MAX).lines();
    let first = lines.next().ok_or(ErrorKind::UnexpectedEof)??;
    for line in lines {
        if line?.is_empty() {
            let mut words = first.split(' ');
            return match (words.next(), words.next()) {
                (Some("GET"), Some(path)) => Ok(path.to_owned()),
                _ => Err(io::Error::new(ErrorKind::InvalidData, "not a GET")),
            };
        }
    }
    Err(io::Error::new(
        ErrorKind::InvalidData,
        "the head has no end",
    ))
}

fn list(stream: &TcpStream, folder: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned() + "\n");
    }
    names.sort();
    let text = names.concat();
    head(stream, "200 OK", text.len() as u64)?;
    (&*stream).write_all(text.as_bytes())
}

fn refuse(stream: &TcpStream, status: &str) -> io::Result<()> {
    head(stream, status, 0)
}

fn head(mut stream: &TcpStream, status: &str, bytes: u64) -> io::Result<()> {
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes())
}

//! A chat over a Unix socket: server and client.
//!
//! `cargo run --release -p yue --example chat -- serve /tmp/chat`, and in other terminals
//! `… chat -- join /tmp/chat frodo`. In the server, each member of the room has two fibers: one reads the member's
//! lines, the other writes lines to it.
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::rc::Rc;
use yue::net::{UnixListener, UnixStream};
use yue::sync::local::{Receiver, Sender, channel};

/// The maximum number of lines queued for a member. A slower member is disconnected, so that the others need not wait
/// and the server's memory is bounded.
const LINES_WAITING_MAX: usize = 256;
const LINE_BYTES_MAX: u64 = 4096;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = yue::Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", path] => {
            let path = path.to_owned();
            runtime.run(move || serve(&path))
        }
        ["join", path, name] => {
            let (path, name) = (path.to_owned(), name.to_owned());
            runtime.run(move || join(&path, &name))
        }
        _ => {
            eprintln!("usage: chat serve PATH | chat join PATH NAME");
            std::process::exit(2)
        }
    }
}

/// The members of the room by number, each with a channel to its writer. No lock is needed, because nothing in it
/// waits.
#[derive(Default)]
struct Room {
    members: RefCell<HashMap<u64, Sender<Rc<str>>>>,
}

impl Room {
    fn say(&self, line: &str) {
        let line: Rc<str> = format!("{line}\n").into();
        // Remove a member whose queue is full: its channel closes, its writer ends, and its connection closes.
        self.members
            .borrow_mut()
            .retain(|_, member| member.try_send(line.clone()).is_ok());
    }
}

fn serve(path: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    println!("serving at {path}");
    let room = Rc::new(Room::default());
    for (number, stream) in (0..).zip(listener.incoming()) {
        let (stream, room) = (stream?, room.clone());
        drop(yue::spawn(move || {
            // A broken connection only means that the member has left.
            let _ = visit(&stream, number, &room);
        }));
    }
    Ok(())
}

/// Serves one member from its name to its last line.
fn visit(stream: &UnixStream, number: u64, room: &Room) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(name) = read_line(&mut reader)? else {
        return Ok(());
    };
    let (sender, receiver) = channel(LINES_WAITING_MAX);
    room.members.borrow_mut().insert(number, sender);
    room.say(&format!("* {name} comes in"));
    let outcome = yue::scope(|s| {
        s.spawn(move || {
            let _ = write_lines(stream, &receiver);
            // Wake the reader, if it is still running.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        let outcome = listen(&mut reader, &name, room);
        room.members.borrow_mut().remove(&number);
        outcome
    });
    room.say(&format!("* {name} leaves"));
    outcome
}

fn listen(reader: &mut impl BufRead, name: &str, room: &Room) -> io::Result<()> {
    while let Some(line) = read_line(reader)? {
        room.say(&format!("{name}: {line}"));
    }
    Ok(())
}

/// Writes lines until the channel is closed: the member has left the room.
fn write_lines(mut stream: &UnixStream, lines: &Receiver<Rc<str>>) -> io::Result<()> {
    while let Ok(line) = lines.recv() {
        stream.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line);
    // Remove control characters, so that members cannot send commands to the others' terminals.
    Ok(Some(line.chars().filter(|c| !c.is_control()).collect()))
}

/// Copies the terminal's input to the server, and the server's lines to the terminal.
fn join(path: &str, name: &str) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    writeln!(&stream, "{name}")?;
    yue::scope(|s| {
        let hearing = s.spawn(|| io::copy(&mut &stream, &mut yue::stdio::stdout()));
        let speaking = io::copy(&mut yue::stdio::stdin(), &mut &stream);
        // The terminal's input has ended; keep printing the server's lines until it closes.
        stream.shutdown(std::net::Shutdown::Write)?;
        hearing.join()??;
        speaking.map(drop)
    })
}

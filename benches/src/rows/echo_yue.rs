//! yue's servers of row 7: a fiber per connection over `Read` and `Write`, and owned connections without a fiber.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;

use yue_io::Choice;
use yue_io::connection::{Connection, Sink};
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::{Config, Loop, spawn};

use super::served_load::ready;
use crate::harness::Problem;

const BUFFER_BYTES: usize = 4096;

/// The way in which a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A fiber reads and writes.
    Fiber,
    /// The loop delivers received bytes and takes outgoing ones.
    Owned,
}

/// Serves on one loop until the process ends.
pub fn serve(choice: Choice, way: Way) -> Result<(), Problem> {
    let config = Config {
        driver: yue_io::driver(choice)?,
        ..Config::default()
    };
    Loop::new(config)?.run(move || accept_all(way))
}

fn accept_all(way: Way) -> Result<(), Problem> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    ready(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        match way {
            Way::Fiber => drop(spawn(move || echo(&stream))),
            Way::Owned => Owned::start(stream)?,
        }
    }
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

/// A sink that echoes. Buffers that were sent are reused.
#[derive(Default)]
struct Owned {
    connection: RefCell<Option<Connection>>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Owned {
    fn start(stream: TcpStream) -> io::Result<()> {
        let sink = Rc::new(Owned::default());
        let connection = Connection::start(stream, Rc::clone(&sink) as Rc<dyn Sink>)?;
        *sink.connection.borrow_mut() = Some(connection);
        Ok(())
    }
}

impl Sink for Owned {
    fn data(&self, bytes: &[u8]) {
        let mut buffer = self.spare.borrow_mut().pop().unwrap_or_default();
        buffer.extend_from_slice(bytes);
        if let Some(connection) = &*self.connection.borrow() {
            connection.send(buffer);
        }
    }

    fn sent(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.borrow_mut().push(buffer);
    }

    fn closed(&self, _: io::Result<()>) {
        // The connection holds this sink: without this the two would keep each other alive forever.
        self.connection.borrow_mut().take();
    }
}

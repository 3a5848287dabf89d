//! One node: its process, and the relay between the process and the owner's channel.
//!
//! ```text
//!   owner ═══ stream ── "agent up"   ──▶ socket ──▶ node        data; its end, in order or not, ends the node's input
//!                ▲ ◀─── "agent down" ◀── socket ◀── node        data; then End
//!                └───── "agent output" ◀─ bounded ◀─ stderr     what the node prints
//!   the calling fiber waits for the process, kills what is left of its group, and sends how it ended
//! ```
//!
//! The node never sees a key. It has a lifeline that only this process holds open, so it ends if the agent is killed,
//! and the owner's lease. When the owner has gone, it gets its grace and a few seconds; then it is killed.

use super::stream::Stream;
use super::user::User;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use yue::nalloc::agent::{Answer, Channel, Codec, FRAME_MAX, Kind, PAYLOAD_MAX, Request};
use yue::nalloc::describe_end;
use yue::net::UnixStream;
use yue::pipe::PipeReader;
use yue::process::{Child, Command, Stdio};
use yue::sync::local::{Mutex, Notify};
use yue::{Builder, CancelScope, JoinHandle, shield, sleep, timeout};

/// The time that a node has, besides its grace, to end when its owner has gone or closed it.
const CLOSE_TIME: Duration = Duration::from_secs(6);

/// The time for the last bytes of an ended node on their way to its owner.
const LAST_TIME: Duration = Duration::from_secs(5);

/// The time in which the output of an ended node is read to its end: a process outside its group may hold it open.
const OUTPUT_TIME: Duration = Duration::from_millis(200);

/// The time in which the owner is expected to close its side, so that its last bytes do not reset the connection.
const LINGER: Duration = Duration::from_secs(1);

/// The bytes of output that wait for the owner; more are dropped, so that a node that floods is not held up.
const OUTPUT_MAX: usize = 1 << 16;

/// A file that was just written may still be open in a child that is about to run something else.
const BUSY_ATTEMPTS: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A node that was just started.
pub(super) struct Started {
    child: Child,
    socket: UnixStream,
    output: PipeReader,
    /// Its end tells the node that the agent has gone.
    lifeline: OwnedFd,
}

impl Started {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// Starts a node.
///
/// # Errors
/// The system's.
pub(super) fn start(request: &Request, binary: &Path, user: Option<&User>) -> io::Result<Started> {
    let mut attempts = 0;
    loop {
        match try_start(request, binary, user) {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && attempts < BUSY_ATTEMPTS =>
            {
                attempts += 1;
                sleep(BUSY_PAUSE)?;
            }
            outcome => return outcome,
        }
    }
}

fn try_start(request: &Request, binary: &Path, user: Option<&User>) -> io::Result<Started> {
    let (ours, theirs) = StdStream::pair()?;
    let (output, its_output) = io::pipe()?;
    let (its_lifeline, lifeline) = io::pipe()?;
    let its_lifeline = OwnedFd::from(its_lifeline);
    let mut command = Command::new(binary);
    command
        .arg0("yue")
        .args(["node", "--leased"])
        .arg(format!("--lifeline={}", its_lifeline.as_raw_fd()))
        .inherit(its_lifeline)
        .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::from(OwnedFd::from(its_output)))
        .new_session()
        .kill_on_drop(true);
    if let Some(user) = user {
        user.apply(&mut command);
    }
    for (name, value) in &request.variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if !request.folder.is_empty() {
        command.current_dir(&request.folder);
    }
    let child = command.spawn()?;
    Ok(Started {
        child,
        socket: UnixStream::from(OwnedFd::from(ours)),
        output: PipeReader::from(OwnedFd::from(output)),
        lifeline: OwnedFd::from(lifeline),
    })
}

/// The owner's channel, and the node's socket, between which the fibers carry.
struct Relay {
    stream: Stream,
    codec: RefCell<Codec>,
    /// Held from the sealing of a frame to its last byte: frames leave in the order of their numbers.
    writing: Mutex<Vec<u8>>,
    socket: UnixStream,
    output: RefCell<Vec<u8>>,
    output_dropped: Cell<usize>,
    output_changed: Notify,
    output_ended: Cell<bool>,
    /// The owner sends no more, or has gone.
    owner_ended: Notify,
}

/// Carries between a node and its owner until nothing of the node is left; returns how the node ended. `freed` is
/// called when its process has ended. A cancelled fiber kills the node.
///
/// # Errors
/// If there is no memory for a fiber. The node is killed.
pub(super) fn carry(
    channel: Channel<Stream>,
    started: Started,
    request: &Request,
    freed: impl FnOnce(),
) -> io::Result<String> {
    let Started {
        mut child,
        socket,
        output,
        lifeline,
    } = started;
    let (stream, codec) = channel.into_parts();
    let relay = Rc::new(Relay {
        stream,
        codec: RefCell::new(codec),
        writing: Mutex::new(Vec::new()),
        socket,
        output: RefCell::default(),
        output_dropped: Cell::new(0),
        output_changed: Notify::new(),
        output_ended: Cell::new(false),
        owner_ended: Notify::new(),
    });
    // An error of the down direction is the owner's end, which the other direction meets, too.
    let up = relay.spawn("agent up", Relay::carry_up)?;
    let down = relay.spawn("agent down", |relay| drop(relay.carry_down()))?;
    let reading = relay.spawn("agent stderr", move |relay| relay.read_output(output))?;
    let printing = relay.spawn("agent output", |relay| drop(relay.send_output()))?;
    let limit = CLOSE_TIME + request.grace();
    let life = CancelScope::new();
    let over = life.clone();
    let killing = relay.spawn("agent kill", move |relay| {
        if relay.owner_ended.notified().is_ok() && sleep(limit).is_ok() {
            over.cancel();
        }
    })?;
    let status = life.enter(|| {
        child.wait_and_kill_group().or_else(|_| {
            let _ = child.kill_group();
            shield(|| child.wait_and_kill_group())
        })
    });
    killing.cancel();
    drop(lifeline);
    freed();
    let how = match status {
        _ if yue::is_cancelled() => "was ended with its agent".to_owned(),
        Ok(status) => describe_end(status),
        Err(error) => format!("ended: {error}"),
    };
    shield(|| {
        // Its bytes are in the socket: they are carried to their end.
        let _ = relay.socket.shutdown(Shutdown::Read);
        wait_for(down, LAST_TIME);
        wait_for(reading, OUTPUT_TIME);
        relay.output_ended.set(true);
        relay.output_changed.notify_one();
        wait_for(printing, LAST_TIME);
        let _ = timeout(LAST_TIME, || relay.send_end(&how));
        let _ = relay.stream.shutdown(Shutdown::Write);
        wait_for(up, LINGER);
    });
    Ok(how)
}

/// Waits for a fiber, and cancels it when the time has passed.
fn wait_for(mut fiber: JoinHandle<()>, limit: Duration) {
    let _ = timeout(limit, || fiber.wait());
    fiber.cancel();
}

impl Relay {
    fn spawn(
        self: &Rc<Self>,
        name: &str,
        body: impl FnOnce(&Relay) + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let this = self.clone();
        Builder::new().name(name).spawn(move || body(&this))
    }

    /// Sends a message to the owner.
    fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut out = self.writing.lock()?;
        out.clear();
        self.codec.borrow_mut().seal(kind, payload, &mut out)?;
        self.stream.clone().write_all(&out)
    }

    fn send_end(&self, how: &str) -> io::Result<()> {
        let mut out = self.writing.lock()?;
        out.clear();
        let ended = Answer::Ended(how.to_owned());
        self.codec.borrow_mut().seal_answer(&ended, &mut out)?;
        self.stream.clone().write_all(&out)
    }

    /// Carries from the owner to the node. The end is the node's end of input.
    fn carry_up(&self) {
        let outcome = self.carry_frames();
        // In order, or the owner has gone: in order, the owner's reason has arrived before.
        let _ = self.socket.shutdown(Shutdown::Write);
        self.owner_ended.notify_one();
        if matches!(outcome, Ok(true)) {
            // The last bytes of the owner; only reading shows when it has closed its side.
            let _ = io::copy(&mut self.stream.clone(), &mut io::sink());
        }
    }

    /// Carries frames. Returns whether the owner has ended its direction in order.
    fn carry_frames(&self) -> io::Result<bool> {
        let mut stream = self.stream.clone();
        let mut bytes = vec![0; 2 + FRAME_MAX];
        let (mut filled, mut data) = (0, Vec::new());
        loop {
            let count = stream.read(&mut bytes[filled..])?;
            if count == 0 {
                return Ok(false);
            }
            filled += count;
            data.clear();
            let mut has_ended = false;
            let opened = self
                .codec
                .borrow_mut()
                .open_all(&bytes[..filled], &mut data, |kind| {
                    has_ended = kind == Kind::End;
                    !has_ended
                });
            (&self.socket).write_all(&data)?;
            let taken = opened?;
            if has_ended {
                return Ok(true);
            }
            bytes.copy_within(taken..filled, 0);
            filled -= taken;
        }
    }

    /// Carries from the node to the owner.
    fn carry_down(&self) -> io::Result<()> {
        let mut piece = vec![0; PAYLOAD_MAX];
        loop {
            match (&self.socket).read(&mut piece) {
                // A killed node resets the socket.
                Ok(0) | Err(_) => return self.send(Kind::End, &[]),
                Ok(count) => self.send(Kind::Data, &piece[..count])?,
            }
        }
    }

    /// Reads what the node prints, to its end.
    fn read_output(&self, mut stream: PipeReader) {
        let mut piece = vec![0; OUTPUT_MAX];
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            let mut output = self.output.borrow_mut();
            let fits = count.min(OUTPUT_MAX.saturating_sub(output.len()));
            output.extend_from_slice(&piece[..fits]);
            self.output_dropped
                .set(self.output_dropped.get() + count - fits);
            self.output_changed.notify_one();
        }
    }

    /// Sends what the node has printed.
    fn send_output(&self) -> io::Result<()> {
        loop {
            let mut output = self.output.take();
            let dropped = self.output_dropped.take();
            if dropped > 0 {
                let text = format!("\n(the agent dropped {dropped} bytes that followed)\n");
                output.extend_from_slice(text.as_bytes());
            }
            if !output.is_empty() {
                self.send(Kind::Output, &output)?;
            } else if self.output_ended.get() {
                return Ok(());
            } else {
                self.output_changed.notified()?;
            }
        }
    }
}

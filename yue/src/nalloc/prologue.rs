//! The prologue of a node that another machine's shell starts: the owner's program travels there, if it is missing.
//!
//! ```text
//!   owner ── host.sh, the program's hash, the command ──▶ sh
//!         ◀──────────────── have ──────────────────────── sh becomes the node; the session begins
//!         ◀──────────────── need ──────────────────────── the owner sends the program
//! ```
//!
//! `host.sh` lists the messages. It runs in the connector's fiber, before the link, and reads exactly its own bytes. A
//! program that is there already costs no round trip: everything was sent before the answer.

use super::allocation::{Allocation, Stage};
use super::life::{Started, describe_end};
use super::process::Refused;
use super::program::{self, Packed};
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::net::UnixStream;
use yue_scheduler::{blocking, timeout};

/// The host's side.
const SCRIPT: &str = include_str!("host.sh");

/// A longer line is a greeting's: what it begins with is dropped.
const LINE_MAX: usize = 1 << 16;

/// A host that prints more before its first answer is not a shell.
const GREETING_MAX: usize = 1 << 20;

/// Bytes that are looked at in one go.
const PIECE: usize = 4096;

/// The time in which a carrier that has closed its output ends, and its output is read to its end.
const END_TIME: Duration = Duration::from_secs(1);

/// The words behind `sh -c`, quoted for any shell: it reads the script, as a line, from its input.
pub(crate) const SHELL: &str = r#"read -r script; eval "$script""#;

/// The conversation between the start of a carrier and the start of the link.
#[derive(Debug, Clone)]
pub(crate) struct Prologue {
    /// The word by which the answers are known.
    pub(crate) nonce: String,
    /// The line of shell that starts the program `"$@"`. `None`: the carrier starts the program itself, which sends the
    /// answer.
    pub(crate) start: Option<Vec<u8>>,
}

impl Prologue {
    /// Runs the conversation. In a fiber.
    ///
    /// # Errors
    /// [`ErrorKind::Allocation`], with the reason.
    pub(super) fn run(
        &self,
        allocation: &Rc<Allocation>,
        started: &mut Started,
    ) -> Result<(), Refused> {
        let limit = allocation.plan.timeout;
        let talk = || {
            let mut talk = Talk::new(self, allocation, started)?;
            if let Some(start) = &self.start {
                talk.begin(start)?;
            }
            talk.finish()
        };
        match timeout(limit, talk) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure::Said(text))) => Err(Refused::new(text)),
            Ok(Err(Failure::Io(error))) => Err(ended(allocation, started, &error)),
            Err(_) => Err(Refused::new(format!("it took longer than {limit:?}"))),
        }
    }
}

/// The carrier has closed its output: how it ended says more than that.
fn ended(allocation: &Rc<Allocation>, started: &mut Started, error: &io::Error) -> Refused {
    let status = timeout(END_TIME, || started.child.wait_and_kill_group());
    let Ok(Ok(status)) = status else {
        return Refused::new(format!("the carrier does not answer: {error}"));
    };
    // An error means that the output has not ended in time.
    let _ = timeout(END_TIME, || allocation.lines.wait_for_end());
    let mut text = format!("the carrier {}", describe_end(status));
    let lines = allocation.lines.last();
    let says = |words: &str| {
        let words = words.as_bytes();
        lines
            .iter()
            .any(|line| line.windows(words.len()).any(|part| part == words))
    };
    if says("Permission denied (") {
        text.push_str("; no password is asked for here: the host must accept a key");
    } else if says("Host key verification failed") {
        text.push_str("; the host's key must be known, or be given with the target");
    }
    Refused {
        status: Some(status),
        ..Refused::new(text)
    }
}

enum Failure {
    /// The reason, as text.
    Said(String),
    /// The stream has failed, or ended.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

fn said<T>(text: impl Display) -> Result<T, Failure> {
    Err(Failure::Said(text.to_string()))
}

/// Runs work that reads and packs whole files.
fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match blocking(work) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => said(format_args!("cannot read the owner's program: {error}")),
        Err(error) => Err(Failure::Io(io::Error::other(error))),
    }
}

/// The conversation with one host.
struct Talk<'a> {
    stream: UnixStream,
    /// The beginning of each answer.
    mark: Vec<u8>,
    allocation: &'a Rc<Allocation>,
    /// Whether the host can unpack.
    packs: bool,
}

impl Talk<'_> {
    fn new<'a>(
        prologue: &Prologue,
        allocation: &'a Rc<Allocation>,
        started: &Started,
    ) -> Result<Talk<'a>, Failure> {
        Ok(Talk {
            stream: UnixStream::from(started.socket.try_clone()?),
            mark: format!("yue-{} ", prologue.nonce).into_bytes(),
            allocation,
            packs: false,
        })
    }

    /// Sends all that the host needs if it has the program.
    fn begin(&mut self, start: &[u8]) -> Result<(), Failure> {
        let hash = on_pool(program::own_hash)?;
        let script = one_line(SCRIPT);
        let lines = [
            script.as_bytes(),
            b"\n",
            hash.as_bytes(),
            b"\n",
            start,
            b"\n",
        ];
        Ok(self.stream.write_all(&lines.concat())?)
    }

    /// Answers the host until it has the program.
    fn finish(&mut self) -> Result<(), Failure> {
        loop {
            let answer = self.answer()?;
            let (word, rest) = answer.split_once(' ').unwrap_or((&answer, ""));
            match word {
                "have" => return Ok(()),
                "need" => self.send_program(rest)?,
                "libraries" => self.send_libraries(rest)?,
                "fail" => return said(rest),
                _ => return said(format_args!("the host answered '{answer}'")),
            }
        }
    }

    fn send_program(&mut self, facts: &str) -> Result<(), Failure> {
        self.allocation.set_stage(Stage::Program);
        let mut words = facts.split(' ');
        let (os, machine) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (own_os, own_machine) = own_system();
        if (os, machine) != (&own_os, &own_machine) {
            return said(format_args!(
                "the host runs {os} on {machine}, and this program is for {own_os} on {own_machine}"
            ));
        }
        self.packs = words.next() == Some("gunzip");
        let packs = self.packs;
        let packed = on_pool(move || program::own_packed(packs))?;
        self.send(&packed)
    }

    /// Sends a file: its sizes and its hash, then its bytes.
    fn send(&mut self, packed: &Packed) -> Result<(), Failure> {
        let Packed { bytes, size, hash } = packed;
        let header = format!("{} {size} {hash}\n", bytes.len());
        let sent = self.stream.write_all(header.as_bytes());
        match sent.and_then(|()| self.stream.write_all(bytes)) {
            // The host has given up; its last answer says why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(sent?),
        }
    }

    fn send_libraries(&mut self, why: &str) -> Result<(), Failure> {
        let libraries = on_pool(|| {
            let all = program::own_libraries()?.into_iter();
            let with_hash = |library: program::Library| Ok((library.hash()?, library));
            all.map(with_hash).collect::<io::Result<Vec<_>>>()
        })?;
        if libraries.is_empty() {
            return said(format_args!("the program does not start there: {why}"));
        }
        for (hash, library) in libraries {
            let line = format!("{} {hash}\n", library.name);
            self.stream.write_all(line.as_bytes())?;
            if self.expect(&["have", "need"])? == "need" {
                let packs = self.packs;
                let packed = on_pool(move || library.pack(packs))?;
                self.send(&packed)?;
                self.expect(&["got"])?;
            }
        }
        Ok(self.stream.write_all(b".\n")?)
    }

    /// The host's next answer, which is one of the words.
    fn expect(&mut self, words: &[&'static str]) -> Result<&'static str, Failure> {
        let answer = self.answer()?;
        if let Some(why) = answer.strip_prefix("fail ") {
            return said(why);
        }
        match words.iter().find(|word| **word == answer) {
            Some(word) => Ok(word),
            None => said(format_args!("the host answered '{answer}'")),
        }
    }

    /// The host's next answer. Lines before it are a greeting, and count as output.
    fn answer(&mut self) -> Result<String, Failure> {
        let mut greeting = 0;
        loop {
            let line = self.line()?;
            // The last line of a greeting may have no end.
            let at = line.windows(self.mark.len()).position(|it| it == self.mark);
            let before = at.unwrap_or(line.len());
            if before > 0 {
                self.allocation.lines.take(&line[..before]);
            }
            if let Some(at) = at {
                let answer = &line[at + self.mark.len()..];
                return Ok(String::from_utf8_lossy(answer).trim_end().to_owned());
            }
            greeting += line.len() + 1;
            if greeting > GREETING_MAX {
                return said(format_args!(
                    "the host printed more than {GREETING_MAX} bytes, and no answer"
                ));
            }
        }
    }

    /// Reads a line, and not a byte more: the node's first message follows the last one.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut piece = [0; PIECE];
        loop {
            let seen = self.stream.peek(&mut piece)?;
            if seen == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = piece[..seen].iter().position(|byte| *byte == b'\n');
            let count = end.map_or(seen, |end| end + 1);
            self.stream.read_exact(&mut piece[..count])?;
            line.extend_from_slice(&piece[..end.unwrap_or(seen)]);
            if end.is_some() {
                return Ok(line);
            }
            if line.len() > LINE_MAX {
                line.drain(..line.len() - PIECE);
            }
        }
    }
}

/// The script without its comments, as one line.
fn one_line(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.collect::<Vec<_>>().join(" ")
}

/// The names of this system and of its processor, like `uname -sm` prints them.
fn own_system() -> (String, String) {
    // SAFETY: an array of bytes may be zero, and the buffer outlives the call, which cannot fail for it.
    let names = unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        libc::uname(&mut names);
        names
    };
    let text = |field: &[libc::c_char]| {
        let bytes = field.iter().map(|byte| *byte as u8);
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (text(&names.sysname), text(&names.machine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_script_is_one_line_of_posix_shell() {
        let line = one_line(SCRIPT);
        assert!(!line.contains('\n') && !line.contains('#'));
        let checked = Command::new("sh").args(["-n", "-c", &line]).output();
        let checked = checked.expect("there is a shell");
        assert!(checked.status.success(), "{checked:?}");
    }
}

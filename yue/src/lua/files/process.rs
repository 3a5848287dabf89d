//! Child processes: the natives under `yue.process`.
//!
//! ```text
//!   run      spawn ─▶ [fiber] input ──▶ stdin
//!                     [fiber] stderr ─▶ bounded text       caller: stdout ─▶ bounded text, then the exit status
//!   spawn    the pipes and the child by one number; each operation waits in the fiber that calls it
//! ```
//!
//! A child of `run` is killed when its caller is stopped, because dropping it does that. A child of `spawn` that nobody
//! waits for is reaped by the I/O layer once Lua has lost its object.

use super::path_of;
use crate::lua::host::errors::{error, stopped};
use crate::lua::host::failure::{coded, failed, quoted};
use crate::lua::host::handles::Handles;
use crate::lua::native::{Results, native, register};
use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString, c_int};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::rc::Rc;
use yue_io::pipe::{PipeReader, PipeWriter};
use yue_io::process::{Child, Command, ExitStatus, Stdio};
use yue_luajit::{Error, Stack};
use yue_rpc::ErrorKind;
use yue_scheduler::sync::Mutex;
use yue_scheduler::{Builder, FiberId, JoinHandle, cancel};

/// Bytes of one read of a pipe: what a pipe holds by default (`pipe(7)`).
const CHUNK: usize = 64 << 10;

thread_local! {
    static CHILDREN: Handles<Process> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    CHILDREN.with(Handles::clear);
}

/// A child of `spawn`.
struct Process {
    pid: u32,
    /// Set in the same moment in which the child is reaped: until then its process id is not used again.
    ended: Cell<Option<Ended>>,
    child: Mutex<Child>,
    stdin: RefCell<Option<Rc<PipeWriter>>>,
    /// Held for each text that is written, so that those of several fibers do not mix.
    writing: Mutex<()>,
    stdout: RefCell<Option<Rc<PipeReader>>>,
    stderr: RefCell<Option<Rc<PipeReader>>>,
}

/// The end of a child: its exit code, or the signal that ended it.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Ended {
        Ended {
            code: status.code(),
            signal: status.signal(),
        }
    }
}

impl Results for Ended {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let mut pair = (self.code.map(f64::from), self.signal.map(f64::from));
        pair.push(stack)
    }
}

/// The name of a variable, and its value; `None` removes it.
pub(crate) type Variable = (OsString, Option<OsString>);

/// A command, as the prelude packs it: items that end with a zero byte.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// The program and its arguments.
    words: &'a [u8],
    /// `NAME=value` sets a variable, `NAME` alone removes it.
    variables: &'a [u8],
    /// Empty for the current folder.
    folder: &'a [u8],
}

impl<'a> Start<'a> {
    /// Reads the arguments from `index` on. May raise.
    pub(crate) fn read(stack: Stack<'a>, index: c_int) -> Start<'a> {
        Start {
            words: stack.bytes(index),
            variables: stack.bytes(index + 1),
            folder: stack.bytes(index + 2),
        }
    }

    /// Packed words alone.
    pub(crate) fn words(packed: &[u8]) -> Vec<OsString> {
        items(packed)
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect()
    }

    /// The words, the variables to set or to remove, and the folder.
    pub(crate) fn parts(&self) -> (Vec<OsString>, Vec<Variable>, Option<PathBuf>) {
        let owned = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let words = items(self.words).map(owned).collect();
        let variables = items(self.variables).map(|variable| {
            let mut parts = variable.splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or_default();
            (owned(name), parts.next().map(owned))
        });
        let folder = (!self.folder.is_empty()).then(|| path_of(self.folder).to_owned());
        (words, variables.collect(), folder)
    }

    fn program(&self) -> &'a [u8] {
        items(self.words).next().unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut words = items(self.words).map(OsStr::from_bytes);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        for variable in items(self.variables) {
            match variable.iter().position(|byte| *byte == b'=') {
                Some(at) => command.env(
                    OsStr::from_bytes(&variable[..at]),
                    OsStr::from_bytes(&variable[at + 1..]),
                ),
                None => command.env_remove(OsStr::from_bytes(variable)),
            };
        }
        if !self.folder.is_empty() {
            command.current_dir(path_of(self.folder));
        }
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        command.spawn().map_err(|failure| {
            let program = quoted(self.program());
            // The system has one error for a missing program and for a missing folder.
            let what = if self.folder.is_empty() {
                format!("cannot start the program {program}")
            } else {
                let folder = quoted(self.folder);
                format!("cannot start the program {program} in the folder {folder}")
            };
            failed(&what, &failure)
        })
    }
}

fn items(packed: &[u8]) -> impl Iterator<Item = &[u8]> {
    packed
        .split_inclusive(|byte| *byte == 0)
        .map(|item| item.strip_suffix(&[0]).unwrap_or(item))
}

// -- run --------------------------------------------------------------------------------------------------------------

/// A fiber of `run`, which is cancelled when `run` ends early. It owns all its data, so nobody needs to wait for it.
struct Helper<T>(FiberId, Option<JoinHandle<T>>);

impl<T: 'static> Helper<T> {
    fn spawn(
        name: &str,
        work: impl FnOnce() -> io::Result<T> + 'static,
    ) -> io::Result<Helper<io::Result<T>>> {
        let handle = Builder::new().name(name).spawn(work)?;
        Ok(Helper(handle.id(), Some(handle)))
    }
}

impl<T> Helper<io::Result<T>> {
    fn join(mut self) -> io::Result<T> {
        match self.1.take() {
            Some(handle) => handle.join().map_err(io::Error::from)?,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl<T> Drop for Helper<T> {
    fn drop(&mut self) {
        cancel(self.0);
    }
}

/// Reads all of a pipe. `None` if that is more than `bytes_max`: the pipe is then closed.
fn read_bounded(pipe: Option<PipeReader>, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let Some(pipe) = pipe else {
        return Ok(Some(text));
    };
    let limit = bytes_max as u64 + 1;
    pipe.take(limit).read_to_end(&mut text)?;
    Ok((text.len() <= bytes_max).then_some(text))
}

/// The end of a child of `run`, with its standard output and its standard error.
pub(crate) struct Finished {
    ended: Ended,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Results for Finished {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        self.ended.push(stack)
            + Results::push(&mut self.out, stack)
            + Results::push(&mut self.err, stack)
    }
}

/// Communicates with a child until it has ended. `None` if a text is too long: the child is then still running.
fn communicate(
    child: &mut Child,
    input: Option<Vec<u8>>,
    bytes_max: usize,
) -> io::Result<Option<Finished>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let _writer = match (stdin, input) {
        (Some(mut stdin), Some(input)) => {
            // A child need not read its input: an error of the pipe says nothing.
            let write = move || stdin.write_all(&input);
            Some(Helper::spawn("input of a process", write)?)
        }
        _ => None,
    };
    let reader = Helper::spawn("errors of a process", move || {
        read_bounded(stderr, bytes_max)
    })?;
    let Some(out) = read_bounded(stdout, bytes_max)? else {
        return Ok(None);
    };
    let Some(err) = reader.join()? else {
        return Ok(None);
    };
    let ended = child.wait()?.into();
    Ok(Some(Finished { ended, out, err }))
}

native! {
    /// `process_run(words, variables, folder, output_max, input)`: waits for the program's end. The input may be nil.
    ProcessRun = "process_run", suspends: true;
    read(stack) -> (Start<'a>, f64, Option<&'a [u8]>) {
        let input = if stack.is_none_or_nil(5) { None } else { Some(stack.bytes(5)) };
        (Start::read(stack, 1), stack.number(4), input)
    }
    run((start, output_max, input)) -> Finished {
        let mut command = start.command();
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = start.spawn(&mut command)?;
        let program = quoted(start.program());
        match communicate(&mut child, input.map(<[u8]>::to_vec), output_max as usize) {
            Ok(Some(finished)) => Ok(finished),
            // Dropping the child kills it.
            Ok(None) => {
                let text = format!(
                    "the program {program} was killed, because it wrote more than {output_max} bytes; raise \
                     output_max, or read its output as it comes, with yue.process.spawn"
                );
                Err(coded("EFBIG", text))
            }
            Err(failure) => Err(failed(&format!("cannot run the program {program}"), &failure)),
        }
    }
}

// -- spawn ------------------------------------------------------------------------------------------------------------

/// A stream of a child, by its name in the API.
fn stream_of(word: &[u8]) -> Stdio {
    match word {
        b"pipe" => Stdio::piped(),
        b"null" => Stdio::null(),
        _ => Stdio::inherit(),
    }
}

fn find(number: f64) -> Result<Rc<Process>, Error> {
    CHILDREN
        .with(|children| children.find(number))
        .ok_or_else(|| {
            error(
                ErrorKind::Runtime,
                "the process belongs to a program that has ended",
            )
        })
}

native! {
    /// `process_spawn(words, variables, folder, stdin, stdout, stderr)`: the child's number and its process id.
    ProcessSpawn = "process_spawn", suspends: true;
    read(stack) -> (Start<'a>, [&'a [u8]; 3]) {
        (Start::read(stack, 1), [stack.bytes(4), stack.bytes(5), stack.bytes(6)])
    }
    run((start, [stdin, stdout, stderr])) -> (f64, f64) {
        let mut command = start.command();
        command.stdin(stream_of(stdin)).stdout(stream_of(stdout)).stderr(stream_of(stderr));
        let mut child = start.spawn(&mut command)?;
        let process = Process {
            pid: child.id(),
            ended: Cell::new(None),
            stdin: RefCell::new(child.stdin.take().map(Rc::new)),
            stdout: RefCell::new(child.stdout.take().map(Rc::new)),
            stderr: RefCell::new(child.stderr.take().map(Rc::new)),
            writing: Mutex::new(()),
            child: Mutex::new(child),
        };
        let pid = process.pid;
        Ok((CHILDREN.with(|children| children.add(process)), f64::from(pid)))
    }
}

native! {
    /// `process_read(child, is_stderr)`: the next bytes; nil at the end.
    ProcessRead = "process_read", suspends: true;
    read(stack) -> (f64, bool) { (stack.number(1), stack.boolean(2)) }
    run((number, is_stderr)) -> Option<Vec<u8>> {
        let process = find(number)?;
        let pipe = if is_stderr { &process.stderr } else { &process.stdout };
        let Some(reader) = pipe.borrow().clone() else { return Ok(None) };
        let mut bytes = vec![0; CHUNK];
        let count = (&*reader).read(&mut bytes)
            .map_err(|failure| failed("cannot read from the process", &failure))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

native! {
    /// `process_write(child, text)`: waits until the pipe has taken all of it.
    ProcessWrite = "process_write", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, text)) -> () {
        let process = find(number)?;
        let _writing = process.writing.lock().map_err(stopped)?;
        let writer = process.stdin.borrow().clone()
            .ok_or_else(|| coded("EPIPE", "the standard input of the process is closed, or not a pipe".to_owned()))?;
        (&*writer).write_all(text).map_err(|failure| failed("cannot write to the process", &failure))
    }
}

native! {
    ProcessCloseStdin = "process_close_stdin", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let stdin = find(number)?.stdin.take();
        drop(stdin);
        Ok(())
    }
}

native! {
    /// Waits for the child's end: its exit code and the signal, of which one is nil.
    ProcessWait = "process_wait", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Ended {
        let process = find(number)?;
        let mut child = process.child.lock().map_err(stopped)?;
        // Another fiber may have waited meanwhile.
        if let Some(ended) = process.ended.get() {
            return Ok(ended);
        }
        let status = child.wait().map_err(|failure| failed("cannot wait for the process", &failure))?;
        process.ended.set(Some(status.into()));
        Ok(status.into())
    }
}

native! {
    /// `process_kill(child, signal)`: whether it was sent, because nobody has seen the child's end.
    ProcessKill = "process_kill", suspends: false;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((number, signal)) -> bool {
        let process = find(number)?;
        if process.ended.get().is_some() {
            return Ok(false);
        }
        // SAFETY: no memory is involved. The child has not been reaped, so the id is its own.
        if unsafe { libc::kill(process.pid as libc::pid_t, signal as c_int) } == 0 {
            return Ok(true);
        }
        Err(failed(&format!("cannot send signal {signal} to the process"), &io::Error::last_os_error()))
    }
}

native! {
    /// Forgets the child and closes its pipes. A child that has not ended continues, and is reaped when it ends.
    ProcessClose = "process_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let process = CHILDREN.with(|children| children.remove(number));
        drop(process);
        Ok(())
    }
}

native! {
    /// Closes all pipes of the child.
    ProcessClosePipes = "process_close_pipes", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let process = find(number)?;
        drop((process.stdin.take(), process.stdout.take(), process.stderr.take()));
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; ProcessRun, ProcessSpawn, ProcessRead, ProcessWrite, ProcessCloseStdin, ProcessWait, ProcessKill,
        ProcessClose, ProcessClosePipes,
    );
}

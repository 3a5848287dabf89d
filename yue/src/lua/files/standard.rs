//! The standard streams: the natives under `print`, `io.write`, `io.read` and `yue.stdin`.
//!
//! Output goes through the buffer of the process ([`yue_io::stdio::shared_output`]), so lines of different fibers and
//! threads do not mix, a slow reader makes the writing fiber wait and not its loop, and nothing is lost.

use crate::lua::console;
use crate::lua::host::failure::{errno_named, failed, reason, stop_of};
use crate::lua::native::{Results, native, register};
use std::ffi::c_int;
use std::io::{self, Read};
use yue_io::stdio::{Buffering, SharedOutput, shared_error, shared_output, stdin};
use yue_luajit::{Error, Stack, may_suspend, set_print_hook};
use yue_scheduler::{no_suspend, simulation};

/// Bytes of one read: what a pipe holds by default (`pipe(7)`).
const CHUNK: usize = 64 << 10;

/// The stream with that number in Lua: 2 is standard error.
fn stream(number: f64) -> &'static SharedOutput {
    if number == 2.0 {
        shared_error()
    } else {
        shared_output()
    }
}

/// Writes; waits while too much is pending: in the fiber if it may wait, else in the thread.
fn write(output: &'static SharedOutput, text: &[u8]) -> io::Result<()> {
    if output.try_write(text)? {
        return Ok(());
    }
    // A line of `print` is in a buffer of the VM, which other fibers use meanwhile.
    let text = text.to_vec();
    if may_suspend().is_ok() {
        output.write(&text)
    } else {
        no_suspend(|| output.write(&text))
    }
}

/// An outcome as Lua's own library returns it: the result, or nil, a text and the error's number.
pub(crate) struct Outcome<T>(io::Result<T>);

impl<T: Results> Results for Outcome<T> {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let failure = match &mut self.0 {
            Ok(result) => return result.push(stack),
            Err(failure) => failure,
        };
        stack.push_nil();
        stack.push_bytes(reason(failure).as_bytes());
        stack.push_number(failure.raw_os_error().unwrap_or(libc::EIO).into());
        3
    }
}

/// A fiber that is stopped gets its error; other failures are results.
pub(super) fn unless_stopped<T>(outcome: io::Result<T>) -> Result<Outcome<T>, Error> {
    match outcome {
        Err(failure) if stop_of(&failure).is_some() => Err(failed("cannot use a file", &failure)),
        other => Ok(Outcome(other)),
    }
}

native! {
    /// `output_write(stream, text)`: true; or nil, a text and a number.
    OutputWrite = "output_write", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, text)) -> Outcome<bool> {
        if number != 2.0 && console::capture(text) {
            return Ok(Outcome(Ok(true)));
        }
        unless_stopped(write(stream(number), text).map(|()| true))
    }
}

native! {
    /// `output_flush(stream)`: waits until everything has left. Results as for `output_write`.
    OutputFlush = "output_flush", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Outcome<bool> {
        let output = stream(number);
        let flushed = if may_suspend().is_ok() { output.flush() } else { no_suspend(|| output.flush()) };
        unless_stopped(flushed.map(|()| true))
    }
}

native! {
    /// `output_buffering(stream, mode)`: `no`, `line` or `full`.
    OutputBuffering = "output_buffering", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, mode)) -> () {
        stream(number).set_buffering(match mode {
            b"no" => Buffering::None,
            b"full" => Buffering::Full,
            _ => Buffering::Line,
        });
        Ok(())
    }
}

native! {
    /// The next bytes of the program's standard input; nil at its end.
    StdinRead = "stdin_read", suspends: true;
    read(_stack) -> () {}
    run(()) -> Option<Vec<u8>> {
        // Nobody types at a simulated host.
        if simulation::is_on() {
            return Ok(None);
        }
        let mut bytes = vec![0; CHUNK];
        let count = stdin().read(&mut bytes)
            .map_err(|failure| failed("cannot read from the standard input", &failure))?;
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }
}

native! {
    /// `errno(name)`: the number of a system error, which Lua's own functions return.
    Errno = "errno", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> f64 { Ok(errno_named(name).into()) }
}

native! {
    /// Whether the calling fiber may wait here.
    MaySuspend = "may_suspend", suspends: false;
    read(_stack) -> () {}
    run(()) -> bool { Ok(may_suspend().is_ok()) }
}

/// Lets Lua's `print` use the buffer of the process.
pub(super) fn set_print() {
    // Like C's `print`, it ignores an error of the system.
    set_print_hook(|line| match console::capture(line) {
        true => Ok(()),
        false => unless_stopped(write(shared_output(), line)).map(drop),
    });
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; OutputWrite, OutputFlush, OutputBuffering, StdinRead, Errno, MaySuspend,
    );
}

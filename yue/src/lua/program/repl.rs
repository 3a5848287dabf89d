//! Lines of standard input, for the interactive mode (`yue -i`, ../../lua/repl.lua).
//!
//! They are read so that only the fiber that asks waits. Bytes behind the requested line are kept, since a pipe
//! delivers many at once; the interactive mode runs on one loop of the process.

use crate::lua::host::errors::stopped;
use crate::lua::native::{native, register};
use std::io::{self, ErrorKind, Read};
use std::sync::Mutex;
use yue_luajit::{Error, Stack};
use yue_scheduler::Stopped;
use yue_scheduler::lock;

/// The maximum bytes of one line. Nobody types a longer line of Lua.
const LINE_MAX: usize = 16 << 20;
const READ_AT_ONCE: usize = 16 << 10;

/// Bytes that were read and not requested yet.
static PENDING: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Takes the first line, without its end, if it is complete (or if it is the last one).
fn take_line(pending: &mut Vec<u8>, is_last: bool) -> Option<Vec<u8>> {
    let end = pending.iter().position(|byte| *byte == b'\n');
    let mut line = match end {
        Some(end) => pending.drain(..=end).collect(),
        None if is_last && !pending.is_empty() => std::mem::take(pending),
        None => return None,
    };
    for byte in [b'\n', b'\r'] {
        if line.last() == Some(&byte) {
            line.pop();
        }
    }
    Some(line)
}

fn read_line() -> Result<Option<Vec<u8>>, Error> {
    loop {
        if let Some(line) = take_line(&mut lock(&PENDING), false) {
            return Ok(Some(line));
        }
        let mut bytes = vec![0; READ_AT_ONCE];
        match yue_io::stdio::stdin().read(&mut bytes) {
            Ok(0) => return Ok(take_line(&mut lock(&PENDING), true)),
            Ok(count) => {
                let mut pending = lock(&PENDING);
                pending.extend_from_slice(&bytes[..count]);
                if pending.len() > LINE_MAX {
                    pending.clear();
                    return Err(Error::text("a line of standard input is too long"));
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(read_error(&error)),
        }
    }
}

fn read_error(error: &io::Error) -> Error {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<Stopped>()) {
        Some(reason) => stopped(*reason),
        None => Error::text(format!("cannot read standard input: {error}")),
    }
}

native! {
    /// `read_line()`: the next line of standard input, without its end; nil at the end of the input.
    ReadLine = "read_line", suspends: true;
    read(_stack) -> () {}
    run(()) -> Option<Vec<u8>> { read_line() }
}

/// Adds the native to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; ReadLine);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_one_by_one_and_the_last_needs_no_end() {
        let mut pending = b"one\r\n\ntwo\nthr".to_vec();
        let mut taken = Vec::new();
        while let Some(line) = take_line(&mut pending, false) {
            taken.push(line);
        }
        assert_eq!(taken, [&b"one"[..], b"", b"two"]);
        assert_eq!(take_line(&mut pending, true), Some(b"thr".to_vec()));
        assert_eq!(take_line(&mut pending, true), None);
    }
}

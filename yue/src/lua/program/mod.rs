//! Programs: their loops, and their end.
//!
//! ```text
//!   mod.rs      the loops that run the script           run.rs        one loop, from its start to its end
//!   threads.rs  worker threads                          shutdown.rs   SIGINT, SIGTERM, the deadline
//!   natives.rs  the natives of a VM                     report.rs     what hangs, for people
//!   reloads.rs  new versions of modules, on all loops
//!   simulated.rs  the program of a simulated host
//! ```

mod natives;
mod reloads;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod shutdown;
pub(crate) mod simulated;
pub(crate) mod threads;

use crate::lua::development;
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, describe_failure};
use crate::lua::host::log::{read_log_level, write_outcome};
use crate::lua::host::program::{Cause, Program};
use crate::lua::host::values::load_function;
use crate::lua::host::{Host, Role};
use crate::lua::script::{Chunk, Script};
use run::{close, on_new_loop, start_host, start_script, wait_for_end};
use shutdown::Guard;
use std::ffi::{CString, c_int};
use std::sync::Arc;
use yue_io::signal::{Signal, is_ignored};
use yue_io::stdio::flush_buffers;
use yue_luajit::{LuaState, VmError, ffi};
use yue_scheduler::{ProgramThread, log_outcome};

impl Script {
    /// Runs the program to its end: when its script has returned and nothing is open, when a shutdown was requested, or
    /// when the script has raised (the traceback is on standard error then). The result is the exit code for the
    /// process: 128 + n if signal n has ended the program.
    ///
    /// While it runs, SIGINT and SIGTERM end the program, unless they were ignored when it started; their previous
    /// actions are restored when this returns. If a shutdown takes longer than its grace of 5 s and one more, or
    /// another signal arrives, the process ends.
    pub fn run(self) -> i32 {
        run_program(&Program::new(self, natives::register_all, Vec::new()))
    }
}

fn run_program(program: &Arc<Program>) -> i32 {
    read_log_level();
    handle_broken_pipes();
    report::set_program(program);
    let guard = Guard::start(program);
    let code = run_loops(program);
    // While the guard watches: nobody may be reading.
    flush_buffers();
    drop(guard);
    match program.cause() {
        Some(Cause::Signal(signal)) => 128 + signal.number(),
        _ => code,
    }
}

/// Runs the program's loops, the first on the calling thread, until they and its worker threads have ended.
fn run_loops(program: &Arc<Program>) -> i32 {
    let others: Vec<_> = (2..=program.script.loops)
        .map(|index| {
            let member = program.clone();
            let name = format!("yue loop {index}");
            let spawned = ProgramThread::spawn(name, move || run_loop(&member, index));
            spawned.inspect_err(|error| {
                log_outcome(format_args!(
                    "cannot start a thread for another loop: {error}"
                ));
                program.shut_down(Cause::Raised);
            })
        })
        .collect();
    let mut code = run_loop(program, 1);
    for other in others {
        let other_code = other.map_or(Ok(1), ProgramThread::join);
        code = code.max(other_code.unwrap_or(1));
    }
    threads::end_all();
    code
}

/// Runs one of the program's main loops on the calling thread; returns its exit code. All loops are equal: the first
/// one that fails ends the program.
fn run_loop(program: &Arc<Program>, index: usize) -> i32 {
    let running = program.clone();
    let code = on_new_loop(program, move || main_fiber(&running, index));
    let code = code.unwrap_or_else(|error| {
        log_outcome(format_args!("cannot start a loop: {error}"));
        1
    });
    if code != 0 {
        program.shut_down(Cause::Raised);
    }
    code
}

fn main_fiber(program: &Arc<Program>, index: usize) -> i32 {
    let host = match start_host(program.clone(), Role::Main(index)) {
        Ok(host) => host,
        Err(error) => {
            log_outcome(format_args!("cannot start Lua: {error}"));
            return 1;
        }
    };
    let mut chunks = program.script.chunks.iter();
    let mut next = || {
        let chunk = chunks.next();
        let started = chunk.map(|chunk| start_script(&host, |thread| load(&host, thread, chunk)));
        started.transpose().map_err(ErrorObject::runtime)
    };
    let first = next();
    let result =
        first.and_then(|first| wait_for_end(&host, first.unwrap_or_default(), true, &mut next));
    let code = match result {
        Ok(()) => 0,
        Err(failure) => {
            if !program.is_abrupt() {
                report_failure(program, failure);
            }
            // Now: the other loops need not wait for the end of this one.
            program.shut_down(Cause::Raised);
            1
        }
    };
    close(&host, code == 0 && program.cause() != Some(Cause::Raised));
    code
}

/// Reports the error that has ended the script of a loop.
fn report_failure(program: &Program, failure: ErrorObject) {
    write_outcome(&failure);
    development::report_failure(&failure);
    program.note_failure(failure);
}

/// Pushes a chunk of the program and its arguments.
fn load(host: &Host, thread: &mut LuaState, chunk: &Chunk) -> Result<(), String> {
    let loaded = match chunk {
        Chunk::File(path) => {
            let path = CString::new(path.as_os_str().as_encoded_bytes())
                .map_err(|_| "the script's name has a zero byte in it".to_owned())?;
            thread.load_file(&path)
        }
        Chunk::Text { name, source } => {
            let name = CString::new(name.as_bytes())
                .map_err(|_| "the name of a chunk has a zero byte in it".to_owned())?;
            thread.load(without_first_comment(source), &name)
        }
        Chunk::Function(bytecode) => return load_bytecode(host, thread, bytecode),
        // Its name in tracebacks is that of the function.
        Chunk::Interactive => push_repl(thread),
    };
    loaded
        .and_then(|()| push_arguments(host, thread))
        .map_err(|error| error.to_string())
}

/// Pushes a function and the program's arguments.
fn load_bytecode(host: &Host, thread: &mut LuaState, bytecode: &[u8]) -> Result<(), String> {
    // SAFETY: an idle state owned here, with room for two values.
    let status = unsafe { load_function(thread.raw(), bytecode) };
    if status != ffi::LUA_OK {
        return Err(describe_failure(thread.raw()).message.clone());
    }
    push_arguments(host, thread).map_err(|error| error.to_string())
}

/// Removes a first line `#!…`; its line end stays, so that lines keep their numbers.
pub(super) fn without_first_comment(source: &[u8]) -> &[u8] {
    if source.first() != Some(&b'#') {
        return source;
    }
    let end = source.iter().position(|byte| *byte == b'\n');
    &source[end.unwrap_or(source.len())..]
}

/// Pushes the function of the interactive mode on an empty stack.
fn push_repl(thread: &mut LuaState) -> Result<(), VmError> {
    // SAFETY: an idle state owned here, with room for one value.
    unsafe { Entry::Repl.push(thread.raw()) };
    Ok(())
}

/// Pushes the program's arguments on a stack that has room for them.
fn push_arguments(host: &Host, thread: &mut LuaState) -> Result<(), VmError> {
    let (state, program) = (thread.raw(), &*host.program);
    let count = c_int::try_from(program.script.args.len()).unwrap_or(c_int::MAX);
    // SAFETY: growing the stack is protected by itself.
    if unsafe { ffi::lua_checkstack(state, count) } == 0 {
        return Err(VmError::Lua("too many arguments".to_owned()));
    }
    host.vm.protect(|stack| {
        stack.reserve(count);
        for argument in &program.script.args {
            stack.push_bytes(argument);
        }
        // SAFETY: protected; both are states of this VM, and that one has room.
        unsafe { ffi::lua_xmove(stack.raw(), state, count) };
    })
}

/// Installs a SIGPIPE handler that does nothing, instead of ignoring the signal. A write into a pipe without a reader
/// fails as before. But an executed program resets handlers, while it inherits ignored signals. So children of any
/// sort, including those of C's `popen`, end when nobody reads their output.
fn handle_broken_pipes() {
    extern "C" fn do_nothing(_: c_int) {}
    if !Signal::from_number(libc::SIGPIPE).is_ok_and(is_ignored) {
        return; // The program has its own disposition.
    }
    // SAFETY: the handler does nothing. It cannot be refused for this signal.
    let _ = unsafe { yue_scheduler::set_signal_handler(libc::SIGPIPE, do_nothing as *const (), 0) };
}

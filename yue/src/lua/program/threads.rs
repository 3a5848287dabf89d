//! Worker threads: an OS thread with a loop, a VM and a namespace, reached as `thread://name`.
//!
//! ```text
//!   creator                                  worker
//!   thread_start ── spawns the OS thread ──▶ on_new_loop ─ main fiber ─ start_host ─ import symbols ─ script's fiber
//!        └── waits ◀── started (Ok, or the script's error) ── when the script has returned or first parks
//!   thread_join  ── waits ◀── outcome (the value passed to exit, or a later error of the script)
//! ```
//!
//! Only plain data crosses: names, source or bytecode, msgpack, errors in parts.

use super::run::{Outcome, close, on_new_loop, start_host, start_script, wait_for_end};
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, describe_failure, error, error_of, stopped};
use crate::lua::host::modules::call_prelude;
use crate::lua::host::program::Program;
use crate::lua::host::values::{load_function, push_decoded};
use crate::lua::host::{Hold, Role, log, with_host};
use crate::lua::native::{Results, native, register, register_raw, seconds};
use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use yue_luajit::{Error, LuaState, NoReferences, Stack, ffi, raise, suspending};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::{self, PerHost};
use yue_scheduler::{
    Instant, LoopHandle, ProgramThread, RemoteWaker, Wakeup, deadline_after, lock, park_until,
    prepare_park, spawn, this_loop, wait_in_simulation, yield_now,
};

/// The time that the end of a program waits for a worker thread.
const END_WAIT: Duration = Duration::from_secs(7);

/// A worker, shared by every thread.
struct Worker {
    id: u64,
    name: String,
    state: Mutex<State>,
    /// Notified with each change of the state, for threads without a loop.
    changed: Condvar,
    os_thread: Mutex<Option<ProgramThread<()>>>,
    /// The number of its objects in all VMs. Once it has ended and there is none, it is removed.
    objects: AtomicU32,
}

#[derive(Default)]
struct State {
    handle: Option<LoopHandle>,
    started: Option<Result<(), ErrorObject>>,
    /// Once it has ended: the msgpack value passed to `exit`, or the error that ended it.
    outcome: Option<Result<Option<Vec<u8>>, ErrorObject>>,
    exit_value: Option<Vec<u8>>,
    /// Set when its end was requested, perhaps before it had a loop.
    end_requested: bool,
    waiting: Vec<RemoteWaker>,
}

/// The workers of the process, by their ids.
#[derive(Default)]
struct Workers {
    all: BTreeMap<u64, Arc<Worker>>,
    last_id: u64,
}

static WORKERS: PerHost<Mutex<Workers>> = PerHost::new(Mutex::default);

fn with_workers<R>(f: impl FnOnce(&mut Workers) -> R) -> R {
    f(&mut lock(&WORKERS.get()))
}

fn find(id: f64) -> Option<Arc<Worker>> {
    with_workers(|workers| workers.all.get(&(id as u64)).cloned())
}

impl Workers {
    /// The worker of that name which has not ended.
    fn named(&self, name: &str) -> Option<&Arc<Worker>> {
        self.all
            .values()
            .find(|worker| worker.name == name && !worker.has_ended())
    }
}

fn find_by_name(name: &str) -> Option<Arc<Worker>> {
    with_workers(|workers| workers.named(name).cloned())
}

impl Worker {
    fn has_ended(&self) -> bool {
        lock(&self.state).outcome.is_some()
    }

    /// Requests the end of its program.
    fn shut_down(&self) {
        let mut state = lock(&self.state);
        state.end_requested = true;
        if let Some(handle) = &state.handle {
            handle.shutdown();
        }
    }

    /// Releases one object. Relaxed: the count guards nothing but the entry in the table, which has a lock.
    fn release_object(&self) {
        self.objects.fetch_sub(1, Ordering::Relaxed);
        self.forget_if_unused();
    }

    /// Removes the entry in the table if the worker has ended and nobody can ask for its outcome.
    fn forget_if_unused(&self) {
        if self.has_ended() && self.objects.load(Ordering::Relaxed) == 0 {
            forget(self.id);
        }
    }

    /// Changes the state and wakes the fibers and threads that wait for a change.
    fn change(&self, f: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = lock(&self.state);
            let had_ended = state.outcome.is_some();
            f(&mut state);
            debug_assert!(!had_ended, "the outcome of a thread is final");
            std::mem::take(&mut state.waiting)
        };
        self.changed.notify_all();
        waiting.into_iter().for_each(RemoteWaker::wake);
    }

    /// Waits outside fibers until the thread has ended, or the time has passed; returns whether it has ended.
    fn wait_for_end(&self, until: Instant) -> bool {
        if simulation::is_on() {
            return wait_in_simulation(until, || self.has_ended());
        }
        let left = until.saturating_since(Instant::system());
        let state = lock(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, left, |state| state.outcome.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.outcome.is_some()
    }

    /// Waits, in a fiber, until `ready` returns a value, or the time has passed.
    fn wait<R>(
        &self,
        until: Instant,
        ready: impl Fn(&State) -> Option<R>,
    ) -> Result<Option<R>, Error> {
        loop {
            let waker = prepare_park();
            {
                let mut state = lock(&self.state);
                if let Some(result) = ready(&state) {
                    return Ok(Some(result));
                }
                state.waiting.push(waker.remote());
            }
            let at = (until != Instant::NEVER).then_some(until);
            if park_until("another thread", at).map_err(stopped)? == Wakeup::TimedOut {
                return Ok(None);
            }
        }
    }
}

/// The code that a worker runs.
struct Job {
    program: Arc<Program>,
    worker: Arc<Worker>,
    /// A file's name, or bytecode.
    code: Code,
    /// Symbols in msgpack.
    symbols: Option<Vec<u8>>,
    /// Callers can stop the handlers of its namespace.
    cancel: bool,
}

enum Code {
    File(Vec<u8>),
    Function(Vec<u8>),
    /// None: the thread is a node, which gets a library from its owner.
    Node,
}

fn run_worker(job: Job) {
    let worker = job.worker.clone();
    let program = job.program.clone();
    let ended = on_new_loop(&program, move || worker_fiber(&job)).unwrap_or_else(|failure| {
        let text = format!("cannot start a loop: {failure}");
        Err(ErrorObject::runtime(text))
    });
    worker.change(|state| {
        if state.started.is_none() {
            state.started = Some(ended.clone().map(drop));
        }
        state.outcome = Some(ended.map(|()| state.exit_value.take()));
        state.handle = None;
    });
    worker.forget_if_unused();
}

fn worker_fiber(job: &Job) -> Result<(), ErrorObject> {
    let handle = this_loop::handle();
    {
        let mut state = lock(&job.worker.state);
        if state.end_requested {
            handle.shutdown();
        }
        state.handle = Some(handle);
    }
    worker_program(job)
}

fn worker_program(job: &Job) -> Result<(), ErrorObject> {
    let host = start_host(
        job.program.clone(),
        Role::Worker {
            name: job.worker.name.clone(),
            cancel: job.cancel,
            is_node: matches!(job.code, Code::Node),
        },
    )?;
    if let Some(symbols) = &job.symbols {
        call_prelude(&host.vm, Entry::ImportSymbols, symbols.clone())?;
    }
    let outcome = match job.code {
        Code::Node => Outcome::default(),
        _ => start_script(&host, |thread| load(thread, &job.code)).map_err(ErrorObject::runtime)?,
    };
    // The script's fiber is ahead in the run queue: when this fiber runs again, the script has returned or parked.
    let _ = yield_now();
    if let Some(Err(ended)) = outcome.take() {
        let failure = error_of(&ended);
        close(&host, false);
        return Err(failure);
    }
    job.worker.change(|state| state.started = Some(Ok(())));
    // A later error ends the thread too. Nobody may be waiting for it, so it is logged.
    let result = wait_for_end(&host, outcome, false, &mut || Ok(None));
    if let Err(failure) = &result {
        log::write_failure("the thread ends", failure);
    }
    close(&host, result.is_ok());
    result
}

fn load(thread: &mut LuaState, code: &Code) -> Result<(), String> {
    match code {
        Code::File(path) => {
            let path = CString::new(path.clone())
                .map_err(|_| "the file's name has a zero byte in it".to_owned())?;
            thread
                .load_file(&path)
                .map_err(|failure| failure.to_string())
        }
        Code::Function(bytecode) => {
            // SAFETY: an idle state owned here; only `thread_start` makes the bytecode, from a function of this
            // process.
            let status = unsafe { load_function(thread.raw(), bytecode) };
            if status == ffi::LUA_OK {
                Ok(())
            } else {
                Err(describe_failure(thread.raw()).message.clone())
            }
        }
        Code::Node => Ok(()),
    }
}

/// At the end of the program: requests the end of every worker, and waits for them for a while.
pub(crate) fn end_all() {
    let workers: Vec<_> = with_workers(|workers| workers.all.values().cloned().collect());
    for worker in &workers {
        worker.shut_down();
    }
    let until = Instant::system().saturating_add(END_WAIT);
    for worker in workers {
        if !worker.wait_for_end(until) {
            let seconds = END_WAIT.as_secs();
            yue_scheduler::log(
                yue_scheduler::LogLevel::Warn,
                format_args!(
                    "the thread {} has not ended within {seconds} s; the process ends without it",
                    worker.name
                ),
            );
            continue;
        }
        // The lock is free before the wait.
        let os_thread = lock(&worker.os_thread).take();
        if let Some(os_thread) = os_thread {
            // Its outcome has been taken already.
            let _ = os_thread.join();
        }
    }
}

/// `thread_start(name, kind, text, timeout, symbols or nil, cancel)`: returns the number of the new thread.
unsafe extern "C-unwind" fn start_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; the arguments stay on its stack until the function returns.
    unsafe {
        let stack = Stack::new(state);
        let (name, kind, text) = (stack.bytes(1), stack.bytes(2), stack.bytes(3));
        let timeout = stack.number(4);
        let outcome = suspending(state, "yue.thread", || {
            yue_luajit::may_suspend()?;
            let symbols = if stack.is_none_or_nil(5) {
                None
            } else {
                Some(encode_one(state, 5)?)
            };
            // SAFETY: Lua's own state.
            let cancel = ffi::lua_toboolean(state, 6) != 0;
            start(name, code_of(kind, text), timeout, symbols, cancel)
        });
        match outcome {
            Ok(id) => {
                ffi::lua_pushnumber(state, id);
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// Encodes one value of the stack in msgpack.
///
/// # Safety
/// Lua runs the calling function on `state`.
unsafe fn encode_one(state: *mut ffi::lua_State, index: c_int) -> Result<Vec<u8>, Error> {
    let codec = with_host(|host| host.vm.codec())?;
    let mut bytes = Vec::new();
    // SAFETY: the caller's promise.
    unsafe { codec.encode_values(state, index, 1, "value", &NoReferences, &mut bytes) }
        .map_err(|failure| error(ErrorKind::Argument, failure.to_string()))?;
    Ok(bytes)
}

fn code_of(kind: &[u8], text: &[u8]) -> Code {
    if kind == b"file" {
        Code::File(text.to_vec())
    } else {
        Code::Function(text.to_vec())
    }
}

fn start(
    name: &[u8],
    code: Code,
    timeout: f64,
    symbols: Option<Vec<u8>>,
    cancel: bool,
) -> Result<f64, Error> {
    let name = String::from_utf8_lossy(name).into_owned();
    let hold = with_host(|host| host.hold())?;
    let start = Start {
        name,
        code,
        symbols,
        cancel,
    };
    let worker = start.run(timeout)?;
    hold_until_end(worker.clone(), hold);
    Ok(worker.id as f64)
}

/// Starts a thread that is a node, and waits until its namespace can be reached. It does not hold its owner's program.
pub(crate) fn start_node(name: &str, timeout: f64) -> Result<(), Error> {
    let start = Start {
        name: name.to_owned(),
        code: Code::Node,
        symbols: None,
        cancel: false,
    };
    let worker = start.run(timeout)?;
    // Nobody joins it, so its outcome is not kept.
    worker.release_object();
    Ok(())
}

/// The parts of a new thread.
struct Start {
    name: String,
    code: Code,
    symbols: Option<Vec<u8>>,
    cancel: bool,
}

impl Start {
    /// Starts the thread, and waits until its script has returned or waits.
    fn run(self, timeout: f64) -> Result<Arc<Worker>, Error> {
        let worker = register_worker(self.name)?;
        let job = Job {
            program: with_host(|host| host.program.clone())?,
            worker: worker.clone(),
            code: self.code,
            symbols: self.symbols,
            cancel: self.cancel,
        };
        match ProgramThread::spawn(worker.name.clone(), move || run_worker(job)) {
            Ok(os_thread) => *lock(&worker.os_thread) = Some(os_thread),
            Err(failure) => {
                forget(worker.id);
                return Err(error(
                    ErrorKind::Runtime,
                    format!("cannot start a thread: {failure}"),
                ));
            }
        }
        let until = deadline_after(seconds(timeout));
        let failure = match worker.wait(until, |state| state.started.clone()) {
            Ok(Some(Ok(()))) => return Ok(worker),
            Ok(Some(Err(failure))) => Error::value(failure),
            Ok(None) => {
                worker.shut_down();
                let text = format!(
                    "the thread {} did not start within {timeout} s",
                    worker.name
                );
                error(ErrorKind::Timeout, text)
            }
            Err(stopped) => {
                worker.shut_down();
                stopped
            }
        };
        // No object of it will be made.
        worker.release_object();
        Err(failure)
    }
}

fn register_worker(name: String) -> Result<Arc<Worker>, Error> {
    with_workers(|workers| {
        if workers.named(&name).is_some() {
            return Err(error(
                ErrorKind::Argument,
                format!("there is a thread named {name} already"),
            ));
        }
        // An ended thread that was never joined makes room for its successor.
        workers.all.retain(|_, worker| worker.name != name);
        workers.last_id += 1;
        let worker = Arc::new(Worker {
            id: workers.last_id,
            name,
            state: Mutex::default(),
            changed: Condvar::new(),
            os_thread: Mutex::new(None),
            objects: AtomicU32::new(1),
        });
        workers.all.insert(worker.id, worker.clone());
        Ok(worker)
    })
}

fn forget(id: u64) {
    // Dropped without the lock.
    drop(with_workers(|workers| workers.all.remove(&id)));
}

/// Holds the creator's program while the thread runs.
fn hold_until_end(worker: Arc<Worker>, hold: Hold) {
    drop(spawn(move || {
        let _hold = hold;
        // An error means that the program ends, which ends the thread.
        let _ = worker.wait(Instant::NEVER, |state| state.outcome.as_ref().map(drop));
    }));
}

native! {
    /// `thread_close(id)`: ends the thread gracefully, and waits for it.
    Close = "thread_close", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let Some(worker) = find(id) else { return Ok(()) };
        worker.shut_down();
        worker.wait(Instant::NEVER, |state| state.outcome.as_ref().map(drop))?;
        Ok(())
    }
}

/// A msgpack value, or nothing.
pub(crate) struct Value(Option<Vec<u8>>);

impl Results for Value {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        push_decoded(stack, self.0.as_deref()).into()
    }
}

native! {
    /// `thread_join(id)`: waits for the end; returns the value passed to `exit`, or raises the error that ended it.
    Join = "thread_join", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Value {
        let Some(worker) = find(id) else { return Ok(Value(None)) };
        match worker.wait(Instant::NEVER, |state| state.outcome.clone())? {
            Some(Ok(value)) => Ok(Value(value)),
            Some(Err(failure)) => Err(Error::value(failure)),
            None => Ok(Value(None)),
        }
    }
}

native! {
    Find = "thread_find", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> Option<f64> {
        let found = find_by_name(&String::from_utf8_lossy(name));
        Ok(found.map(|worker| {
            worker.objects.fetch_add(1, Ordering::Relaxed);
            worker.id as f64
        }))
    }
}

native! {
    /// `thread_release(id)`: an object of it was collected. For finalizers.
    Release = "thread_release", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Some(worker) = find(id) {
            worker.release_object();
        }
        Ok(())
    }
}

native! {
    Count = "thread_count", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        let alive = with_workers(|workers| workers.all.values().filter(|worker| !worker.has_ended()).count());
        Ok(alive as f64)
    }
}

/// `thread_exit(value)`: ends the calling thread's program.
unsafe extern "C-unwind" fn exit_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let stack = Stack::new(state);
        let outcome = suspending(state, "exit", || {
            let value = if stack.is_none_or_nil(1) {
                None
            } else {
                Some(encode_one(state, 1)?)
            };
            with_host(|host| {
                if let Role::Worker { name, .. } = &host.role
                    && let Some(worker) = find_by_name(name)
                {
                    lock(&worker.state).exit_value = value;
                }
                host.die();
            })
        });
        match outcome {
            Ok(()) => 0,
            Err(failure) => raise(state, failure),
        }
    }
}

/// `load_bytecode(text)`: returns the function whose `string.dump`, in this process, is the text.
unsafe extern "C-unwind" fn load_bytecode_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let text = Stack::new(state).bytes(1);
        let status = load_function(state, text);
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        1
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Close, Join, Find, Release, Count);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "thread_start", start_raw);
        register_raw(stack, "thread_exit", exit_raw);
        register_raw(stack, "load_bytecode", load_bytecode_raw);
    }
}

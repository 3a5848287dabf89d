//! Worker threads: an OS thread with a loop, a VM and a namespace, reached as `thread://name`.
//!
//! ```text
//!   creator                                  worker
//!   thread_start ── spawns the OS thread ──▶ Loop::run ─ main fiber ─ Host::start ─ import symbols ─ script's fiber
//!        └── waits ◀── started (Ok, or the script's error) ── when the script has returned or first parks
//!   thread_join  ── waits ◀── over (the value passed to exit, or a later error of the script)
//! ```
//!
//! Only plain data crosses: names, source or bytecode, msgpack, errors in parts.

use crate::lua::host::errors::{ErrorObject, error, stopped};
use crate::lua::host::{self, Hold, Host, Role, with_host};
use crate::lua::native::{Results, native, register, register_raw};
use crate::lua::program::{Program, close, lock, start_script, wait_for_end};
use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use yue_luajit::{Ended, Error, LuaState, NoReferences, Stack, ffi, raise, suspending};
use yue_rpc::ErrorKind;
use yue_scheduler::{
    Config, Instant, Loop, LoopHandle, RemoteWaker, Wakeup, deadline_after, park_until,
    prepare_park, spawn, this_loop, yield_now,
};

/// The time that the end of a program waits for a worker thread.
const END_WAIT: Duration = Duration::from_secs(7);

/// A worker, shared by every thread.
struct Worker {
    id: u64,
    name: String,
    state: Mutex<State>,
    os_thread: Mutex<Option<JoinHandle<()>>>,
    /// The number of its objects in all VMs. Once it has ended and there is none, it is removed.
    objects: AtomicU32,
}

#[derive(Default)]
struct State {
    handle: Option<LoopHandle>,
    started: Option<Result<(), ErrorObject>>,
    /// The msgpack value passed to `exit`, or the error that ended it.
    over: Option<Result<Option<Vec<u8>>, ErrorObject>>,
    exit_value: Option<Vec<u8>>,
    /// Set when its end was requested, perhaps before it had a loop.
    told_to_end: bool,
    waiting: Vec<RemoteWaker>,
}

static WORKERS: Mutex<Option<HashMap<u64, Arc<Worker>>>> = Mutex::new(None);
/// Ids only have to differ; nothing is published with them.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn find(id: f64) -> Option<Arc<Worker>> {
    lock(&WORKERS).as_ref()?.get(&(id as u64)).cloned()
}

fn find_by_name(name: &str) -> Option<Arc<Worker>> {
    let workers = lock(&WORKERS);
    workers
        .as_ref()?
        .values()
        .find(|worker| worker.name == name && !worker.is_over())
        .cloned()
}

impl Worker {
    fn is_over(&self) -> bool {
        lock(&self.state).over.is_some()
    }

    /// Requests the end of its program.
    fn shut_down(&self) {
        let mut state = lock(&self.state);
        state.told_to_end = true;
        if let Some(handle) = &state.handle {
            handle.shutdown();
        }
    }

    /// Releases one object. Relaxed: the count guards nothing but the entry in the table, which has a lock.
    fn release_object(&self) {
        let before = self.objects.fetch_sub(1, Ordering::Relaxed);
        if before == 1 && self.is_over() {
            forget(self.id);
        }
    }

    /// Changes the state and wakes the fibers that wait for a change.
    fn change(&self, f: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = lock(&self.state);
            f(&mut state);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(RemoteWaker::wake);
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
}

fn run_worker(job: Job) {
    let (worker, program) = (job.worker.clone(), job.program.clone());
    let outcome = yue_io::driver(program.script.io)
        .and_then(|driver| {
            Loop::new(Config {
                driver,
                ..Config::default()
            })
        })
        .map(|l| {
            let id = l.handle().id();
            let over = l.run(move || worker_fiber(job));
            // Not earlier: a cancelled fiber may still block the loop.
            program.dismiss(id);
            over
        });
    Host::end();
    let over = match outcome {
        Ok(over) => over,
        Err(failure) => Err(ErrorObject::of_kind(
            ErrorKind::Runtime,
            format!("cannot make a loop: {failure}"),
        )),
    };
    worker.change(|state| {
        if state.started.is_none() {
            state.started = Some(over.clone().map(drop));
        }
        state.over = Some(over.map(|()| state.exit_value.take()));
        state.handle = None;
    });
}

fn worker_fiber(job: Job) -> Result<(), ErrorObject> {
    let handle = this_loop::handle();
    job.program.enlist(handle.clone());
    {
        let mut state = lock(&job.worker.state);
        if state.told_to_end {
            handle.shutdown();
        }
        state.handle = Some(handle);
    }
    worker_program(&job)
}

fn worker_program(job: &Job) -> Result<(), ErrorObject> {
    let host = Host::start(
        job.program.clone(),
        Role::Worker {
            name: job.worker.name.clone(),
            cancel: job.cancel,
        },
    )?;
    let runtime = |text: String| ErrorObject::of_kind(ErrorKind::Runtime, text);
    if let Some(symbols) = &job.symbols {
        host::call_prelude(&host, host.import_symbols.get(), symbols.clone())?;
    }
    let outcome = start_script(&host, |thread| load(thread, &job.code)).map_err(runtime)?;
    // The script's fiber is ahead in the run queue: when this fiber runs again, the script has returned or parked.
    let _ = yield_now();
    if let Some(Err(mut ended)) = outcome.take() {
        let failure = error_of(&mut ended);
        close(&host, false);
        return Err(failure);
    }
    job.worker.change(|state| state.started = Some(Ok(())));
    // A later error ends the thread too. Nobody may be waiting for it, so it is logged.
    let result = wait_for_end(&host, outcome, false, &mut || Ok(None));
    if let Err(failure) = &result {
        crate::lua::host::log::error(&format!("the thread ends: {}", failure.report()));
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
            let status = unsafe { host::load_function(thread.raw(), bytecode) };
            if status == ffi::LUA_OK {
                Ok(())
            } else {
                Err(host::describe_failure(thread.raw()).message)
            }
        }
    }
}

/// The error that ended a fiber, in parts that may cross threads.
pub(crate) fn error_of(ended: &mut Ended) -> ErrorObject {
    host::describe_failure(ended.state.raw())
}

impl ErrorObject {
    /// The text of an uncaught error for the user of a program.
    pub(crate) fn report(&self) -> String {
        match self
            .traceback
            .as_deref()
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            Some(traceback) => format!("{}: {}\n{}", self.type_name, self.message, traceback),
            None => format!("{}: {}", self.type_name, self.message),
        }
    }
}

/// At the end of the program: requests the end of every worker, and waits for them for a while.
pub(crate) fn end_all() {
    let workers: Vec<_> = lock(&WORKERS)
        .as_ref()
        .map(|all| all.values().cloned().collect())
        .unwrap_or_default();
    for worker in &workers {
        worker.shut_down();
    }
    let until = Instant::system().saturating_add(END_WAIT);
    for worker in workers {
        while !worker.is_over() && Instant::system() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !worker.is_over() {
            yue_scheduler::log(
                yue_scheduler::LogLevel::Warn,
                format_args!("the thread {} did not end; it is left behind", worker.name),
            );
            continue;
        }
        if let Some(os_thread) = lock(&worker.os_thread).take() {
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
    let (program, hold) = with_host(|host| (host.program.clone(), host.hold()))?;
    let worker = enlist(name)?;
    let job = Job {
        program,
        worker: worker.clone(),
        code,
        symbols,
        cancel,
    };
    let spawned = std::thread::Builder::new()
        .name(worker.name.clone())
        .spawn(move || run_worker(job));
    match spawned {
        Ok(os_thread) => *lock(&worker.os_thread) = Some(os_thread),
        Err(failure) => {
            forget(worker.id);
            return Err(error(
                ErrorKind::Runtime,
                format!("cannot start a thread: {failure}"),
            ));
        }
    }
    keep_until_over(worker.clone(), hold);
    let until = deadline_after(crate::lua::fibers::waits::seconds(timeout));
    let failure = match worker.wait(until, |state| state.started.clone()) {
        Ok(Some(Ok(()))) => return Ok(worker.id as f64),
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

fn enlist(name: String) -> Result<Arc<Worker>, Error> {
    let mut workers = lock(&WORKERS);
    let workers = workers.get_or_insert_default();
    if workers
        .values()
        .any(|worker| worker.name == name && !worker.is_over())
    {
        return Err(error(
            ErrorKind::Argument,
            format!("there is a thread named {name} already"),
        ));
    }
    // An ended thread that was never joined makes room for its successor.
    workers.retain(|_, worker| worker.name != name);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let worker = Arc::new(Worker {
        id,
        name,
        state: Mutex::default(),
        os_thread: Mutex::new(None),
        objects: AtomicU32::new(1),
    });
    workers.insert(id, worker.clone());
    Ok(worker)
}

fn forget(id: u64) {
    if let Some(workers) = lock(&WORKERS).as_mut() {
        workers.remove(&id);
    }
}

/// Holds the creator's program while the thread runs.
fn keep_until_over(worker: Arc<Worker>, hold: Hold) {
    drop(spawn(move || {
        let _hold = hold;
        // An error means that the program ends, which ends the thread.
        let _ = worker.wait(Instant::NEVER, |state| state.over.as_ref().map(drop));
        if worker.is_over() && worker.objects.load(Ordering::Relaxed) == 0 {
            forget(worker.id);
        }
    }));
}

native! {
    /// `thread_close(id)`: ends the thread gracefully, and waits for it.
    Close = "thread_close", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let Some(worker) = find(id) else { return Ok(()) };
        worker.shut_down();
        worker.wait(Instant::NEVER, |state| state.over.as_ref().map(drop))?;
        Ok(())
    }
}

/// A msgpack value, or nothing.
pub(crate) struct Value(Option<Vec<u8>>);

impl Results for Value {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        host::push_decoded(stack, self.0.as_deref()).into()
    }
}

native! {
    /// `thread_join(id)`: waits for the end; returns the value passed to `exit`, or raises the error that ended it.
    Join = "thread_join", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Value {
        let Some(worker) = find(id) else { return Ok(Value(None)) };
        match worker.wait(Instant::NEVER, |state| state.over.clone())? {
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
        let workers = lock(&WORKERS);
        let alive = workers.as_ref().map_or(0, |all| all.values().filter(|worker| !worker.is_over()).count());
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
                host.dying.set(true);
                host.wake_main();
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
        let status = host::load_function(state, text);
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

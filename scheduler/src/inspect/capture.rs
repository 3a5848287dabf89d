//! Capture of a running thread: what its loop executes at this moment.
//!
//! An inspecting thread (the watchdog's, or a report's) sends the thread a signal ([`SIGNAL`]). The handler, on that
//! thread, records the interrupted registers, copies the stack, and names the fiber. The inspector does everything
//! else: it walks the copy, and looks up names and lines.
//!
//! ```text
//!   inspector:  FREE ──▶ REQUESTED ── tgkill ─ ─ ─ ─ ─ ─ ─ waits ─ ─ ─ ─ ─ ─▶ DONE ──▶ reads ──▶ FREE
//!   handler:                     REQUESTED ──▶ WRITING ── fills RECORD ──▶ DONE
//! ```
//!
//! Invariants:
//! - One inspector at a time (a lock), so one record is enough. The handler writes to it between WRITING and DONE only,
//!   and the inspector reads it after DONE. An inspector whose patience ends takes REQUESTED back; a handler that comes
//!   later finds FREE and leaves.
//! - The handler makes async-signal-safe calls only (see
//!   [signal-safety(7)](https://man7.org/linux/man-pages/man7/signal-safety.7.html)): no allocation, no lock. Its
//!   thread may have been changing the data that it reads, so it takes single words and checks them.

use super::interrupt;
use super::unwind::{COPY_MAX, StackCopy};
use crate::event_loop::{current_fiber_for_signal, thread_stack_for_signal};
use crate::fiber::FiberId;
use crate::lock::lock;
use crate::signals;
use crate::stack::{Registers, RunningFiber};
use crate::time::Instant;
use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::panic::Location;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{mem, ptr, slice, thread};

/// The signal used for captures. It is ignored by default, and hardly any program uses it (it reports urgent data on a
/// socket). The Go runtime uses it for the same purpose, and explains the choice:
/// <https://github.com/golang/proposal/blob/master/design/24543-non-cooperative-preemption.md>.
pub(crate) const SIGNAL: libc::c_int = libc::SIGURG;

const FREE: u32 = 0;
const REQUESTED: u32 = 1;
const WRITING: u32 = 2;
const DONE: u32 = 3;

/// The number of bytes that are kept of a probe's text; see [`set_probe`].
const NOTE_MAX: usize = 4096;
/// The number of bytes that are kept of a fiber's name.
const NAME_MAX: usize = 64;

/// The interval at which an inspector checks whether the handler has finished.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_micros(200);

const NO_RESPONSE: &str =
    "the thread does not take signals: it is inside a system call, or blocks SIGURG";

/// Held by the inspector during a capture.
static INSPECTORS: Mutex<()> = Mutex::new(());

static STATE: AtomicU32 = AtomicU32::new(FREE);
static THREAD: AtomicI32 = AtomicI32::new(0);
static RECORD: SharedRecord = SharedRecord(UnsafeCell::new(Record::EMPTY));
static PROBE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

struct SharedRecord(UnsafeCell<Record>);

// SAFETY: `STATE` decides which thread may touch it: see the head of this file.
unsafe impl Sync for SharedRecord {}

/// The data that the handler records.
struct Record {
    registers: Registers,
    copied: usize,
    cut: bool,
    fiber: Option<(FiberId, &'static Location<'static>)>,
    name_bytes: usize,
    note_bytes: usize,
    name: [u8; NAME_MAX],
    note: [u8; NOTE_MAX],
    stack: [u8; COPY_MAX],
}

impl Record {
    const EMPTY: Record = Record {
        registers: Registers {
            instruction: 0,
            stack: 0,
            frame: 0,
            link: 0,
            after_call: false,
        },
        copied: 0,
        cut: false,
        fiber: None,
        name_bytes: 0,
        note_bytes: 0,
        name: [0; NAME_MAX],
        note: [0; NOTE_MAX],
        stack: [0; COPY_MAX],
    };
}

/// The capture of a thread.
pub(crate) struct Capture {
    pub(crate) fiber: Option<FiberId>,
    pub(crate) name: Option<String>,
    pub(crate) location: Option<&'static Location<'static>>,
    /// The note of a layer above on the code that runs: the lines of an interpreter.
    pub(crate) note: Option<String>,
    pub(crate) copy: StackCopy,
}

/// A function that writes what the calling thread executes into the buffer, and returns the number of bytes. It runs in
/// a signal handler, and `context` is the interrupted thread's `ucontext_t`: it must not allocate, take a lock, or rely
/// on data that may be half changed.
pub type Probe = unsafe extern "C" fn(context: *mut c_void, text: *mut u8, bytes: usize) -> usize;

/// Makes the watchdog and the report call `probe` too when they examine a running thread. For a layer that runs code of
/// another language on fibers.
///
/// ```standalone_crate
/// use std::ffi::c_void;
/// use std::sync::mpsc::channel;
/// use std::time::{Duration, Instant};
/// use yue_scheduler::{Config, Loop, inspect};
///
/// unsafe extern "C" fn probe(_context: *mut c_void, text: *mut u8, bytes: usize) -> usize {
///     let line = b"in main.script:1";
///     let count = line.len().min(bytes);
///     unsafe { text.copy_from_nonoverlapping(line.as_ptr(), count) };
///     count
/// }
///
/// unsafe { inspect::set_probe(probe) };
/// let (sender, receiver) = channel();
/// inspect::watch_loops_with(Duration::from_millis(20), move |held| drop(sender.send(held.note.clone()))).unwrap();
/// Loop::new(Config::default()).unwrap().run(move || {
///     // Blocks the whole loop, until the watchdog notices.
///     assert!(receiver.iter().any(|note| note.as_deref() == Some("in main.script:1")));
/// });
/// ```
///
/// # Safety
/// `probe` writes at most `bytes` bytes. It may run on any thread that has a loop, at any instruction, and calls
/// async-signal-safe functions only.
pub unsafe fn set_probe(probe: Probe) {
    // Release: pairs with the Acquire in the handler.
    PROBE.store(probe as *mut (), Ordering::Release);
}

/// Sends the signal to a thread.
pub(super) fn send(thread: libc::pid_t) -> Result<(), &'static str> {
    // SAFETY: sends a signal whose handler is ours. For a thread that has ended the call returns ESRCH.
    match unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) } {
        0 => Ok(()),
        _ => Err("the thread is gone"),
    }
}

/// Installs the handler, once per process.
///
/// # Errors
/// The reason why no thread can be captured.
pub(crate) fn install() -> Result<(), &'static str> {
    static DONE: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *DONE.get_or_init(|| {
        // SAFETY: queries and sets this process's action; an all-zero one is valid, and the handler is
        // async-signal-safe.
        unsafe {
            let mut old: libc::sigaction = mem::zeroed();
            if libc::sigaction(SIGNAL, ptr::null(), &mut old) != 0 {
                return Err("the system refuses a handler for SIGURG");
            }
            if !matches!(old.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
                return Err("the program has a handler of its own for SIGURG");
            }
            signals::set_signal_handler(SIGNAL, on_signal as *const (), libc::SA_SIGINFO)
                .map_err(|_| "the system refuses a handler for SIGURG")
        }
    })
}

/// Captures a thread of this process.
///
/// # Errors
/// The reason why the thread could not be captured.
pub(crate) fn capture(thread: libc::pid_t, patience: Duration) -> Result<Capture, &'static str> {
    install()?;
    let _one_at_a_time = lock(&INSPECTORS);
    THREAD.store(thread, Ordering::Relaxed);
    // Release: pairs with the Acquire of the handler's exchange, which then sees THREAD.
    STATE.store(REQUESTED, Ordering::Release);
    send(thread).inspect_err(|_| STATE.store(FREE, Ordering::Relaxed))?;
    let until = Instant::system().saturating_add(patience);
    // Acquire: pairs with the handler's Release of DONE, so the whole record is visible.
    while STATE.load(Ordering::Acquire) != DONE {
        thread::sleep(CHECK_INTERVAL);
        if Instant::system() >= until
            && STATE
                .compare_exchange(REQUESTED, FREE, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Err(NO_RESPONSE);
        }
    }
    // SAFETY: between DONE and FREE only the inspector touches the record.
    let found = read(unsafe { &*RECORD.0.get() });
    STATE.store(FREE, Ordering::Relaxed);
    Ok(found)
}

fn read(record: &Record) -> Capture {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Capture {
        fiber: record.fiber.map(|(id, _)| id),
        name: (record.name_bytes > 0).then(|| text(&record.name[..record.name_bytes])),
        location: record.fiber.map(|(_, location)| location),
        note: (record.note_bytes > 0).then(|| text(&record.note[..record.note_bytes])),
        copy: StackCopy {
            registers: record.registers,
            bytes: record.stack[..record.copied].into(),
            cut: record.cut,
        },
    }
}

extern "C" fn on_signal(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    let thread = crate::thread_id();
    // SAFETY: the address of this thread's errno, which is restored below.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let requested = THREAD.load(Ordering::Relaxed) == thread
        && STATE
            // Acquire: pairs with the inspector's Release of REQUESTED.
            .compare_exchange(REQUESTED, WRITING, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
    if requested {
        // SAFETY: in WRITING only this handler touches the record, and the kernel passes a valid context.
        unsafe { fill(&mut *RECORD.0.get(), context) };
        // Release: pairs with the Acquire in `capture`.
        STATE.store(DONE, Ordering::Release);
    }
    interrupt::on_signal(thread);
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Records the interrupted code.
///
/// # Safety
/// Called in the handler, with the context that the kernel passed to it.
unsafe fn fill(record: &mut Record, context: *mut c_void) {
    // SAFETY: as the caller promises.
    record.registers = unsafe { interrupted(&*context.cast::<libc::ucontext_t>()) };
    let fiber = current_fiber_for_signal();
    let end = stack_end(record.registers.stack as usize, fiber.as_ref());
    let start = record.registers.stack as usize;
    let bytes = end.saturating_sub(start);
    record.copied = bytes.min(COPY_MAX);
    record.cut = bytes > COPY_MAX;
    // SAFETY: from the stack pointer to the stack's end is memory of the interrupted thread, which does not run
    // meanwhile.
    let stack = unsafe { slice::from_raw_parts(start as *const u8, record.copied) };
    record.stack[..record.copied].copy_from_slice(stack);
    record.name_bytes = 0;
    if let Some(fiber) = &fiber {
        let name = fiber.name.unwrap_or("").as_bytes();
        record.name_bytes = name.len().min(NAME_MAX);
        record.name[..record.name_bytes].copy_from_slice(&name[..record.name_bytes]);
    }
    record.fiber = fiber.map(|fiber| {
        let id = FiberId {
            loop_id: fiber.loop_id,
            index: fiber.index,
            generation: fiber.generation,
        };
        (id, fiber.location)
    });
    record.note_bytes = 0;
    // Acquire: pairs with the Release in `set_probe`.
    let probe = PROBE.load(Ordering::Acquire);
    if !probe.is_null() {
        // SAFETY: `set_probe` stored a `Probe`, whose contract allows this call.
        let bytes = unsafe {
            let probe: Probe = mem::transmute::<*mut (), Probe>(probe);
            probe(context, record.note.as_mut_ptr(), NOTE_MAX)
        };
        record.note_bytes = bytes.min(NOTE_MAX);
    }
}

/// Returns the end of the stack that the thread runs on: its fiber's, or its own. If it is neither, returns the
/// pointer, and nothing is copied.
fn stack_end(pointer: usize, fiber: Option<&RunningFiber>) -> usize {
    let of_fiber = fiber.map_or(0..0, |fiber| fiber.bounds.range());
    let own = thread_stack_for_signal();
    if of_fiber.contains(&pointer) {
        of_fiber.end
    } else if own.contains(&pointer) {
        own.end
    } else {
        pointer
    }
}

#[cfg(target_arch = "x86_64")]
fn interrupted(context: &libc::ucontext_t) -> Registers {
    let register = |number: libc::c_int| context.uc_mcontext.gregs[number as usize] as u64;
    Registers {
        instruction: register(libc::REG_RIP),
        stack: register(libc::REG_RSP),
        frame: register(libc::REG_RBP),
        link: 0,
        after_call: false,
    }
}

#[cfg(target_arch = "aarch64")]
fn interrupted(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    Registers {
        instruction: machine.pc,
        stack: machine.sp,
        frame: machine.regs[29],
        link: machine.regs[30],
        after_call: false,
    }
}

//! Backtraces: the calls on a fiber's stack, with names.
//!
//! Taking a backtrace collects addresses. Names and lines are looked up when it is printed: for a large program that
//! takes a second the first time, so no loop's thread should do it.

use super::unwind::StackCopy;
use crate::event_loop::{Inner, LoopHandle, this_loop, with_loop};
use crate::fiber::{FiberId, Header, JoinError, SWITCH_FRAMES, State, descriptions, record};
use std::any::Any;
use std::env;
use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The call stack of a fiber, innermost call first.
///
/// `{}` omits the scheduler's frames at both ends; `{:#}` shows all. Two backtraces are equal if they have the same
/// calls from the same locations. Names need symbols, and lines need the debug information that `debug =
/// "line-tables-only"` adds.
///
/// ```
/// use std::time::Duration;
/// use yue_scheduler::{Config, Loop, sleep, spawn, this_loop, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| sleep(Duration::from_secs(3600)));
///     yield_now().unwrap();
///     let calls = this_loop::backtrace(fiber.id()).unwrap();
///     assert!(!calls.addresses().is_empty());
///     println!("{calls}");
/// });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Backtrace {
    addresses: Vec<usize>,
    cut: bool,
}

impl Backtrace {
    pub(crate) fn of(copy: &StackCopy) -> Backtrace {
        Backtrace {
            addresses: copy.addresses(),
            cut: copy.cut,
        }
    }

    /// The addresses of the calls.
    pub fn addresses(&self) -> &[usize] {
        &self.addresses
    }

    /// Returns the calls with their names.
    fn frames(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &address in &self.addresses {
            let before = frames.len();
            // An inlined call has several names for one address.
            backtrace::resolve(address as *mut c_void, |symbol| {
                frames.push(Frame {
                    address,
                    name: symbol.name().map(|name| format!("{name:#}")),
                    file: symbol.filename().map(Path::to_owned),
                    line: symbol.lineno(),
                });
            });
            if frames.len() == before {
                frames.push(Frame {
                    address,
                    name: None,
                    file: None,
                    line: None,
                });
            }
        }
        frames
    }
}

struct Frame {
    address: usize,
    name: Option<String>,
    file: Option<PathBuf>,
    line: Option<u32>,
}

/// The scheduler's own frames at one end of a fiber's stack. A frame is recognized by its file, because a release build
/// knows only the bare name of an inlined call; or else by its name.
struct Part {
    files: &'static [&'static str],
    names: &'static [&'static str],
}

macro_rules! ours {
    ($folder:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/src/", $folder)
    };
}

/// The frames by which a fiber leaves the processor.
const INNER: Part = Part {
    files: &[
        SWITCH_FRAMES.0,
        ours!("fiber/"),
        ours!("event_loop/"),
        ours!("time/mod.rs"),
    ],
    names: &[
        SWITCH_FRAMES.1,
        "yue_scheduler::fiber::",
        "yue_scheduler::event_loop::",
    ],
};

/// Frames below the program's code: the root of a fiber, or its loop.
const ROOT: Part = Part {
    files: &[
        ours!("fiber/root.rs"),
        ours!("event_loop/tick.rs"),
        ours!("event_loop/timing.rs"),
    ],
    names: &[
        "yue_scheduler::fiber::root::",
        "yue_scheduler::event_loop::tick::",
    ],
};

/// Frames through which the root calls a fiber's closure.
const CATCHING: Part = Part {
    files: &[
        "/library/std/src/panicking.rs",
        "/library/std/src/panic.rs",
        "/library/core/src/panic/unwind_safe.rs",
        "/library/core/src/ops/function.rs",
    ],
    names: &[
        "std::panicking::",
        "std::panic::",
        "core::panic::",
        "core::ops::function::",
    ],
};

/// Characters of a name that are shown; names of generic functions can take lines.
const NAME_MAX: usize = 120;

impl Frame {
    fn is_of(&self, part: &Part) -> bool {
        let file = self.file.as_deref().and_then(Path::to_str).unwrap_or("");
        let name = self.name.as_deref().unwrap_or("").trim_start_matches('<');
        part.files.iter().any(|known| file.contains(known))
            || part.names.iter().any(|known| name.starts_with(known))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, here: &Path) -> fmt::Result {
        match &self.name {
            Some(name) if name.chars().count() > NAME_MAX => {
                let start: String = name.chars().take(NAME_MAX).collect();
                write!(f, "    {start}...")?;
            }
            Some(name) => write!(f, "    {name}")?,
            None => write!(f, "    {:#x}", self.address)?,
        }
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            let file = file.strip_prefix(here).unwrap_or(file).to_string_lossy();
            write!(f, " ({}:{line})", strip_origin(&file))?;
        }
        writeln!(f)
    }
}

/// Returns a library's file without the folder in which this machine, or the one that built it, keeps it.
fn strip_origin(file: &str) -> &str {
    for (origin, folders) in [("/registry/src/", 1), ("/rustc/", 1)] {
        if let Some((_, rest)) = file.split_once(origin) {
            return rest.splitn(folders + 1, '/').last().unwrap_or(rest);
        }
    }
    file
}

/// Returns the frames of the program.
fn program_frames(frames: &[Frame]) -> &[Frame] {
    let start = frames
        .iter()
        .position(|frame| !frame.is_of(&INNER))
        .unwrap_or(0);
    let root = frames[start..].iter().position(|frame| frame.is_of(&ROOT));
    let mut end = root.map_or(frames.len(), |root| start + root);
    while end > start && frames[end - 1].is_of(&CATCHING) {
        end -= 1;
    }
    if start == end {
        frames
    } else {
        &frames[start..end]
    }
}

impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = self.frames();
        let here = env::current_dir().unwrap_or_default();
        let shown = if f.alternate() {
            &frames[..]
        } else {
            program_frames(&frames)
        };
        for frame in shown {
            frame.write(f, &here)?;
        }
        if self.cut {
            writeln!(
                f,
                "    (and more: the stack is deeper than what is looked at)"
            )?;
        }
        Ok(())
    }
}

/// Returns the header of a fiber of this loop that has started and is not running.
fn suspended(l: &Inner, fiber: FiberId) -> Option<&Header> {
    let header = l.slab.find(fiber)?;
    let off = matches!(header.state.get(), State::Parked | State::Ready);
    (off && header.switch.started()).then_some(header)
}

/// Returns the lines that the layers above add about a fiber of this loop that is not running, such as the traceback of
/// an interpreter.
#[track_caller]
pub(crate) fn notes(fiber: FiberId) -> Vec<String> {
    with_loop(|l| {
        let header = suspended(l, fiber);
        // SAFETY: the fiber has started, is not running and has not ended.
        header.map_or(Vec::new(), |header| unsafe { descriptions(header) })
    })
}

/// The record that a switch hook keeps for a fiber of this loop that is not running; null if there is none.
#[track_caller]
pub(crate) fn record_of(fiber: FiberId) -> *const () {
    with_loop(|l| {
        let header = suspended(l, fiber);
        // SAFETY: the fiber has started, is not running and has not ended.
        header.map_or(std::ptr::null(), |header| unsafe { record(header) })
    })
}

/// The context of a fiber of this loop that is not running.
#[track_caller]
pub(crate) fn context_of(fiber: FiberId) -> Option<Rc<dyn Any>> {
    with_loop(|l| suspended(l, fiber)?.context.get())
}

/// Copies the stack of a fiber that has started and is not running.
#[track_caller]
pub(crate) fn copy_stack(fiber: FiberId) -> Option<StackCopy> {
    with_loop(|l| {
        let header = suspended(l, fiber)?;
        // SAFETY: the fiber has started, is not running and has not ended; nothing runs on its stack while we copy.
        unsafe {
            let (registers, end) = header.switch.suspended(header.bounds.get())?;
            Some(StackCopy::take(registers, end))
        }
    })
}

/// Returns the call stack of a fiber of this loop. `None` if it has ended, has not run yet, or is the running one.
#[track_caller]
pub(crate) fn of_suspended(fiber: FiberId) -> Option<Backtrace> {
    copy_stack(fiber).map(|copy| Backtrace::of(&copy))
}

impl LoopHandle {
    /// Requests the call stack of one of the loop's fibers, and waits for it as [`LoopHandle::fibers`] does. `None` if
    /// the fiber has ended or has not run yet, or is the requesting fiber.
    ///
    /// # Errors
    /// See [`LoopHandle::fibers`].
    ///
    /// # Panics
    /// See [`LoopHandle::fibers`].
    #[track_caller]
    pub fn backtrace(&self, fiber: FiberId) -> Result<Option<Backtrace>, JoinError> {
        this_loop::assert_not_in_callback();
        let copy = self.spawn(move || copy_stack(fiber)).join()?;
        Ok(copy.map(|copy| Backtrace::of(&copy)))
    }
}

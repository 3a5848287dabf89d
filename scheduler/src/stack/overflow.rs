//! The report of a stack overflow.
//!
//! A fiber that overflows its stack touches the guard, and the kernel sends SIGSEGV. The handler runs on an alternate
//! stack, because the fiber's own is used up. If the address lies in the guard of the running fiber, the handler prints
//! which fiber it was, where it was spawned and how large its stack is, and aborts. Any other fault goes to the
//! previous handler, so the default crash, and Rust's own report for thread stacks, stay as they are.
//!
//! The handler makes only async-signal-safe calls: no allocation, no lock, `write(2)` of a buffer on the stack.

use super::StackBounds;
use std::cell::RefCell;
use std::io::Write;
use std::mem;
use std::panic::Location;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The previous handler's `sa_sigaction`; its `sa_flags` are below.
static PREVIOUS_ACTION: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS_FLAGS: AtomicUsize = AtomicUsize::new(0);
/// Finds the running fiber. Set when the handler is installed.
static FIND: OnceLock<fn() -> Option<RunningFiber>> = OnceLock::new();

/// Bytes of the alternate stack. Formatting in the handler needs a few KiB, and AVX-512 state 3 KiB more.
const ALTERNATE_STACK: usize = 64 << 10;

/// The alternate stack of a thread. It is removed with the last of the thread's loops.
pub(crate) struct AlternateStack {
    memory: *mut libc::c_void,
    /// The previous alternate stack, which Rust's runtime set.
    before: libc::stack_t,
}

thread_local! {
    static OF_THIS_THREAD: RefCell<Weak<AlternateStack>> = const { RefCell::new(Weak::new()) };
}

/// The running fiber of a thread, as far as a signal handler may know it.
pub(crate) struct RunningFiber {
    pub(crate) loop_id: u32,
    pub(crate) index: u32,
    pub(crate) generation: u32,
    pub(crate) name: Option<&'static str>,
    pub(crate) location: &'static Location<'static>,
    pub(crate) bounds: StackBounds,
}

/// Installs the handler (once per process), and an alternate stack for the calling thread if its own is too small. The
/// handler calls `find`, which returns the thread's running fiber and makes async-signal-safe calls only.
pub(crate) fn install(find: fn() -> Option<RunningFiber>) -> Option<Rc<AlternateStack>> {
    FIND.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid; the handler is async-signal-safe and calls the previous one.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_segv as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            let mut old: libc::sigaction = mem::zeroed();
            if libc::sigaction(libc::SIGSEGV, &action, &mut old) == 0 {
                // Relaxed: a fiber runs only after this call has returned, on this thread or on one that waited for it.
                PREVIOUS_FLAGS.store(old.sa_flags as usize, Ordering::Relaxed);
                PREVIOUS_ACTION.store(old.sa_sigaction, Ordering::Relaxed);
            }
        }
        find
    });
    AlternateStack::of_this_thread()
}

impl AlternateStack {
    fn of_this_thread() -> Option<Rc<AlternateStack>> {
        let shared = OF_THIS_THREAD.try_with(|shared| {
            if let Some(stack) = shared.borrow().upgrade() {
                return Some(stack);
            }
            let stack = Rc::new(AlternateStack::set_up()?);
            shared.replace(Rc::downgrade(&stack));
            Some(stack)
        });
        shared.ok().flatten()
    }

    fn set_up() -> Option<AlternateStack> {
        // SAFETY: only queries and sets this thread's signal stack; the memory outlives its use (see `drop`).
        unsafe {
            let mut old: libc::stack_t = mem::zeroed();
            if libc::sigaltstack(ptr::null(), &mut old) != 0 {
                return None;
            }
            if old.ss_flags & libc::SS_DISABLE == 0 && old.ss_size >= ALTERNATE_STACK {
                return None;
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let memory = libc::mmap(ptr::null_mut(), ALTERNATE_STACK, protection, flags, -1, 0);
            if memory == libc::MAP_FAILED {
                return None;
            }
            let stack = libc::stack_t {
                ss_sp: memory,
                ss_flags: 0,
                ss_size: ALTERNATE_STACK,
            };
            if libc::sigaltstack(&stack, ptr::null_mut()) != 0 {
                libc::munmap(memory, ALTERNATE_STACK);
                return None;
            }
            Some(AlternateStack {
                memory,
                before: old,
            })
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: the memory is unmapped only if it was this thread's signal stack and no longer is; a loop is dropped
        // on its own thread, outside the handler. The previous stack lives as long as the thread. Code that frees it
        // earlier also disables the signal stack, which the check below sees.
        unsafe {
            let mut now: libc::stack_t = mem::zeroed();
            if libc::sigaltstack(ptr::null(), &mut now) != 0 || now.ss_sp != self.memory {
                return;
            }
            if libc::sigaltstack(&self.before, ptr::null_mut()) == 0 {
                libc::munmap(self.memory, ALTERNATE_STACK);
            }
        }
    }
}

extern "C" fn on_segv(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    // Empty while the handler is being installed. No fiber runs then, and the fault is another's.
    let fiber = FIND.get().and_then(|find| find());
    if let Some(fiber) = fiber
        && fiber.bounds.guard().contains(&address)
    {
        let mut text = [0u8; 512];
        let mut rest = &mut text[..];
        // A message that does not fit is truncated.
        let _ = write!(
            rest,
            "\nyue: fiber {}.{} '{}' (spawned at {}:{}) overflowed its stack of {} KiB; \
             give it a larger one, or recurse less deeply\n",
            fiber.index,
            fiber.generation,
            fiber.name.unwrap_or("unnamed"),
            fiber.location.file(),
            fiber.location.line(),
            fiber.bounds.size() >> 10,
        );
        let left = rest.len();
        let used = text.len() - left;
        // SAFETY: writes the initialized part of a local buffer; abort is async-signal-safe.
        unsafe {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), used);
            libc::abort();
        }
    }
    chain(signal, info, context);
}

/// Passes any other fault to the previous handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Relaxed: see `install`.
    let action = PREVIOUS_ACTION.load(Ordering::Relaxed);
    let flags = PREVIOUS_FLAGS.load(Ordering::Relaxed) as libc::c_int;
    // SAFETY: `action` is the old handler that the kernel returned, called according to its flags. Otherwise the
    // default action is restored, and the faulting instruction runs again and ends the process.
    unsafe {
        if action == libc::SIG_DFL || action == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else if flags & libc::SA_SIGINFO != 0 {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            mem::transmute::<usize, Handler>(action)(signal, info, context);
        } else {
            mem::transmute::<usize, extern "C" fn(libc::c_int)>(action)(signal);
        }
    }
}

//! Steps: the work of simulated Lua programs that never wait.
//!
//! A thread of a simulation gives its turn away when its loop has nothing to run. Code that computes forever would hold
//! the whole simulation at one instant, and the search for a seed that fails with it. So the bytecodes of each VM are
//! counted while one fiber runs without a pause. They are the same in every run of a seed, so the failure is, too.
//!
//! A call that fails at once takes much longer than a bytecode, and counts as many. It does not let time pass: on a
//! real machine, too, a fiber that tries again and again without a wait holds its loop, and with it the fibers that
//! could make its calls succeed.

use crate::lua::fibers::number;
use crate::lua::host;
use crate::lua::host::errors::ErrorObject;
use crate::lua::host::program::Cause;
use std::cell::Cell;
use yue_luajit::{Vm, ffi, interrupt_self, report_steps, traceback, turns, watch_steps};
use yue_rpc::ErrorKind;
use yue_scheduler::{current_id, current_name, in_fiber, simulation};

/// The steps that a fiber may make without a pause, unless [`Sim::steps_max`] sets them: a second of the
/// interpreter. A loop that is held for so long is worth a look.
///
/// [`Sim::steps_max`]: crate::sim::Sim::steps_max
pub(crate) const STEPS_MAX: u64 = 200_000_000;

/// The bytecodes between two checks.
const EVERY: u16 = 50_000;

/// The steps for which a failed call counts: about as many as take the same time.
const CALL_STEPS: u64 = 2_000;

thread_local! {
    /// The steps of the running fiber, and the turn in which it has made them.
    static STEPS: Cell<(u64, Turn)> = const { Cell::new((0, (0, 0))) };

    static MAX: Cell<u64> = const { Cell::new(STEPS_MAX) };
}

/// The number of choices of the simulation, and that of the thread's fibers: while both are the same, one fiber runs.
type Turn = (u64, usize);

/// The limit of the simulation's VMs.
struct Max(u64);

impl Default for Max {
    fn default() -> Max {
        Max(STEPS_MAX)
    }
}

/// Sets the limit of the VMs that begin from now on in this simulation.
pub(crate) fn set_max(steps: u64) {
    simulation::layer(|max: &mut Max| max.0 = steps);
}

/// Counts the steps of a VM of this thread from now on, if it belongs to a simulation.
pub(crate) fn watch(vm: &Vm) {
    if simulation::is_on() {
        MAX.set(simulation::layer(|max: &mut Max| max.0));
        watch_steps(vm, EVERY, on_steps);
    }
}

/// Counts a call that has failed. The thread belongs to a simulation.
pub(crate) fn count_failed_call() {
    if count(CALL_STEPS)
        && let Some(host) = host::current()
    {
        report_steps(&host.vm);
    }
}

/// Adds steps, and returns whether there are too many.
fn count(steps: u64) -> bool {
    let turn = (simulation::choices(), turns());
    let (before, since) = STEPS.get();
    let steps = match since == turn {
        true => before.saturating_add(steps),
        false => steps,
    };
    STEPS.set((steps, turn));
    steps >= MAX.get()
}

unsafe extern "C" fn on_steps(state: *mut ffi::lua_State) {
    if !simulation::is_on() || !count(u64::from(EVERY)) {
        return;
    }
    if simulation::stopped().is_none() {
        // SAFETY: the state that runs, in the function that counts its steps.
        fail(&unsafe { traceback(state) });
    }
    // Also code that catches the error and continues has ended then.
    interrupt_self();
}

/// Fails the run, or ends the program of a host that may fail.
fn fail(traceback: &str) {
    let fiber = match in_fiber() {
        true => {
            let name = current_name().map(|name| format!("'{name}'"));
            let number = || number(current_id()).to_string();
            format!("fiber {}", name.unwrap_or_else(number))
        }
        false => "code outside fibers".to_owned(),
    };
    let at = crate::sim::elapsed();
    let (place, max) = (place(traceback), MAX.get());
    let text = format!(
        "the program has run {max} steps without waiting at {at:?}: {fiber}{place}; it holds its loop. Let it \
         wait, for example by yue.sleep\n{traceback}"
    );
    let failure = ErrorObject::of_kind(ErrorKind::Runtime, text.clone());
    if !crate::sim::fail_program(text)
        && let Some(host) = host::current()
    {
        host.program.note_failure(failure);
        host.program.shut_down(Cause::Raised);
    }
}

/// The innermost line of the program in a traceback: ` at script.lua:7`.
fn place(traceback: &str) -> String {
    let lines = traceback.lines().skip(1).map(str::trim);
    let mut own = lines.filter(|line| !line.starts_with("[C]") && !line.starts_with("[yue]/"));
    let place = own.find_map(|line| line.split_once(": in ").map(|(place, _)| place));
    place.map_or_else(String::new, |place| format!(" at {place}"))
}

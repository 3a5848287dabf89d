//! The output of simulated hosts: what their programs print and log goes to whoever runs the simulation.

use super::{is_on, with_me};
use crate::lock::lock;
use std::sync::Arc;

/// Receives the output of a host, piece by piece: lines, or parts of them. It runs on the host's thread, outside
/// fibers' control: it must not wait.
pub type Output = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Passes what the programs of a host print and log to `output`, instead of to the process's standard streams.
///
/// # Panics
/// On a thread that belongs to no simulation.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use yue_scheduler::{LogLevel, log, simulation};
///
/// let lines = Arc::new(Mutex::new(Vec::new()));
/// let kept = lines.clone();
/// simulation::run(1, move || {
///     let keep = move |line: &[u8]| kept.lock().unwrap().push(line.to_vec());
///     simulation::set_output(simulation::host(), Arc::new(keep));
///     log(LogLevel::Warn, format_args!("it is late"));
/// })
/// .unwrap();
/// assert_eq!(*lines.lock().unwrap(), [b"yue warn: it is late\n"]);
/// ```
pub fn set_output(host: u32, output: Output) {
    with_me(|me| lock(&me.room.state).hosts.entry(host).or_default().output = Some(output));
}

/// Passes bytes to the receiver of the calling thread's host. Returns false where there is none: outside simulations,
/// and on hosts without one.
pub fn write_output(bytes: &[u8]) -> bool {
    let Some(output) = current() else {
        return false;
    };
    output(bytes);
    true
}

/// The receiver of the calling thread's host.
pub(crate) fn current() -> Option<Output> {
    if !is_on() {
        return None;
    }
    with_me(|me| lock(&me.room.state).hosts.get(&me.host)?.output.clone())
}

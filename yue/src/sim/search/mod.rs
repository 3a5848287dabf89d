//! The search for a seed that fails.
//!
//! ```text
//!   mod.rs        the search of a test          processes.rs   seeds divided among processes
//!   seeds.rs      the search itself: one seed after the other, until one fails; then its faults are shrunk
//! ```

mod processes;
mod seeds;

pub use processes::search_in_processes;
pub use seeds::{Found, Search};

use super::settings::{self, SEED, TIMELINE, TRACE};
use super::{Failure, Report};
use std::ops::Range;
use std::process::Command;

/// Runs `run` with each of the seeds, and panics if one fails, with the seed and the command that runs it again. The
/// first seeds run twice, and must have the same outcome twice: a run that depends on more than its seed is a failure,
/// too.
///
/// If a run with [faults](super::Sim::chaos) fails, the search looks for the few of them that matter: see
/// [`shrink`](fn@super::shrink). It prints them, the end of the trace, and the command that repeats the run.
/// `YUE_SIM_TRACE=FILE` and `YUE_SIM_TIMELINE=FILE.html` write trace and timeline of the run that failed, or of a
/// single one that did not.
///
/// Call it as the only statement of a test: it starts the test's own program again, one process for each processor,
/// and divides the seeds among them. `YUE_SIM_SEED=17` runs seed 17 alone, `YUE_SIM_SEED=1000..2000` others than the
/// test names.
///
/// ```no_run
/// use yue::sim::{Sim, search};
///
/// #[test]
/// fn nothing_is_paid_twice() {
///     search(0..1000, |seed| Sim::new(seed).host("bank", || { /* … */ }).run(|sim| { /* … */ }));
/// }
/// ```
///
/// # Panics
/// If a seed fails.
pub fn search(seeds: Range<u64>, run: impl Fn(u64) -> Result<Report, Failure>) {
    let name = std::thread::current().name().map(str::to_owned);
    let processes = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let part = match std::env::var(SEED) {
        Ok(text) => match Search::parse(&text) {
            Some(search) => search,
            None => panic!("{SEED} is {text}; write a seed (17) or a range (10..20)"),
        },
        // Outside a test the name does not select this call.
        Err(_) if name.as_deref().is_none_or(|name| name == "main") => Search::new(seeds),
        Err(_) if processes == 1 || seeds.end - seeds.start <= processes => Search::new(seeds),
        Err(_) => {
            let start = |part: &str| {
                let mut command = Command::new(std::env::current_exe()?);
                let test = name.as_deref().unwrap_or_default();
                command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
                command.env(SEED, part);
                Ok(command)
            };
            return match search_in_processes(seeds, processes, start) {
                Ok(()) => {}
                Err(text) => panic!("{text}"),
            };
        }
    };
    let outcome = part.run(run);
    let report = match &outcome {
        Ok(report) => report.as_ref().filter(|_| part.is_single()),
        Err(found) => Some(&*found.failure.report),
    };
    let mut files = report.map(settings::write_files).unwrap_or_default();
    if let Err(found) = outcome {
        if files.is_empty() {
            let hint = format!("{TRACE}=FILE writes all of it, {TIMELINE}=FILE.html draws it");
            files.push(hint);
        }
        let name = name.unwrap_or_else(|| "main".to_owned());
        let command = format!("{SEED}={} cargo test {name}", found.seed);
        panic!("{}", found.describe(&command, &files.join("\n")));
    }
}

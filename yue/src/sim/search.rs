//! The search for a seed that fails, in several processes.

use super::settings::{self, FAULTS, SEED, TIMELINE, TRACE};
use super::shrink::{ShrinkLimits, Shrunk, shrink};
use super::{Failure, Report, recorder};
use std::fmt::Write;
use std::io::Read;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use yue_scheduler::simulation;

/// Runs `run` with each of the seeds, and panics if one fails, with the seed and the command that runs it again. The
/// first seeds run twice, and must have the same outcome twice: a run that depends on more than its seed is a failure,
/// too.
///
/// If a run with [faults](super::Sim::chaos) fails, the search looks for the few of them that matter: see
/// [`shrink`](fn@super::shrink). It prints them, the end of the trace, and the command that repeats the run.
/// `YUE_SIM_TRACE=FILE` and `YUE_SIM_TIMELINE=FILE.html` write trace and timeline of the run that failed, or of a single
/// one that did not.
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
    if let Ok(text) = std::env::var(SEED) {
        let Some((seeds, step)) = parse(&text) else {
            panic!("{SEED} is {text}; write a seed (17) or a range (10..20)");
        };
        return run_all(seeds, step, &run);
    }
    let name = std::thread::current().name().map(str::to_owned);
    let processes = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // Outside a test the name does not select this call.
    match name.filter(|name| name != "main" && processes > 1 && seeds.end - seeds.start > processes)
    {
        Some(name) => run_in_processes(&name, seeds, processes),
        None => run_all(seeds, 1, &run),
    }
}

/// The number of a process's first seeds that run twice.
const TWICE: usize = 5;

/// The number of the trace's last lines that a failure shows.
const LAST_LINES: usize = 20;

fn run_all(seeds: Range<u64>, step: u64, run: &impl Fn(u64) -> Result<Report, Failure>) {
    silence_panics_of_failed_runs();
    let is_alone = seeds.end - seeds.start == 1;
    for (index, seed) in seeds.step_by(step.max(1) as usize).enumerate() {
        let outcome = settings::in_search(None, || run(seed));
        if index < TWICE {
            let again = settings::in_search(None, || run(seed));
            assert!(
                outcome == again,
                "seed {seed} has two outcomes, so the run depends on more than its seed: a clock, random numbers or \
                 files of the system, or the order of a hash table\n  {}\n  {}",
                shown(&outcome),
                shown(&again)
            );
        }
        match outcome {
            Ok(report) if is_alone => {
                let files = settings::write_files(&report);
                files.iter().for_each(|line| eprintln!("{line}"));
            }
            Ok(_) => {}
            Err(failure) => {
                let shrunk = shrink_failure(&failure, seed, run);
                panic!("{}", describe(seed, &failure, &shrunk));
            }
        }
    }
}

/// Looks for the faults that matter, unless somebody has chosen the faults.
fn shrink_failure(
    failure: &Failure,
    seed: u64,
    run: &impl Fn(u64) -> Result<Report, Failure>,
) -> Shrunk {
    let mut limits = ShrinkLimits::default();
    if std::env::var_os(FAULTS).is_some() {
        limits.runs = 0;
    }
    IS_SHRINKING.store(true, Ordering::Relaxed);
    let shrunk = shrink(failure, limits, |schedule| {
        settings::in_search(Some(schedule.clone()), || run(seed))
    });
    IS_SHRINKING.store(false, Ordering::Relaxed);
    shrunk
}

/// Whether runs fail by the hundred.
static IS_SHRINKING: AtomicBool = AtomicBool::new(false);

/// Keeps panics off standard error that nobody needs to see: those of a run that has failed already, whose waits all
/// fail, and those of runs with fewer faults.
fn silence_panics_of_failed_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_known = IS_SHRINKING.load(Ordering::Relaxed) || recorder::has_failed();
            if !(is_known && simulation::is_on()) {
                before(info);
            }
        }));
    });
}

/// The message about a run that failed: what, why, the end of the trace, and how to see it again.
fn describe(seed: u64, failure: &Failure, shrunk: &Shrunk) -> String {
    let (before, report) = (failure.report.schedule.len(), &shrunk.failure.report);
    let mut text = format!("seed {seed}: {}\n", shrunk.failure);
    // Writing to a String cannot fail.
    let _ = match report.schedule.len() {
        _ if before == 0 => Ok(()),
        _ if shrunk.runs == 0 => writeln!(text, "faults:"),
        0 => writeln!(text, "it fails without any of its {before} faults, too"),
        left => writeln!(
            text,
            "the faults that matter, {left} of {before} after {} runs:",
            shrunk.runs
        ),
    };
    for fault in report.schedule.faults() {
        let _ = writeln!(text, "    {fault}");
    }
    let _ = writeln!(
        text,
        "the end of the trace:\n{}",
        report.last_lines(LAST_LINES).trim_end()
    );
    let mut files = settings::write_files(report);
    if files.is_empty() {
        files.push(format!(
            "{TRACE}=FILE writes all of it, {TIMELINE}=FILE.html draws it"
        ));
    }
    files.iter().for_each(|line| text += &format!("{line}\n"));
    let faults: Vec<_> = report
        .schedule
        .faults()
        .iter()
        .map(|one| one.to_string())
        .collect();
    let faults = match before {
        0 => String::new(),
        // Names of hosts have no quotes, and nothing else in a schedule has any.
        _ => format!("{FAULTS}='{}' ", faults.join("; ")),
    };
    let name = std::thread::current().name().unwrap_or("main").to_owned();
    let _ = write!(
        text,
        "run it again: {SEED}={seed} {faults}cargo test {name}"
    );
    text
}

fn shown(outcome: &Result<Report, Failure>) -> String {
    match outcome {
        Ok(report) => format!(
            "well, after {:?}, digest {:x}",
            report.elapsed, report.digest
        ),
        Err(failure) => failure.to_string(),
    }
}

/// A process of the search. Dropping it ends it.
struct Searching(Child);

impl Drop for Searching {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_in_processes(test: &str, seeds: Range<u64>, processes: u64) {
    let start = |offset| -> std::io::Result<Searching> {
        let part = format!("{}..{}/{processes}", seeds.start + offset, seeds.end);
        let mut command = Command::new(std::env::current_exe()?);
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env(SEED, part).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Searching(command.spawn()?))
    };
    let mut all: Vec<Searching> = (0..processes)
        .map(|offset| match start(offset) {
            Ok(one) => one,
            Err(error) => panic!("cannot start a process of the search: {error}"),
        })
        .collect();
    // The output is read at once, since a full pipe would stop the process.
    let readers: Vec<_> = all
        .iter_mut()
        .map(|one| {
            let pipe = one.0.stderr.take();
            std::thread::spawn(move || {
                let mut text = String::new();
                // What cannot be read cannot be shown.
                let _ = pipe.map(|mut pipe| pipe.read_to_string(&mut text));
                text
            })
        })
        .collect();
    let mut running: Vec<usize> = (0..all.len()).collect();
    let mut failed = None;
    let began = Instant::now();
    while !running.is_empty() && failed.is_none() {
        running.retain(|index| match all[*index].0.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) if status.success() => false,
            _ => {
                failed.get_or_insert(*index);
                false
            }
        });
        std::thread::sleep(match began.elapsed() < Duration::from_secs(1) {
            true => Duration::from_millis(5),
            false => Duration::from_millis(50),
        });
    }
    // The first failure ends the search.
    drop(all);
    let texts: Vec<String> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap_or_default())
        .collect();
    if let Some(index) = failed {
        panic!("{}", texts[index].trim_end());
    }
}

/// Parses `17`, `10..20` and `10..20/2`.
fn parse(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, step) = text.split_once('/').unwrap_or((text, "1"));
    let step = step.parse().ok().filter(|step| *step > 0)?;
    let range = match range.split_once("..") {
        Some((first, end)) => first.trim().parse().ok()?..end.trim().parse().ok()?,
        None => {
            let seed: u64 = range.trim().parse().ok()?;
            seed..seed.checked_add(1)?
        }
    };
    Some((range, step))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn seeds_are_written_alone_or_as_a_range() {
        assert_eq!(parse("17"), Some((17..18, 1)));
        assert_eq!(parse("10..20"), Some((10..20, 1)));
        assert_eq!(parse("10..20/2"), Some((10..20, 2)));
        for wrong in ["", "x", "1..", "1/0", "-1", "18446744073709551615"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}

//! The search for a seed that fails, in several processes.

use super::{Failure, Report};
use std::io::Read;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that selects the seeds of a test: `17`, or `10..20`, or `10..20/2` for every second one.
const VARIABLE: &str = "YUE_SIM_SEED";

/// Runs `run` with each of the seeds, and panics if one fails, with the seed and the command that runs it again. The
/// first seeds run twice, and must have the same outcome twice: a run that depends on more than its seed is a failure,
/// too.
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
    if let Ok(text) = std::env::var(VARIABLE) {
        let Some((seeds, step)) = parse(&text) else {
            panic!("{VARIABLE} is {text}; write a seed (17) or a range (10..20)");
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

fn run_all(seeds: Range<u64>, step: u64, run: &impl Fn(u64) -> Result<Report, Failure>) {
    for (index, seed) in seeds.step_by(step.max(1) as usize).enumerate() {
        let outcome = run(seed);
        if index < TWICE {
            let again = run(seed);
            assert!(
                outcome == again,
                "seed {seed} has two outcomes, so the run depends on more than its seed: a clock, random numbers or \
                 files of the system, or the order of a hash table\n  {}\n  {}",
                shown(&outcome),
                shown(&again)
            );
        }
        if let Err(failure) = outcome {
            let name = std::thread::current().name().unwrap_or("main").to_owned();
            panic!("seed {seed}: {failure}\nrun it again: {VARIABLE}={seed} cargo test {name}");
        }
    }
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
        command.env(VARIABLE, part).stdin(Stdio::null());
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

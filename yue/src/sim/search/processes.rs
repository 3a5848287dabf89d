//! Seeds divided among processes. A simulation runs one thread at a time, so each processor gets a process.

use std::io::Read;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process of the search. Dropping it ends it.
struct Searching(Child);

impl Drop for Searching {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Divides seeds among processes, and waits until all have ended well, or one has not. `start` returns the command of a
/// process that searches a part of the seeds, which it gets as the text that `YUE_SIM_SEED` has.
///
/// # Errors
/// The standard error of the first process that failed; or that one cannot be started.
pub fn search_in_processes(
    seeds: Range<u64>,
    processes: u64,
    start: impl Fn(&str) -> std::io::Result<Command>,
) -> Result<(), String> {
    let start = |offset| -> std::io::Result<Searching> {
        let mut command = start(&format!(
            "{}..{}/{processes}",
            seeds.start + offset,
            seeds.end
        ))?;
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(Searching(command.spawn()?))
    };
    let all: std::io::Result<Vec<Searching>> = (0..processes).map(start).collect();
    let mut all = all.map_err(|error| format!("cannot start a process of the search: {error}"))?;
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
    match failed {
        Some(index) => Err(texts[index].trim_end().to_owned()),
        None => Ok(()),
    }
}

//! All counters of the process, in Prometheus' text format.

use std::fmt::{Display, Write};
use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};
use yue_scheduler::inspect::metrics_text;

/// Returns all counters of the process in Prometheus' text format (version 0.0.4): the process's own under the names
/// that other programs use, too (`process_cpu_seconds_total`, `process_resident_memory_bytes`, …), and those of
/// [`metrics_text`]: loops, fibers, calls, connections, and what the program has added.
///
/// It may be called on any thread at any time, and waits for no loop. A handler of `GET /metrics` answers with it, with
/// the content type `text/plain; version=0.0.4`.
///
/// ```
/// let text = yue::Runtime::new()?.run(yue::admin::prometheus);
/// assert!(text.contains("\nprocess_open_fds "));
/// assert!(text.contains("\nyue_fibers{loop=\"1\"} "));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn prometheus() -> String {
    let mut text = String::with_capacity(16 << 10);
    write_info(&mut text);
    write_process(&mut text);
    text.push_str(&metrics_text());
    text
}

fn write_info(out: &mut String) {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("yue_info{{version=\"{version}\"}}");
    head(out, "yue_info", "gauge", "The version of yue.");
    line(out, &name, 1);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, value: impl Display) {
    let _ = writeln!(out, "{name} {value}");
}

/// A number of the system; what the system does not tell is left out.
fn family<T: Display>(out: &mut String, name: &str, kind: &str, help: &str, value: Option<T>) {
    if let Some(value) = value {
        head(out, name, kind, help);
        line(out, name, value);
    }
}

fn write_process(out: &mut String) {
    let stat = Stat::read();
    let name = "process_cpu_seconds_total";
    let help = "Processor time of the process, in the program and in the kernel.";
    let cpu = stat.as_ref().map(|stat| seconds(stat.cpu_ticks));
    family(out, name, "counter", help, cpu);
    let name = "process_start_time_seconds";
    let help = "When the process started, since 1970.";
    family(out, name, "gauge", help, Some(start_time_seconds()));
    let name = "process_resident_memory_bytes";
    let resident = stat.as_ref().map(Stat::resident_bytes);
    family(out, name, "gauge", "Memory in use.", resident);
    let name = "process_virtual_memory_bytes";
    let mapped = stat.as_ref().map(|stat| stat.virtual_bytes);
    family(out, name, "gauge", "Mapped address space.", mapped);
    let name = "process_threads";
    let threads = stat.as_ref().map(|stat| stat.threads);
    family(out, name, "gauge", "Threads of the process.", threads);
    let name = "process_open_fds";
    let help = "Open file descriptors.";
    family(out, name, "gauge", help, open_descriptors());
    let name = "process_max_fds";
    let help = "The limit on open file descriptors.";
    family(out, name, "gauge", help, descriptors_max());
}

/// The values of interest in `/proc/self/stat`; see proc_pid_stat(5).
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Stat> {
        Stat::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_pages * page_bytes()
    }

    fn parse(text: &str) -> Option<Stat> {
        // The second value is a name in parentheses, which may contain any character. The third is the first one here.
        let (_, rest) = text.rsplit_once(") ")?;
        let values: Vec<&str> = rest.split_ascii_whitespace().collect();
        let value = |number: usize| values.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: value(14)? + value(15)?,
            threads: value(20)?,
            start_ticks: value(22)?,
            virtual_bytes: value(23)?,
            resident_pages: value(24)?,
        })
    }
}

/// Kernel ticks, which are a hundredth of a second on every Linux, as seconds.
fn seconds(ticks: u64) -> f64 {
    // SAFETY: a plain query.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks as f64 / per_second.max(1) as f64
}

fn page_bytes() -> u64 {
    // SAFETY: a plain query.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64
}

/// Returns when the process started, in seconds since 1970. If the system does not tell, when this was first called.
pub(super) fn start_time_seconds() -> f64 {
    static START: OnceLock<f64> = OnceLock::new();
    *START.get_or_init(|| {
        let since_boot = || {
            let text = fs::read_to_string("/proc/stat").ok()?;
            let boot = text.lines().find_map(|line| line.strip_prefix("btime "))?;
            Some(boot.trim().parse::<f64>().ok()? + seconds(Stat::read()?.start_ticks))
        };
        since_boot().unwrap_or_else(unix_seconds)
    })
}

/// The memory that the process uses.
pub(super) fn resident_bytes() -> Option<u64> {
    Some(Stat::read()?.resident_bytes())
}

/// The time now, in seconds since 1970.
pub(super) fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn open_descriptors() -> Option<u64> {
    // Since Linux 6.2 the size is the number of entries; before that it was zero.
    let folder = fs::metadata("/proc/self/fd").ok()?;
    match folder.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        count => Some(count),
    }
}

fn descriptors_max() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: one live, writable limit.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    known.then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read() {
        let text = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 100 20 13 14 15 16 5 18 777 4096 3 21";
        let stat = Stat::parse(text).expect("it is complete");
        assert_eq!((stat.cpu_ticks, stat.threads), (120, 5));
        assert_eq!(
            (stat.start_ticks, stat.virtual_bytes, stat.resident_pages),
            (777, 4096, 3)
        );
        assert!(Stat::parse("42 (a) S 1 2").is_none());
    }

    #[test]
    fn a_process_started_in_the_past() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is later");
        let age = now.as_secs_f64() - start_time_seconds();
        assert!((-2.0..1e6).contains(&age), "{age}");
    }
}

//! The supervisor: one fiber that handles one event after the other.
//!
//! ```text
//!              ┌──────────────── the script has changed, and compiles ───────────────┐
//!              ▼                                                                     │
//!   start ── running ──────────────▶ ending (SIGTERM, after GRACE SIGKILL) ── ended ─┴─▶ start, or the end
//!                │ ended by itself                ▲ SIGINT, SIGTERM
//!                ▼                                │
//!              down: a stand-in serves the error ─┴─ a file has changed ──▶ start
//! ```

use super::Program;
use super::child::{Event as ChildEvent, Running};
use super::files::Tree;
use super::stand_in::StandIn;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use yue::lua::development::{Report, check_syntax};
use yue::signal::{self, Signal};
use yue::sync::local::{Receiver, Sender, unbounded};
use yue::{JoinHandle, sleep, spawn};
use yue_scheduler::log_outcome;

/// The time that the program has for its end, after which it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A program that a signal ends after this time starts again by itself: it did not fail at its start.
const HEALTHY: Duration = Duration::from_secs(10);

/// Somebody who saves several files does so within this time.
const JUST_NOW: Duration = Duration::from_millis(500);

enum Event {
    Signal(Signal),
    /// An event of the child with this number.
    Child(u64, ChildEvent),
    /// The grace of the child with this number has passed.
    Late(u64),
    Changed(BTreeSet<PathBuf>),
}

/// The step that follows the end of the child.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    Start,
    Exit(i32),
}

struct Supervisor {
    program: Program,
    events: Sender<Event>,
    /// The number of the latest child.
    number: u64,
    running: Option<Running>,
    /// Set when the child has been told to end.
    next: Option<Next>,
    timer: Option<JoinHandle<()>>,
    script_text: Vec<u8>,
    /// The URLs at which the program has served, the first one first.
    urls: Vec<String>,
    failure: Option<String>,
    stand_in: StandIn,
    /// The time at which the program ended by itself, by the clock of files.
    down_since: Option<FileTime>,
    started: Instant,
    /// The same by the clock of files.
    up_since: FileTime,
    /// The time of the last change of code since: a program that fails just then may have read the old text.
    code_changed: Option<Instant>,
}

/// Seconds and nanoseconds.
type FileTime = (i64, i64);

/// Writes a line about the supervisor's own work; the program's output is its own.
fn say(text: std::fmt::Arguments<'_>) {
    log_outcome(format_args!("dev: {text}"));
}

/// Runs the program until a signal ends it; returns the exit code. In a fiber.
///
/// # Errors
/// If signals or files cannot be watched, or the program cannot be started at all.
pub(super) fn run(program: Program) -> io::Result<i32> {
    let (sender, events) = unbounded();
    let on_signal = sender.clone();
    // A shell ignores some for its background jobs; the program follows.
    let signals = [Signal::INT, Signal::TERM].into_iter();
    let signals: Vec<Signal> = signals
        .filter(|signal| !signal::is_ignored(*signal))
        .collect();
    let _signals = signal::subscribe(&signals, move |signal| {
        let _ = on_signal.send(Event::Signal(signal));
    })?;
    // The program makes its report; the supervisor must survive it.
    let _reports = signal::subscribe(&[Signal::QUIT], |_| {})?;
    let folder = program
        .script
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut tree = Tree::watch(folder.unwrap_or(Path::new(".")))?;
    let on_change = sender.clone();
    let watcher = spawn(move || {
        while let Ok(changed) = tree.changes() {
            if on_change.send(Event::Changed(changed)).is_err() {
                return;
            }
        }
    });
    let mut supervisor = Supervisor::new(program, sender);
    supervisor.start()?;
    let code = supervisor.handle_events(&events);
    watcher.cancel();
    code
}

impl Supervisor {
    fn new(program: Program, events: Sender<Event>) -> Supervisor {
        Supervisor {
            program,
            events,
            number: 0,
            running: None,
            next: None,
            timer: None,
            script_text: Vec::new(),
            urls: Vec::new(),
            failure: None,
            stand_in: StandIn::default(),
            down_since: None,
            started: Instant::now(),
            up_since: file_clock(),
            code_changed: None,
        }
    }

    fn handle_events(&mut self, events: &Receiver<Event>) -> io::Result<i32> {
        loop {
            // The supervisor itself has a sender: the channel is never closed.
            let Ok(event) = events.recv() else {
                return Ok(1);
            };
            match event {
                Event::Signal(signal) => {
                    if let Some(code) = self.on_signal(signal) {
                        return Ok(code);
                    }
                }
                Event::Child(number, event) if number == self.number => match event {
                    ChildEvent::Reported(report) => self.on_report(report),
                    ChildEvent::Ended(status) => {
                        if let Some(code) = self.on_end(status?)? {
                            return Ok(code);
                        }
                    }
                },
                Event::Late(number) if number == self.number => self.on_late(),
                Event::Child(..) | Event::Late(_) => {}
                Event::Changed(paths) => self.on_change(&paths)?,
            }
        }
    }

    fn start(&mut self) -> io::Result<()> {
        self.stand_in.end();
        self.number += 1;
        self.next = None;
        self.failure = None;
        self.down_since = None;
        self.started = Instant::now();
        self.up_since = file_clock();
        self.code_changed = None;
        self.script_text = std::fs::read(&self.program.script).unwrap_or_default();
        let (events, number) = (self.events.clone(), self.number);
        let running = Running::start(&self.program, move |event| {
            let _ = events.send(Event::Child(number, event));
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Tells the child to end, and kills it when its grace has passed.
    fn end_child(&mut self, signal: libc::c_int, next: Next) {
        let Some(running) = &self.running else {
            return;
        };
        self.next = Some(next);
        running.signal(signal);
        let (events, number) = (self.events.clone(), self.number);
        self.timer = Some(spawn(move || {
            if sleep(GRACE).is_ok() {
                let _ = events.send(Event::Late(number));
            }
        }));
    }

    /// The first signal ends the program gracefully; another one ends it at once. Returns the exit code if there is no
    /// program to wait for.
    fn on_signal(&mut self, signal: Signal) -> Option<i32> {
        let code = 128 + signal.number();
        match (&self.running, self.next) {
            (None, _) => {
                self.stand_in.end();
                return Some(code);
            }
            (Some(running), Some(Next::Exit(_))) => running.signal(libc::SIGKILL),
            (Some(_), _) => self.end_child(signal.number(), Next::Exit(code)),
        }
        None
    }

    fn on_late(&mut self) {
        if let (Some(running), Some(_)) = (&self.running, self.next) {
            say(format_args!(
                "the program did not end within {GRACE:?}: killed"
            ));
            running.signal(libc::SIGKILL);
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Failed(text) => self.failure = Some(text),
            Report::Serves(url) if self.urls.contains(&url) => {}
            Report::Serves(url) => {
                let shown = shown_url(&url);
                say(format_args!("serving {shown}"));
                if self.urls.is_empty() && self.program.opens_page {
                    open_page(&shown);
                }
                self.urls.push(url);
            }
        }
    }

    /// Returns the exit code if the supervisor ends, too.
    fn on_end(&mut self, status: ExitStatus) -> io::Result<Option<i32>> {
        self.running = None;
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        match self.next.take() {
            Some(Next::Exit(code)) => return Ok(Some(code)),
            Some(Next::Start) => return self.start().map(|()| None),
            None => {}
        }
        let how = describe_end(status);
        let is_old_text = self.code_changed.is_some_and(|at| at.elapsed() < JUST_NOW);
        let was_healthy = self.started.elapsed() >= HEALTHY;
        if is_old_text || was_healthy && status.signal().is_some() {
            say(format_args!("the program {how}: restarting"));
            return self.start().map(|()| None);
        }
        say(format_args!(
            "the program {how}; it starts again when a file changes"
        ));
        let failure = self.failure.take();
        let text = failure.unwrap_or_else(|| format!("the program {how}"));
        self.stand_in = StandIn::start(&self.urls, &text);
        self.down_since = Some(file_clock());
        Ok(None)
    }

    fn on_change(&mut self, paths: &BTreeSet<PathBuf>) -> io::Result<()> {
        if self.running.is_none() {
            let is_repair = paths.iter().any(|path| self.may_repair(path));
            return if is_repair { self.start() } else { Ok(()) };
        }
        if paths.iter().any(|path| is_code(path)) {
            self.code_changed = Some(Instant::now());
        }
        // It reads the new text anyway if it is about to start again.
        if self.next.is_some() {
            return Ok(());
        }
        let name = self.program.script.file_name();
        let Ok(text) = std::fs::read(&self.program.script) else {
            return Ok(());
        };
        if !paths.iter().any(|path| path.file_name() == name) || text == self.script_text {
            return Ok(());
        }
        self.script_text = text;
        // The program says what is wrong with the text; it watches the script, too.
        if check_syntax(&self.program.script).is_ok() {
            let shown = self.program.script.display();
            say(format_args!("{shown} has changed: restarting"));
            self.end_child(libc::SIGTERM, Next::Start);
        }
        Ok(())
    }

    /// Whether a change may be the reason to start a program again that has ended by itself: what the program wrote
    /// before its end is none.
    fn may_repair(&self, path: &Path) -> bool {
        let (Some(since), Ok(facts)) = (self.down_since, path.metadata()) else {
            return false;
        };
        let changed = (facts.ctime(), facts.ctime_nsec());
        // Code that was saved after the start may have come too late for it.
        changed > since || is_code(path) && changed >= self.up_since
    }
}

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lua")
}

/// The time as the kernel stamps files with it.
fn file_clock() -> FileTime {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills in the time.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut time) };
    (time.tv_sec, time.tv_nsec)
}

fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "has ended".to_owned(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(number)) => format!("was ended by {}", signal_name(number)),
        (None, None) => "has ended".to_owned(),
    }
}

fn signal_name(number: i32) -> String {
    let named = Signal::from_number(number).ok().and_then(Signal::name);
    // Those that a program cannot handle by the crate's types.
    let fatal = match number {
        libc::SIGABRT => Some("ABRT"),
        libc::SIGBUS => Some("BUS"),
        libc::SIGFPE => Some("FPE"),
        libc::SIGILL => Some("ILL"),
        libc::SIGKILL => Some("KILL"),
        libc::SIGSEGV => Some("SEGV"),
        _ => None,
    };
    match named.or(fatal) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

/// The URL for people: a browser cannot open the address that stands for all addresses.
fn shown_url(url: &str) -> String {
    let local = [
        ("http://0.0.0.0:", "http://127.0.0.1:"),
        ("http://[::]:", "http://[::1]:"),
    ];
    let shown = local
        .iter()
        .find_map(|(all, one)| Some(format!("{one}{}", url.strip_prefix(all)?)));
    format!("{}/", shown.as_deref().unwrap_or(url))
}

/// Opens a page in the user's browser.
fn open_page(url: &str) {
    let mut command = yue::process::Command::new("xdg-open");
    command
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let url = url.to_owned();
    drop(spawn(move || {
        if !command.status().is_ok_and(|status| status.success()) {
            say(format_args!("no browser could be started; open {url}"));
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::{describe_end, shown_url};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn urls_are_shown_as_a_browser_can_open_them() {
        for (url, shown) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("http://0.0.0.0:8080", "http://127.0.0.1:8080/"),
            ("http://[::]:8080", "http://[::1]:8080/"),
            ("https://example.org:8443", "https://example.org:8443/"),
        ] {
            assert_eq!(shown_url(url), shown);
        }
    }

    #[test]
    fn ends_are_described() {
        for (status, text) in [
            (0, "has ended"),
            (3 << 8, "ended with exit code 3"),
            (libc::SIGSEGV, "was ended by SIGSEGV"),
            (libc::SIGTERM, "was ended by SIGTERM"),
        ] {
            assert_eq!(describe_end(ExitStatus::from_raw(status)), text);
        }
    }
}

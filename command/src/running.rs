//! The running programs of this user, as the tools address them: by process id, by name, or by the address of an admin
//! endpoint.
//!
//! All functions here wait in a fiber: call them inside `yue::Runtime::run`.

use crate::table;
use serde::Deserialize;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::typed::Client;
use yue_rpc::{Error, ErrorKind, Timeout};

/// A program that holds all its threads answers within this time; one that does not is stopped or swapped out.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The answer of the endpoint's method `info`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Info {
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// The script, as the command line named it.
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    /// Seconds since 1970.
    pub(crate) start_time_seconds: f64,
    pub(crate) driver: Option<String>,
    pub(crate) loops: usize,
    pub(crate) fibers: usize,
    /// Connections that are up, requests that were served, and calls that were made.
    #[serde(default)]
    pub(crate) connections: u64,
    #[serde(default)]
    pub(crate) requests: u64,
    #[serde(default)]
    pub(crate) calls: u64,
    #[serde(default)]
    pub(crate) memory_bytes: u64,
}

/// A program with an admin endpoint, and a connection to it.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) info: Info,
    pub(crate) admin: Rc<Client>,
}

impl Program {
    fn open(address: &str) -> Result<Program, Error> {
        let admin = Rc::new(Client::open(address)?);
        let info = admin.call_within(Timeout::After(ANSWER_MAX), "info", ())?;
        Ok(Program { info, admin })
    }

    /// Opens the program whose endpoint a user names.
    fn open_named(address: &str) -> Result<Program, String> {
        Program::open(address).map_err(|error| match is_busy(&error) {
            true => format!("{address}: {BUSY}"),
            false => format!("{address}: {error}"),
        })
    }
}

/// The meaning of a refused connection, with the advice.
const BUSY: &str = "the connections of its admin endpoint are all in use; end a console or another tool that is \
                    connected to it";

/// An endpoint grants every connection, up to its limit of connections.
fn is_busy(error: &Error) -> bool {
    error.kind() == ErrorKind::NotGranted
}

/// Whether a user may mean a process by `name`: its script's path, its file name, that without `.lua`, or the name of
/// its folder.
fn is_called(pid: u32, script: &str, name: &str) -> bool {
    let path = Path::new(script);
    let working = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let whole = working.join(path);
    let folder = whole.parent().and_then(Path::file_name);
    let names = [
        Some(path.as_os_str()),
        path.file_name(),
        path.file_stem(),
        folder,
    ];
    names.contains(&Some(name.as_ref()))
}

/// A process whose endpoint does not answer.
#[derive(Debug, Clone)]
pub(crate) struct Silent {
    pub(crate) pid: u32,
    /// The command line, whose words a space divides.
    pub(crate) name: String,
    pub(crate) error: String,
    state: State,
}

/// The reason why a process does not answer, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped,
    Busy,
    Unknown,
}

impl Silent {
    /// A process that has not answered in time, or not as it should.
    pub(crate) fn new(pid: u32, error: &impl fmt::Display) -> Silent {
        Silent {
            pid,
            name: command_line(pid),
            error: error.to_string(),
            state: match is_stopped(pid) {
                true => State::Stopped,
                false => State::Unknown,
            },
        }
    }

    /// A process to which no connection can be opened.
    fn unreachable(pid: u32, error: &Error) -> Silent {
        let mut silent = Silent::new(pid, error);
        if is_busy(error) {
            silent.state = State::Busy;
        }
        silent
    }

    /// The reason in a few words.
    pub(crate) fn reason(&self) -> &'static str {
        match self.state {
            State::Stopped => "is stopped and does not answer",
            State::Busy => "has no free connection for tools",
            State::Unknown => "does not answer",
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let mut words = self.name.split(' ').skip(1);
        words.any(|word| is_called(self.pid, word, name))
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, reason) = (self.pid, self.reason());
        write!(f, "process {pid} ({}) ", self.name)?;
        match self.state {
            State::Stopped => write!(f, "{reason}; 'kill -CONT {pid}' continues it"),
            State::Busy => write!(f, "{reason}: {BUSY}"),
            State::Unknown => write!(f, "{reason}: {}", self.error),
        }
    }
}

/// The command line of a process, which the system knows.
fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    table::plain(&words.join(" "))
}

/// Whether a signal or a debugger has stopped a process.
fn is_stopped(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything.
    let state = text
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    matches!(state, Some('T' | 't'))
}

/// Whether a process that has not answered still exists, as far as this can be known.
pub(crate) fn exists(pid: u32) -> bool {
    let is_listed = || {
        let listed = yue_scheduler::blocking(yue::admin::processes);
        // Another container's has no entry here.
        listed.is_ok_and(|all| all.is_ok_and(|all| all.iter().any(|one| one.pid == pid)))
    };
    Path::new(&format!("/proc/{pid}")).exists() || is_listed()
}

/// Connects to all programs of this user that have an admin endpoint, except this process, in the order of their ids.
///
/// # Errors
/// If the folder of the endpoints is not safe.
pub(crate) fn all() -> Result<(Vec<Program>, Vec<Silent>), String> {
    let processes = yue_scheduler::blocking(yue::admin::processes)
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let own = std::process::id();
    let fibers: Vec<_> = processes
        .into_iter()
        .filter(|process| process.pid != own)
        .map(|process| {
            (
                process.pid,
                yue_scheduler::spawn(move || Program::open(&process.address)),
            )
        })
        .collect();
    let (mut programs, mut silent) = (Vec::new(), Vec::new());
    for (pid, fiber) in fibers {
        match fiber.join() {
            Ok(Ok(program)) => programs.push(program),
            Ok(Err(error)) => silent.push(Silent::unreachable(pid, &error)),
            Err(error) => silent.push(Silent::new(pid, &error)),
        }
    }
    Ok((programs, silent))
}

/// Connects to the program that a user means: by a process id, a script's or its folder's name, the path of a socket or
/// an address. With none, it is the only one that runs.
///
/// # Errors
/// A text that lists the running programs if there is not exactly one that is meant.
pub(crate) fn find(wanted: Option<&str>) -> Result<Program, String> {
    if let Some(address) = wanted.and_then(as_address) {
        return Program::open_named(&address);
    }
    let (programs, silent) = all()?;
    choose(&programs, &silent, wanted)?.map_err(|silent| silent.to_string())
}

/// Connects to the programs that a user means, each as [`find`] does. Those that do not answer are returned apart.
///
/// # Errors
/// As for [`find`].
pub(crate) fn find_each(wanted: &[String]) -> Result<(Vec<Program>, Vec<Silent>), String> {
    let mut all_programs = None;
    let (mut programs, mut silent) = (Vec::<Program>::new(), Vec::<Silent>::new());
    for name in wanted {
        let found = match as_address(name) {
            Some(address) => Ok(Program::open_named(&address)?),
            None => {
                let (programs, silent) = match &all_programs {
                    Some(all) => all,
                    None => all_programs.insert(all()?),
                };
                choose(programs, silent, Some(name))?
            }
        };
        match found {
            Ok(one) if programs.iter().all(|other| other.info.pid != one.info.pid) => {
                programs.push(one);
            }
            Err(one) if silent.iter().all(|other| other.pid != one.pid) => silent.push(one),
            // Named twice.
            Ok(_) | Err(_) => {}
        }
    }
    Ok((programs, silent))
}

/// The address that a user has written, in full or as the path of a socket.
fn as_address(text: &str) -> Option<String> {
    match text {
        address if address.contains("://") => Some(address.to_owned()),
        path if path.ends_with(".sock") => Some(format!("unix://{path}")),
        _ => None,
    }
}

/// The program that a user means among all, or the one that is meant and does not answer.
fn choose(
    programs: &[Program],
    silent: &[Silent],
    wanted: Option<&str>,
) -> Result<Result<Program, Silent>, String> {
    let is_meant = |pid: u32| wanted == Some(&pid.to_string());
    if let Some(one) = silent.iter().find(|one| is_meant(one.pid)) {
        return Ok(Err(one.clone()));
    }
    let called = |one: &&Program| {
        let info = &one.info;
        let is_called = |name| is_meant(info.pid) || is_called(info.pid, &info.name, name);
        wanted.is_none_or(is_called)
    };
    let meant: Vec<_> = programs.iter().filter(called).collect();
    let list = |programs: &[&Program]| {
        let list = programs.iter();
        let list: Vec<_> = list
            .map(|one| format!("{} {}", one.info.pid, one.info.name))
            .collect();
        list.join(", ")
    };
    if let [one] = meant[..] {
        return Ok(Ok(one.clone()));
    }
    if !meant.is_empty() {
        return Err(format!(
            "several programs run, name one by its process id: {}",
            list(&meant)
        ));
    }
    let called = |one: &&Silent| wanted.is_none_or(|name| one.is_called(name));
    let meant_silent: Vec<_> = silent.iter().filter(called).collect();
    match (&meant_silent[..], wanted) {
        ([one], _) => Ok(Err((*one).clone())),
        ([], Some(name)) if !programs.is_empty() => Err(format!(
            "no program {name} runs; running: {}",
            list(&programs.iter().collect::<Vec<_>>())
        )),
        ([], _) => Err("no program of yours runs with an admin endpoint".to_owned()),
        (several, _) => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(several.join("; "))
        }
    }
}

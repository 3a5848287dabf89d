//! `yue trace`: the requests that a program serves, a line for each as it ends.

use crate::answers::{self, Request};
use crate::ps::run;
use crate::running::{self, Program};
use crate::table;
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use yue_io::signal::{self, Signal};
use yue_rpc::ErrorKind;
use yue_scheduler::{Instant, now, sleep};

const EXAMPLES: &str = "\
Examples:
  yue trace                           the only program that runs
  yue trace server.lua 'world.*'      the methods whose names begin so
  yue trace 4711 --errors             only requests that fail
  yue trace 4711 --slower-than 100    only those of more than 100 ms

Each line has the time (UTC), the peer, the method, the milliseconds from the
handler's start to its answer, and the outcome: ok, sent for a notification,
or the type of the error. It says how many it had to leave out.

The program records requests only while somebody looks. Ctrl-C ends the trace
with a summary and exit code 130.";

/// Print each request that a running program has served.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The program: its process id, its script's name, or its socket. May be left out if only one runs.
    program: Option<String>,

    /// Only methods of this name; `*` stands for any text. Without a PROGRAM, it needs a `*`.
    method: Option<String>,

    /// Only requests that took longer.
    #[arg(long, value_name = "MS", value_parser = parse_ms)]
    slower_than: Option<f64>,

    /// Only requests that failed.
    #[arg(long)]
    errors: bool,

    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// The time between two questions. The program keeps 2048 requests for each loop in between.
const INTERVAL: Duration = Duration::from_millis(50);

/// A trace asks for so many requests at once.
const LIMIT: usize = 10_000;

fn parse_ms(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ms) if (0.0..=86_400_000.0).contains(&ms) => Ok(ms),
        _ => Err("a number of milliseconds from 0 to 86400000 is needed".to_owned()),
    }
}

/// Prints the requests until a signal, or the program's end; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let (mut program, mut method) = (arguments.program.clone(), arguments.method.clone());
    if method.is_none() && program.as_ref().is_some_and(|name| name.contains('*')) {
        method = program.take();
    }
    let mut wanted = json!({ "limit": LIMIT, "errors": arguments.errors });
    if let Some(method) = method {
        wanted["method"] = method.into();
    }
    if let Some(ms) = arguments.slower_than {
        wanted["slower_than_seconds"] = (ms / 1e3).into();
    }
    let json = arguments.json;
    let outcome = run(move || {
        let program = running::find(program.as_deref())?;
        trace(&program, &wanted, json)
    });
    outcome.unwrap_or_else(|text| {
        yue_scheduler::log_outcome(format_args!("{text}"));
        1
    })
}

/// The counts of what was shown.
#[derive(Default)]
struct Summary {
    requests: u64,
    errors: u64,
    left_out: u64,
}

fn trace(program: &Program, wanted: &Value, json: bool) -> Result<i32, String> {
    let stopped = Rc::new(Cell::new(None));
    let receiver = stopped.clone();
    let on_signal = move |signal| receiver.set(Some(signal));
    let _signals = signal::subscribe(&[Signal::INT, Signal::TERM], on_signal);
    let (begin, mut summary) = (now(), Summary::default());
    let code = follow(program, wanted, json, &stopped, &mut summary)?;
    let seconds = now().saturating_since(begin).as_secs_f64();
    let left_out = match summary.left_out {
        0 => String::new(),
        count => format!(", {count} left out"),
    };
    yue_scheduler::log_outcome(format_args!(
        "{} requests in {}, {} failed{left_out}",
        summary.requests,
        table::duration(seconds),
        summary.errors,
    ));
    Ok(code)
}

/// Prints until something ends it; returns the exit code.
fn follow(
    program: &Program,
    wanted: &Value,
    json: bool,
    stopped: &Cell<Option<Signal>>,
    summary: &mut Summary,
) -> Result<i32, String> {
    let mut token: Option<u64> = None;
    let mut silent_since: Option<Instant> = None;
    loop {
        let mut query = wanted.clone();
        query["token"] = token.into();
        match answers::ask::<answers::Trace>(&program.admin, "trace", &query) {
            Ok(answer) => {
                if token.is_none() && !json {
                    let name = table::plain(&program.info.name);
                    let text = format!("tracing {name} (process {})", program.info.pid);
                    yue_scheduler::log_outcome(format_args!("{text}"));
                }
                token = Some(answer.token);
                silent_since = None;
                summary.requests += answer.requests.len() as u64;
                let failed = answer.requests.iter().filter(|one| one.error.is_some());
                summary.errors += failed.count() as u64;
                summary.left_out += answer.dropped;
                if print(&answer, json).is_err() {
                    // The reader has gone.
                    return Ok(0);
                }
            }
            Err(error) => {
                if answers::has_ended(program.info.pid) {
                    yue_scheduler::log_outcome(format_args!("the program has ended"));
                    return Ok(0);
                }
                match error.kind() {
                    // The trace had ended, because this process was stopped for longer than that.
                    ErrorKind::Argument if token.is_some() => token = None,
                    ErrorKind::Argument | ErrorKind::NoMethod | ErrorKind::ServerBusy => {
                        return Err(error.to_string());
                    }
                    _ if silent_since.is_none() => {
                        silent_since = Some(now());
                        yue_scheduler::log_outcome(format_args!("no answer yet: {error}"));
                    }
                    _ => {}
                }
            }
        }
        if let Some(signal) = stopped.get() {
            return Ok(128 + signal.number());
        }
        sleep(INTERVAL).map_err(|error| error.to_string())?;
    }
}

fn print(answer: &answers::Trace, json: bool) -> std::io::Result<()> {
    let mut out = String::new();
    for request in &answer.requests {
        match json {
            true => out.push_str(&serde_json::to_string(request)?),
            false => out.push_str(&line(request)),
        }
        out.push('\n');
    }
    if answer.dropped != 0 {
        let dropped = answer.dropped;
        match json {
            true => out.push_str(&format!("{}\n", json!({ "left_out": dropped }))),
            false => out.push_str(&format!("… {dropped} requests left out\n")),
        }
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    stdout.flush()
}

fn line(request: &Request) -> String {
    let time = table::clock(request.at_seconds.unwrap_or_default());
    let (peer, method) = (table::peer(&request.peer), table::plain(&request.method));
    let ms = request.seconds * 1e3;
    format!(
        "{time}  {peer:<21}  {method:<20}  {ms:>9.3}  {}",
        request.outcome()
    )
}

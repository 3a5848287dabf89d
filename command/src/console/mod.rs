//! `yue console`, and `yue -i` at a terminal: Lua that a person types, in a running program.
//!
//! ```text
//!   mod.rs      the arguments; code of the command line and of pipes     history.rs    lines of earlier sessions
//!   prompt.rs   the terminal: reads, evaluates, prints                   highlight.rs  colours
//!   editor.rs   answers to the editor: completion, complete input        link.rs       the program, here or elsewhere
//! ```

mod editor;
mod highlight;
mod history;
mod link;
mod prompt;

use link::Link;
pub(crate) use prompt::restore_terminal;
use std::io::{IsTerminal, Read, Write};
use std::sync::{Arc, Mutex};
use yue_io::signal::{self, Signal, Subscription};
use yue_scheduler::{lock, log_outcome};

const EXAMPLES: &str = "\
Examples:
  yue console                         the only program that runs
  yue console server.lua              by its script's name, or process id
  yue console 4711 -e '#players'      print a result
  yue console 4711 < repair.lua       run a file in the program

Lines are Lua, with the program's globals. Expressions print their values.
Ctrl-C interrupts, Ctrl-D leaves, Tab completes; .help lists commands.
Without a terminal the whole input is one piece of code.

Exit codes: 0 success, 1 the code raised an error, or no program is found.";

/// Run Lua in a running program, at a prompt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The program: a process id, a script's name, or the address of an admin endpoint. Default: the only one.
    program: Option<String>,

    /// Run this code, print its results, and leave. May be given several times.
    #[arg(short = 'e', value_name = "CODE")]
    code: Vec<String>,

    /// Run it on this loop, by its number. Default: the first.
    #[arg(short = 'l', long = "loop", value_name = "LOOP")]
    loop_id: Option<u32>,
}

/// Runs the subcommand; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    match run(arguments) {
        Ok(code) => code,
        Err(text) => {
            log_outcome(format_args!("{text}"));
            1
        }
    }
}

fn run(arguments: Arguments) -> Result<i32, String> {
    let Arguments {
        program,
        mut code,
        loop_id,
    } = arguments;
    let is_interactive = code.is_empty() && std::io::stdin().is_terminal();
    if code.is_empty() && !is_interactive {
        let mut text = Vec::new();
        std::io::stdin()
            .read_to_end(&mut text)
            .map_err(|error| format!("cannot read standard input: {error}"))?;
        code.push(
            String::from_utf8(text).map_err(|_| "the standard input is not UTF-8".to_owned())?,
        );
    }
    let (link, info) = Link::remote(program)?;
    let code = if is_interactive {
        prompt::talk(&link, &prompt::Place::remote(&info, loop_id))
    } else {
        run_all(&link, &code, loop_id)
    };
    link.close();
    Ok(code)
}

/// Runs pieces of code up to the first that fails.
fn run_all(link: &Link, code: &[String], loop_id: Option<u32>) -> i32 {
    let interrupts = Interrupts::of(link);
    for text in code {
        interrupts.begin();
        let outcome = link.evaluate(text, loop_id, width_of_output(), print);
        interrupts.end();
        match outcome {
            Ok(outcome) if outcome.ok && outcome.text.is_empty() => {}
            Ok(outcome) if outcome.ok => print(&format!("{}\n", outcome.text)),
            Ok(outcome) => {
                log_outcome(format_args!("{}", outcome.text));
                return 1;
            }
            Err(failure) => {
                log_outcome(format_args!("{}", failure.message));
                return 1;
            }
        }
    }
    0
}

/// Writes to standard output. A reader that has gone needs nothing.
fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}

/// The width that results are fitted to when the editor does not know it.
fn width_of_output() -> usize {
    let columns = std::env::var("COLUMNS").ok();
    columns
        .and_then(|text| text.parse().ok())
        .unwrap_or(prompt::WIDTH)
}

/// Serves the terminal of `yue -i`, on a thread of its own.
pub(crate) fn talk_to_own_program() {
    match Link::local() {
        Ok(link) => {
            prompt::talk(&link, &prompt::Place::local());
            link.close();
        }
        Err(text) => log_outcome(format_args!("{text}")),
    }
}

/// Whether `yue -i` has a person before it.
pub(crate) fn is_at_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Ctrl-C while code runs: the first ones interrupt it, the last leaves.
struct Interrupts {
    /// The number of times that it was pressed; `None` while nothing runs.
    count: Arc<Mutex<Option<u32>>>,
    _subscription: Option<Subscription>,
}

/// Pressed so often, Ctrl-C leaves: the program may be stopped.
const INSISTENCE: u32 = 3;

impl Interrupts {
    fn of(link: &Link) -> Interrupts {
        let count = Arc::new(Mutex::new(None));
        let (pressed, link) = (count.clone(), link.clone());
        // Of its own program, SIGTERM is the program's.
        let signals: &[Signal] = match link.is_local() {
            true => &[Signal::INT],
            false => &[Signal::INT, Signal::TERM],
        };
        let subscription = signal::subscribe_off_loop(signals, move |signal| {
            let mut pressed = lock(&pressed);
            let insists = match pressed.as_mut() {
                Some(count) if signal == Signal::INT => {
                    *count += 1;
                    link.interrupt();
                    *count >= INSISTENCE
                }
                _ => true,
            };
            if insists {
                leave(&link, signal);
            }
        });
        Interrupts {
            count,
            _subscription: subscription.ok(),
        }
    }

    fn begin(&self) {
        *lock(&self.count) = Some(0);
    }

    fn end(&self) {
        *lock(&self.count) = None;
    }
}

/// Ends the process because of a signal.
fn leave(link: &Link, signal: Signal) {
    prompt::restore_terminal();
    if link.is_local() {
        // As if it had no console: its requests get time.
        // SAFETY: a signal to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
    } else {
        std::process::exit(128 + signal.number());
    }
}

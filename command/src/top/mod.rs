//! `yue top`: a running program, live.
//!
//! ```text
//!   sampler.rs   a thread with a loop: asks the program each interval ──▶ a channel of events
//!   view.rs      the contents: a sample as lines, for the terminal and for text alike
//!   screen.rs    the terminal: keys, drawing, restoring it
//! ```
//!
//! The main thread waits for keys and events, and draws. Nothing of the program is kept but the last two samples.

mod sampler;
mod screen;
mod view;

use sampler::Event;
use std::io::{IsTerminal, Write};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  yue top                     the only program that runs
  yue top server.lua          the program whose script is called so
  yue top 4711 --once         one snapshot as text

Keys: 1 to 4 or Tab choose a view (overview, fibers, connections, calls), p
pauses, arrows and Page Up and Down scroll, ? shows all keys, q ends.

If the output is not a terminal, a snapshot in text is printed each interval. The
program records its calls only while somebody looks.";

/// Watch a running program: its loops, fibers, connections and calls.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The program: its process id, its script's name, or its socket. May be left out if only one runs.
    program: Option<String>,

    /// Print one snapshot in text, and end.
    #[arg(long)]
    once: bool,

    /// Seconds between two looks at the program.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = parse_interval)]
    interval: f64,
}

fn parse_interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=5.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 5 is needed".to_owned()),
    }
}

/// Shows the program until the user ends it; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let interval = Duration::from_secs_f64(arguments.interval);
    let interactive =
        !arguments.once && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let sampler = sampler::start(arguments.program.clone(), interval, !interactive);
    let outcome = match interactive {
        true => screen::run(&sampler),
        false => print(&sampler, arguments.once),
    };
    match outcome {
        Ok(code) => code,
        Err(text) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            1
        }
    }
}

/// Prints snapshots in text.
fn print(sampler: &sampler::Sampler, once: bool) -> Result<i32, String> {
    let mut first = true;
    loop {
        match sampler.next() {
            Event::Failed(text) => return Err(text),
            Event::Ended => {
                yue_scheduler::log_outcome(format_args!("the program has ended"));
                return Ok(0);
            }
            Event::Silent(text) if once => {
                return Err(format!("the program does not answer: {text}"));
            }
            Event::Silent(text) => {
                yue_scheduler::log_outcome(format_args!("the program does not answer: {text}"));
            }
            Event::Sample(sample) => {
                let mut text = view::as_text(&sample, crate::table::width()).join("\n");
                text.push('\n');
                if !first {
                    text.insert(0, '\n');
                }
                first = false;
                if std::io::stdout().write_all(text.as_bytes()).is_err() || once {
                    // Done, or the reader has gone.
                    return Ok(0);
                }
            }
        }
    }
}

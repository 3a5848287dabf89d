//! `yue node`: the process that runs the library of an owner. `yue.nalloc` starts it; people do not.

use std::io::Write;
use yue::Choice;
use yue::lua::Script;
use yue::nalloc::{LIFELINE, NodeEnd};
use yue_scheduler::log_outcome;

/// Run the library of the program that started this one (yue.nalloc does).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Programs start nodes by yue.nalloc, which speaks with them over their standard
input and output. By hand it is of no use.")]
pub(crate) struct Arguments {
    /// The descriptor that ends when the owner does.
    #[arg(long, value_name = "FD", env = LIFELINE, hide = true)]
    lifeline: Option<i32>,

    /// Live as long as the owner's lease, too: the lifeline leads to an agent.
    #[arg(long, hide = true)]
    leased: bool,

    /// A word that the owner waits for on standard output.
    #[arg(long, value_name = "WORD", hide = true)]
    greeting: Option<String>,

    /// I/O driver: uring, mio, or auto.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = crate::parse_driver)]
    io: Choice,
}

/// Runs the command; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    // SAFETY: the process has one thread. Its own children are not nodes.
    unsafe { std::env::remove_var(LIFELINE) };
    if let Some(word) = &arguments.greeting {
        // An owner that is gone is noticed later.
        let _ = writeln!(std::io::stdout(), "yue-{word} have");
    }
    let end = match NodeEnd::take(arguments.lifeline, arguments.leased) {
        Ok(end) => end,
        Err(error) => {
            log_outcome(format_args!("this process cannot be a node: {error}"));
            return 1;
        }
    };
    let script = Script {
        chunks: Vec::new(),
        name: None,
        io: arguments.io,
        node: Some(end.clone()),
        ..Script::new("")
    };
    let code = script.run();
    end.finish();
    code
}

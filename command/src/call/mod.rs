//! `yue call`: calls a function from the shell, with JSON in and out.
//!
//! ```text
//!   mod.rs        the command line, one call, many calls      failure.rs    errors as text and JSON
//!   arguments.rs  words and standard input to msgpack         list.rs       the functions of a server
//! ```
//!
//! Words are parsed before a loop starts, and standard input is read on the blocking pool: a loop that waited for it
//! could not answer the server's pings.

mod arguments;
mod failure;
mod list;

use crate::json::{Style, write_results};
use crate::server::{Fault, Server};
use arguments::{Encoded, Input, Words};
use failure::{Failure, Report};
use std::io::{IsTerminal, Write};
use yue_rpc::session::Session;
use yue_rpc::{Error, Timeout};

const EXAMPLES: &str = "\
Examples:
  yue call tcp://127.0.0.1:8080                    list the functions
  yue call tcp://127.0.0.1:8080 hello world        a word is a string
  yue call tcp://127.0.0.1:8080 add 20 22          JSON is what it says
  yue call tcp://127.0.0.1:8080 put '{\"x\": [1, null]}'
  yue call tcp://127.0.0.1:8080 echo -s 5 true     strings, not JSON
  yue call tcp://127.0.0.1:8080 add - < pairs      a call for each value
  yue call server.lua loops                        of a running program

Standard input (-) is a stream of JSON values. An array holds the arguments of
a call, any other value is its only argument.

The result is printed as JSON: null for none, several as an array. Values that
JSON lacks are objects, also among arguments: {\"$base64\": \"/wA=\"} for bytes,
{\"$number\": \"nan\"}, {\"$ext\": [TYPE, BASE64]}, and {\"$function\": ID}.

Exit codes: 0 every call succeeded, 1 one failed, 2 wrong usage.";

/// Call a function of a server, or list its functions.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Server,

    /// The function; dots separate nested names. Without one, the functions are listed.
    method: Option<String>,

    /// The arguments: JSON, or words, which are strings. A single - reads them from standard input.
    args: Vec<String>,

    /// Take all arguments as strings, even those that are JSON.
    #[arg(short, long)]
    string: bool,

    /// Send notifications: the server answers nothing.
    #[arg(short, long)]
    notify: bool,

    /// Print results on one line, and errors as JSON objects, {"error": {"type": …, "message": …}}.
    #[arg(short, long)]
    json: bool,
}

/// Makes the calls; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    let report = Report {
        as_json: arguments.json,
    };
    let input = match arguments.input() {
        Ok(input) => input,
        Err(text) => return report.show(&Failure::usage(text)),
    };
    let run = move || match run(&arguments, input, report) {
        Ok(code) => code,
        Err(failure) => report.show(&failure),
    };
    match yue_io::run(run) {
        Ok(code) => code,
        Err(error) => report.show(&Failure::other(error.to_string())),
    }
}

impl Arguments {
    fn input(&self) -> Result<Input, String> {
        let words = Words {
            words: &self.args,
            are_strings: self.string,
        };
        words.read()
    }

    fn style(&self) -> Style {
        match std::io::stdout().is_terminal() && !self.json {
            true => Style::Pretty,
            false => Style::Line,
        }
    }
}

fn run(arguments: &Arguments, input: Input, report: Report) -> Result<i32, Failure> {
    let connection = arguments.server.open()?;
    let session = connection.session();
    let Some(method) = &arguments.method else {
        list::print(session, arguments.json)?;
        return Ok(0);
    };
    let caller = Caller {
        session,
        method,
        style: arguments.style(),
        notifies: arguments.notify,
    };
    match input {
        Input::Once(values) => {
            caller.call(&values)?;
            caller.flush()?;
            Ok(0)
        }
        Input::Stream(mut values) => {
            let mut code = 0;
            let mut number = 0_u64;
            while let Some(values) = values.next()? {
                number += 1;
                let called = caller.call(&values);
                // Notifications that wait for the server are bounded.
                let flushed = match number % FLUSH_EVERY {
                    0 => caller.flush(),
                    _ => Ok(()),
                };
                if let Err(failure) = called.and(flushed) {
                    let goes_on = failure.leaves_connection();
                    code = report.show(&failure.of_call(number));
                    if !goes_on {
                        return Ok(code);
                    }
                }
            }
            caller.flush()?;
            Ok(code)
        }
    }
}

/// Notifications between two waits for the server.
const FLUSH_EVERY: u64 = 64;

/// One function, and the way to call it.
struct Caller<'a> {
    session: &'a Session,
    method: &'a str,
    style: Style,
    notifies: bool,
}

impl Caller<'_> {
    /// Calls and prints the result, or notifies.
    fn call(&self, values: &Encoded) -> Result<(), Failure> {
        let append = |out: &mut Vec<u8>| {
            out.extend_from_slice(&values.bytes);
            Ok(values.count)
        };
        if self.notifies {
            return Ok(self.session.notify(self.method, append)?);
        }
        let answer = match self.session.call(self.method, Timeout::Default, append) {
            Ok(answer) => answer,
            Err(error) => {
                let suggestion = list::suggest(self.session, self.method, &error);
                return Err(Failure::of(error, suggestion));
            }
        };
        let text = write_results(answer.bytes(), answer.count(), self.style);
        let text = text.ok_or_else(|| Failure::other("the answer is malformed".to_owned()))?;
        print_line(&text)
    }

    /// Waits until the server has received the notifications. Any answer shows that: a server that is not yue answers
    /// with an error.
    fn flush(&self) -> Result<(), Failure> {
        if !self.notifies {
            return Ok(());
        }
        match self.session.call("$yue/ping", Timeout::Default, |_| Ok(0)) {
            Ok(_) | Err(Error::Remote(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Prints a line to standard output. If its reader has gone, the command ends.
fn print_line(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| Failure::other(format!("cannot write the result: {error}")))
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        match fault {
            Fault::Usage(text) => Failure::usage(text),
            Fault::Other(text) => Failure::other(text),
            Fault::Call(error) => error.into(),
        }
    }
}

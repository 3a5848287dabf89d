//! The `yue` command, as a library: [`main`] is the whole command.
//!
//! ```text
//!   lib.rs      the command line; runs a script     bench/       `yue bench`
//!   usage.rs    wrong usage, suggestions            doctor.rs    `yue doctor`
//!   init.rs     the duty of process 1               signals.rs   signals at the start
//!   running.rs  the running programs of this user   answers.rs   what their endpoints answer
//!   ps.rs       `yue ps`                            top/         `yue top`
//!   trace.rs    `yue trace`                         waits.rs     `yue waits`
//!   console/    `yue console`, `yue -i`             new/, dev/   `yue new`, `yue dev`
//!   call/       `yue call`                          types/       `yue types`
//!   sim/        `yue sim`                       node.rs      `yue node`
//!   agent/      `yue agent`                     key.rs       `yue key`
//!   server.rs   the server that an argument names   json/        JSON and msgpack
//!   shell.rs    `yue completions`, `yue man`        seconds.rs   options that take seconds
//!   table.rs    tables and short numbers            description.rs  the functions of a server
//! ```
//!
//! Exit codes: 0 success, 1 a failure (a line on standard error describes it), 2 wrong usage, 128 + n the program was
//! ended by signal n (130 SIGINT, 143 SIGTERM) that it had not bound.
//!
//! ```no_run
//! // The `yue` command under another name.
//! fn main() -> std::process::ExitCode {
//!     yue_cli::main()
//! }
//! ```

mod agent;
mod answers;
mod bench;
mod call;
mod console;
mod description;
mod dev;
mod doctor;
mod init;
mod json;
mod key;
mod new;
mod node;
mod ps;
mod running;
mod seconds;
mod server;
mod shell;
mod signals;
mod sim;
mod table;
mod top;
mod trace;
mod types;
mod usage;
mod waits;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use yue::Choice;
use yue::lua::{Chunk, Script, Terminal};
use yue_scheduler::LogFormat;

const EXAMPLES: &str = "\
Examples:
  yue server.lua                      run a program
  yue -c 4 server.lua port=8080       run it on four loops
  yue -w server.lua                   reload its modules when they change
  yue --io mio server.lua             run it on epoll
  yue -e 'print(1 + 1)'               run a line of Lua; `yue -` runs its input
  yue new demo                        begin a program with a page
  yue dev demo                        run it; changes are live
  yue call tcp://127.0.0.1:8080       list the functions of a server
  yue doctor                          show this machine's driver and limits
  yue bench tcp://127.0.0.1:8080 -m hello -a '[\"world\"]'

Options stand before the script. Everything after it is the script's own.

ps, top, trace, waits and console look into running programs of the same user,
through the socket $XDG_RUNTIME_DIR/yue/PID.sock of each.

Exit codes: 0 success, 1 failure, 2 wrong usage, 128 + n ended by signal n
(SIGINT 130, SIGTERM 143). The first SIGINT or SIGTERM ends a program
gracefully, within 6 seconds; another one ends it at once.";

/// Runs Lua programs whose functions call each other over the network.
#[derive(Debug, Parser)]
#[command(name = "yue", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(subcommand_precedence_over_arg = true, max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    run: Run,
}

/// Longer than any intended run of a fiber and than a pause of a busy machine; shorter than the patience of a client.
const WATCHDOG_MS: u64 = 500;

#[derive(Debug, clap::Args)]
struct Run {
    /// Run the script on this many loops, a thread each. Their listeners share ports.
    #[arg(short = 'c', long = "loops", value_name = "LOOPS", default_value_t = 1, value_parser = parse_loops)]
    loops: usize,

    /// Reload the script's modules and files of symbols when they change.
    #[arg(short = 'w', long)]
    watch: bool,

    /// I/O driver: uring, mio, or auto (uring where the kernel allows it). YUE_IO does the same.
    #[arg(long, value_name = "DRIVER", default_value = "auto", value_parser = parse_driver)]
    io: Choice,

    /// Report on standard error what blocks a loop for longer than this. 0: never.
    #[arg(long, value_name = "MS", env = "YUE_WATCHDOG", default_value_t = WATCHDOG_MS)]
    #[arg(value_parser = parse_watchdog)]
    watchdog: u64,

    /// Form of the log: text, or json, an object on each line. YUE_LOG_FORMAT does the same.
    #[arg(long, value_name = "FORMAT", value_parser = parse_log_format)]
    log_format: Option<LogFormat>,

    /// Do not report all fibers, and what they wait for, on SIGQUIT (Ctrl-\).
    #[arg(long)]
    no_report: bool,

    /// Do not open the admin endpoint, through which tools look into the program. YUE_ADMIN=off does the same.
    #[arg(long)]
    no_admin: bool,

    /// Serve a page of the program for browsers, at this address; a free port of 127.0.0.1 without one. Its address and
    /// key are printed. YUE_PAGE=1 does the same.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(conflicts_with = "no_admin")]
    page: Option<String>,

    /// Do not run code that `yue console` sends. YUE_ADMIN=readonly does the same.
    #[arg(long)]
    no_eval: bool,

    /// Run this Lua code, before the script if there is one. May be given several times.
    #[arg(short = 'e', value_name = "CODE")]
    code: Vec<OsString>,

    /// Read Lua at a prompt, or from standard input, after the script if there is one.
    #[arg(short = 'i')]
    interactive: bool,

    /// The script, or - for standard input, and its arguments (yue.args, arg, ...).
    #[arg(trailing_var_arg = true, value_names = ["SCRIPT", "ARGS"])]
    #[arg(required_unless_present_any = ["code", "interactive"])]
    script: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show which I/O driver this machine gets and why, and its limits.
    Doctor(doctor::Arguments),
    /// Load a msgpack-rpc server and measure how fast it answers.
    Bench(bench::Arguments),
    /// Create a folder with a server, its page and its test.
    New(new::Arguments),
    /// Run a program, and apply each change to its code and its pages at once.
    Dev(dev::Arguments),
    /// List the programs that run.
    Ps(ps::Arguments),
    /// Watch a running program: its loops, fibers, connections and calls.
    Top(top::Arguments),
    /// Print each request that a running program has served.
    Trace(trace::Arguments),
    /// Show the fibers of all programs that wait for each other, and deadlocks.
    Waits(waits::Arguments),
    /// Run several programs together, in virtual time and repeatably.
    Sim(sim::Arguments),
    /// Run the library of another program, which starts this by yue.nalloc.
    Node(node::Arguments),
    /// Run nodes for programs on other machines, which call yue.nalloc.
    Agent(agent::Arguments),
    /// Print the key that this user shows to agents, or trust an agent's.
    Key(key::Arguments),
    /// Run Lua in a running program, at a prompt.
    Console(console::Arguments),
    /// Call a function of a server, or list its functions.
    Call(call::Arguments),
    /// Write type declarations of a server's functions, for Lua, TypeScript or Python.
    Types(types::Arguments),
    /// Print the completions of this command for a shell.
    Completions(shell::Completions),
    /// Print the manual page of this command, or write those of all subcommands.
    Man(shell::Manual),
}

fn parse_loops(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(loops @ 1..=1024) => Ok(loops),
        _ => Err("a number from 1 to 1024 is needed".to_owned()),
    }
}

/// Parses milliseconds. An empty text, as an empty variable has, means the default.
fn parse_watchdog(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(WATCHDOG_MS);
    }
    text.parse()
        .map_err(|_| "milliseconds are needed, here or in YUE_WATCHDOG; 0 means never".to_owned())
}

fn parse_driver(text: &str) -> Result<Choice, String> {
    text.parse()
        .map_err(|error: yue_io::UnknownDriver| error.to_string())
}

fn parse_log_format(text: &str) -> Result<LogFormat, String> {
    LogFormat::from_name(text).ok_or_else(|| "'text' or 'json' is needed".to_owned())
}

/// Parses the process's command line and runs it.
pub fn main() -> ExitCode {
    signals::reset();
    yue_io::stdio::make_outputs_blocking();
    yue_io::stdio::buffer_output_by_lines();
    // Clap's `arg_required_else_help` would count a variable such as YUE_WATCHDOG as an argument.
    if std::env::args_os().len() <= 1 {
        // A reader that has gone needs no help.
        let _ =
            std::io::stderr().write_all(Arguments::command().render_help().to_string().as_bytes());
        return ExitCode::from(2);
    }
    let code = match Arguments::try_parse() {
        Ok(arguments) => match arguments.command {
            Some(Command::Doctor(arguments)) => doctor::main(&arguments),
            Some(Command::Bench(arguments)) => bench::main(arguments),
            Some(Command::New(arguments)) => new::main(&arguments),
            Some(Command::Dev(arguments)) => dev::main(arguments),
            Some(Command::Ps(arguments)) => ps::main(&arguments),
            Some(Command::Top(arguments)) => top::main(&arguments),
            Some(Command::Trace(arguments)) => trace::main(&arguments),
            Some(Command::Waits(arguments)) => waits::main(&arguments),
            Some(Command::Sim(arguments)) => sim::main(&arguments),
            Some(Command::Node(arguments)) => node::main(arguments),
            Some(Command::Agent(arguments)) => agent::main(arguments),
            Some(Command::Key(arguments)) => key::main(arguments),
            Some(Command::Console(arguments)) => console::main(arguments),
            Some(Command::Call(arguments)) => call::main(arguments),
            Some(Command::Types(arguments)) => types::main(&arguments),
            Some(Command::Completions(arguments)) => shell::print_completions(&arguments),
            Some(Command::Man(arguments)) => shell::write_manual(&arguments),
            None => run(arguments.run),
        },
        Err(error) => show(&error),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Prints the help or the version if the user requested one, or describes wrong usage; returns the exit code.
fn show(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone needs no help.
            let _ = error.print();
        }
        _ => yue_scheduler::log_outcome(format_args!(
            "{}",
            usage::describe(error, std::env::args_os().nth(1))
        )),
    }
    error.exit_code()
}

/// Starts the report and the watchdog, for programs that hang or block their loop.
fn start_inspection(run: &Run) {
    if run.watchdog > 0
        && let Err(error) = yue::lua::watch_loops(Duration::from_millis(run.watchdog))
    {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("no watchdog: {error}"),
        );
    }
    if !run.no_report
        && let Err(error) = yue::lua::report_on(libc::SIGQUIT)
    {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("no report on SIGQUIT: {error}"),
        );
    }
}

/// Whether the variable `YUE_ADMIN` turns the admin endpoint off.
fn admin_is_off() -> bool {
    let setting = std::env::var("YUE_ADMIN").unwrap_or_default();
    ["0", "off", "no", "false"].contains(&setting.as_str())
}

/// The address of the page that the option or the variable `YUE_PAGE` asks for.
fn page_of(option: Option<&str>) -> Result<Option<SocketAddr>, String> {
    let variable = std::env::var("YUE_PAGE").unwrap_or_default();
    let (text, place) = match (option, variable.as_str()) {
        (Some(text), _) => (text, "--page"),
        (None, "" | "0" | "off" | "no" | "false") => return Ok(None),
        (None, text) => (text, "YUE_PAGE"),
    };
    let address = yue::admin::page_address(text);
    address
        .map(Some)
        .map_err(|error| format!("{place}: {error}"))
}

/// Whether the variable `YUE_ADMIN` turns evaluation off.
fn evaluation_is_off() -> bool {
    std::env::var_os("YUE_ADMIN").is_some_and(|setting| setting == "readonly")
}

/// Opens the admin endpoint. A program runs without one, too: a machine may have no folder for it.
fn open_admin(
    script: &Script,
    page: Option<SocketAddr>,
    evaluates: bool,
) -> Option<yue::admin::Endpoint> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let options = yue::admin::Options {
        name: script.name.as_ref().map(|name| name.display().to_string()),
        args: script.args.iter().map(text).collect(),
        folder: None,
        page,
        evaluator: evaluates.then(yue::lua::evaluator),
    };
    let opened = yue::admin::listen(options);
    if let Err(error) = &opened {
        let level = match page {
            None => yue_scheduler::LogLevel::Debug,
            Some(_) => yue_scheduler::LogLevel::Error,
        };
        yue_scheduler::log(level, format_args!("no admin endpoint: {error}"));
    }
    opened.ok()
}

fn run(run: Run) -> i32 {
    yue::lua::read_log_level();
    // The option wins.
    if let Some(format) = run.log_format {
        yue_scheduler::set_log_format(format);
    }
    init::split_if_orphans_arrive();
    dev::begin_if_supervised();
    start_inspection(&run);
    let wants_admin = !run.no_admin && !admin_is_off();
    let page = page_of(run.page.as_deref()).map_err(|text| (2, text));
    if !wants_admin && matches!(page, Ok(Some(_))) {
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!("there is no page, because the admin endpoint is turned off"),
        );
    }
    let evaluates = !run.no_eval && !evaluation_is_off();
    match page.and_then(|page| Ok((page, script_of(run)?))) {
        Ok((page, script)) => {
            let _endpoint = wants_admin
                .then(|| open_admin(&script, page, evaluates))
                .flatten();
            let code = script.run();
            console::restore_terminal();
            code
        }
        Err((code, text)) => {
            yue_scheduler::log_outcome(format_args!("{text}"));
            code
        }
    }
}

/// The script that the command line names. The error is an exit code and a message.
fn script_of(run: Run) -> Result<Script, (i32, String)> {
    if run.interactive && run.loops > 1 {
        let text = "-i reads lines for one loop; leave out -c, or give the script as a file";
        return Err((2, text.to_owned()));
    }
    let words = std::env::args_os().map(OsString::into_encoded_bytes);
    let before = words.len().saturating_sub(run.script.len());
    let command = words.take(before).collect();
    let mut chunks: Vec<Chunk> = run
        .code
        .into_iter()
        .map(|code| Chunk::text("=(command line)", code.into_encoded_bytes()))
        .collect();
    let mut words = run.script.into_iter();
    let name = words.next().map(PathBuf::from);
    let args: Vec<OsString> = words.collect();
    match &name {
        Some(path) if path.as_os_str() == "-" => {
            let mut source = Vec::new();
            std::io::stdin()
                .read_to_end(&mut source)
                .map_err(|error| (1, format!("cannot read standard input: {error}")))?;
            chunks.push(Chunk::text("=stdin", source));
        }
        Some(path) => {
            check(path, args.first())?;
            chunks.push(Chunk::File(path.clone()));
        }
        None => {}
    }
    if run.interactive {
        chunks.push(Chunk::Interactive);
    }
    let has_terminal = run.interactive && console::is_at_terminal();
    Ok(Script {
        chunks,
        name,
        args: args.into_iter().map(OsString::into_encoded_bytes).collect(),
        command,
        loops: run.loops,
        io: run.io,
        watch: run.watch,
        node: None,
        terminal: has_terminal.then(|| Terminal::new(console::talk_to_own_program)),
    })
}

/// Checks that the script can be read; it may be anything readable, even a pipe. The refusal here is clearer than
/// Lua's.
fn check(path: &Path, next: Option<&OsString>) -> Result<(), (i32, String)> {
    let shown = path.display();
    match path.metadata() {
        Ok(facts) if facts.is_dir() => Err((1, format!("{shown} is a folder, not a script"))),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = usage::suggest_for_script(&Arguments::command(), path, next)
                .map_or_else(String::new, |advice| format!("; {advice}"));
            Err((1, format!("there is no script {shown}{advice}")))
        }
        Err(error) => Err((1, format!("cannot read the script {shown}: {error}"))),
    }
}

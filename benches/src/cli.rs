//! The command line of `yue-figures`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::harness::{
    Effort, Problem, Row, Settings, measure_here, plot, process, report, run_rows, table,
};
use crate::rows;

/// The time limit of a measurement. After it the kernel ends the measuring process.
const MEASURE_SECONDS_MAX: u32 = 180;

/// Measures every figure that yue publishes, beside its peers and its ceilings.
///
/// Each figure is the median over several rounds. A round measures every contestant once, each in its own process. The
/// ratio column is yue's figure divided by that line's (for times less is better, for rates more). A ceiling is the
/// same work without a runtime. On a shared machine absolute figures mean little; ratios within one run mean more.
///
/// Peers that are crates are built with `--features peers`. Peers that are programs (Tarantool, redis-server,
/// redis-benchmark, wrk) are used if they are on the PATH.
#[derive(Debug, Parser)]
#[command(name = "yue-figures", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  \
    cargo run --release -p yue-benches --features peers\n  \
    yue-figures --row 1 --row 2 --quick\n  \
    yue-figures --json figures.json && yue-figures plot figures.json\n\n\
    Row 1 fiber yield · 2 spawn and join · 3 idle memory · 4 mailbox · 5 between two loops · 6 timers · 7 TCP echo · \
    8 Lua fibers · 9 RPC over TCP · 10 RPC between threads · \
    11 RPC, Rust to Rust · 12 growth · 13 example servers · 14 groups\n\
    Environment: YUE_BIN names the `yue` command that rows 3 and 8 to 10 run (default: the one beside this program).")]
struct Arguments {
    /// Only this row (repeatable).
    #[arg(long = "row", value_name = "N")]
    rows: Vec<u32>,
    /// Measurements per contestant [default: 7, or 3 with --quick].
    #[arg(long, value_name = "COUNT")]
    rounds: Option<usize>,
    /// Do a tenth of the work and fewer rounds: to check that everything runs, not to publish.
    #[arg(long)]
    quick: bool,
    /// Do this fraction of the work; --quick means 0.1. Less than that shows only whether everything runs.
    #[arg(long, value_name = "FRACTION", conflicts_with = "quick", value_parser = parse_effort)]
    effort: Option<f64>,
    /// Also write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Passed by `cargo bench`. Without it, a test run started the bench target, which then has nothing to do.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    command: Option<Task>,
}

fn parse_effort(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(effort) if (0.001..=1.0).contains(&effort) => Ok(effort),
        _ => Err("a fraction from 0.001 to 1 is needed".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Draw one SVG per row from a JSON file that `--json` wrote.
    Plot {
        /// The JSON file.
        file: PathBuf,
        /// The folder for the SVG files.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// List the rows, cases, contestants and goals.
    List,
    /// Measure one contestant in this process and print one line of JSON (the table is made of these lines).
    Measure {
        /// The row's number.
        row: u32,
        /// The case's index in the row, from 0.
        case: usize,
        /// The contestant's name.
        contestant: String,
        /// The share of the full work to do.
        #[arg(long, default_value_t = 1.0)]
        effort: f64,
    },
    /// Run one server until this process ends. Prints `ready PORT` first. The network rows start these.
    Serve {
        /// The server's name.
        server: String,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("yue-figures: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Problem> {
    match arguments.command {
        Some(Task::Plot { file, out }) => plot_all(&file, &out),
        Some(Task::List) => {
            list();
            Ok(())
        }
        Some(Task::Measure {
            row,
            case,
            contestant,
            effort,
        }) => {
            // SAFETY: `alarm` only sets a timer; its signal is meant to end this process.
            unsafe { libc::alarm(MEASURE_SECONDS_MAX) };
            measure_here(rows::all(), row, case, &contestant, Effort(effort))
        }
        Some(Task::Serve { server }) => rows::serve(&server),
        None => figures(&arguments),
    }
}

fn figures(arguments: &Arguments) -> Result<(), Problem> {
    if cfg!(debug_assertions) {
        eprintln!(
            "yue-figures: built without optimization, so the figures are meaningless (use --release)"
        );
    }
    let mut rows = rows::all();
    if !arguments.rows.is_empty() {
        if let Some(unknown) = arguments
            .rows
            .iter()
            .find(|number| rows.iter().all(|row| row.number != **number))
        {
            return Err(Problem::failed(format!(
                "there is no row {unknown} (see `yue-figures list`)"
            )));
        }
        rows.retain(|row| arguments.rows.contains(&row.number));
    }
    if !cfg!(feature = "peers") {
        eprintln!(
            "yue-figures: peers and ceilings that are crates were not built (--features peers)"
        );
    }
    let runs_lua = |row: &Row| matches!(row.number, 3 | 8..=10);
    if rows.iter().any(runs_lua) && process::yue_program().is_none() {
        eprintln!(
            "yue-figures: found no `yue` command beside this program (cargo build --release -p yue-cli)"
        );
    }
    let settings = Settings {
        rounds: arguments
            .rounds
            .unwrap_or(if arguments.quick { 3 } else { 7 })
            .max(1),
        effort: Effort(
            arguments
                .effort
                .unwrap_or(if arguments.quick { 0.1 } else { 1.0 }),
        ),
    };
    let report = report::Report {
        format: 1,
        machine: report::machine(),
        rounds: settings.rounds,
        effort: settings.effort.0,
        rows: run_rows(rows, settings),
    };
    std::io::stdout().write_all(table::render(&report).as_bytes())?;
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Problem::failed(error.to_string()))?;
        std::fs::write(file, text + "\n")?;
    }
    Ok(())
}

fn plot_all(file: &Path, out: &Path) -> Result<(), Problem> {
    let text = std::fs::read_to_string(file)?;
    let report: report::Report = serde_json::from_str(&text).map_err(|error| {
        Problem::failed(format!(
            "{}: not a report of figures ({error})",
            file.display()
        ))
    })?;
    for row in &report.rows {
        let target = out.join(format!("row-{}.svg", row.number));
        std::fs::write(&target, plot::svg(row))?;
        println!("{}", target.display());
    }
    Ok(())
}

fn list() {
    for row in rows::all() {
        println!("{}. {}", row.number, row.title);
        for (index, case) in row.cases.iter().enumerate() {
            println!("   case {index}: {} ({})", case.name, case.unit.name);
            for contestant in &case.contestants {
                println!("     {:?}: {}", contestant.kind, contestant.name);
            }
        }
    }
}

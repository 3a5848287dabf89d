//! `yue dev`: runs a program while it is being written.
//!
//! ```text
//!   yue dev, the supervisor                                  yue -w server.lua, its child
//!     supervisor.rs  starts, restarts and ends the child  ──▶  reloads its modules by itself
//!     child.rs       the process and its reports          ◀──  where it serves, which error ended it
//!     files.rs       changes in the script's folder            /_yue/dev: its pages reload, and show errors
//!     stand_in.rs    serves the error at the child's addresses while it is down
//! ```
//!
//! Two processes, because a new version of the main script needs a new program, and because a program that hangs or
//! crashes must not take the tool with it. The crate `yue` has the child's side: `yue::lua::development`.

mod child;
mod files;
mod stand_in;
mod supervisor;

pub(crate) use child::begin_if_supervised;

use crate::init;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use yue::Choice;
use yue_scheduler::log_outcome;

const EXAMPLES: &str = "\
Examples:
  yue dev                       run server.lua of this folder
  yue dev demo --open           run demo/server.lua and open its page
  yue dev game.lua port=9000    run a script with its arguments

Modules and files of symbols are reloaded in the running program. When the
script itself changes, the program starts again. Pages reload when their files
change, and show errors. Ctrl-C ends all; a second one does so at once.";

/// Run a program, and apply each change to its code and its pages at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Run the program on this many loops.
    #[arg(short = 'c', long = "loops", value_name = "LOOPS", default_value_t = 1, value_parser = crate::parse_loops)]
    loops: usize,

    /// The program's I/O driver: uring, mio, or auto. YUE_IO does the same.
    #[arg(long, value_name = "DRIVER", value_parser = parse_driver_name)]
    io: Option<String>,

    /// Open the program's page in a browser.
    #[arg(long)]
    open: bool,

    /// Also serve the page that looks into the program, at this address; see yue --help.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    page: Option<String>,

    /// A folder with a server.lua, or a script; and the script's arguments [default: this folder].
    #[arg(trailing_var_arg = true, value_names = ["SCRIPT", "ARGS"])]
    script: Vec<OsString>,
}

/// The program to run.
struct Program {
    script: PathBuf,
    /// The words of its command line: options, the script, the script's arguments.
    words: Vec<OsString>,
    opens_page: bool,
    /// The address for the page that looks into the program.
    page: Option<String>,
}

/// Checks the name of a driver, which the program gets.
fn parse_driver_name(text: &str) -> Result<String, String> {
    crate::parse_driver(text).map(|_| text.to_owned())
}

/// Runs the program until it is interrupted; returns the exit code.
pub(crate) fn main(arguments: Arguments) -> i32 {
    init::split_if_orphans_arrive();
    let supervised = program_of(arguments).and_then(|program| {
        // The other driver would take a ring for a few events a minute.
        let runtime = yue::Runtime::builder().driver(Choice::Mio).build();
        runtime
            .and_then(|runtime| runtime.run(move || supervisor::run(program)))
            .map_err(|error| format!("cannot supervise the program: {error}"))
    });
    supervised.unwrap_or_else(|text| {
        log_outcome(format_args!("{text}"));
        1
    })
}

fn program_of(arguments: Arguments) -> Result<Program, String> {
    let mut words = arguments.script.into_iter();
    let given = words
        .next()
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let script = find_script(&given)?;
    let mut line = vec!["-w".into(), "-c".into(), arguments.loops.to_string().into()];
    if let Some(io) = arguments.io {
        line.extend(["--io".into(), io.into()]);
    }
    line.push(script.clone().into());
    line.extend(words);
    Ok(Program {
        script,
        words: line,
        opens_page: arguments.open,
        page: arguments.page,
    })
}

/// The script that a path means: a folder stands for its `server.lua`.
fn find_script(given: &Path) -> Result<PathBuf, String> {
    let shown = given.display();
    let is_folder = given.is_dir();
    let script = match is_folder {
        true if given == Path::new(".") => PathBuf::from("server.lua"),
        true => given.join("server.lua"),
        // A script `dev` must not be taken for a subcommand.
        false if given.components().count() == 1 && given.extension().is_none() => {
            Path::new(".").join(given)
        }
        false => given.to_owned(),
    };
    match script.metadata() {
        Ok(facts) if !facts.is_dir() => Ok(script),
        _ if is_folder => Err(format!(
            "there is no server.lua in {shown}; name the script, or create a project: yue new demo"
        )),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot read the script {shown}: {error}"))
        }
        _ => Err(format!("there is no script or folder {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::program_of;
    use crate::{Arguments, Command};
    use clap::Parser;
    use std::path::Path;

    /// The program that `yue dev` runs for these arguments.
    fn program(arguments: &[&str]) -> Result<super::Program, String> {
        let words = ["yue", "dev"].iter().chain(arguments);
        match Arguments::try_parse_from(words).map(|arguments| arguments.command) {
            Ok(Some(Command::Dev(arguments))) => program_of(arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_program_gets_its_arguments_and_options() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("server.lua");
        std::fs::write(&script, "").expect("a file");
        let path = folder.path().to_str().expect("plain text");
        let words = ["-c", "2", "--io", "mio", "--page", path, "--open", "x=1"];
        let found = program(&words).expect("it is there");
        assert_eq!(found.script, script);
        let script = script.to_str().expect("plain text");
        assert_eq!(
            found.words,
            ["-w", "-c", "2", "--io", "mio", script, "--open", "x=1"]
        );
        assert!(found.page.as_deref() == Some("on") && !found.opens_page);
        assert!(program(&[script]).expect("a script").script == Path::new(script));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let text = program(&["missing/x.lua"]).err();
        assert_eq!(
            text.as_deref(),
            Some("there is no script or folder missing/x.lua")
        );
    }
}

//! The `yue` command: see `yue --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    yue_cli::main()
}

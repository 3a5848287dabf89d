//! `yue-figures`: prints the table of figures. See the library's documentation.

fn main() -> std::process::ExitCode {
    yue_benches::main()
}

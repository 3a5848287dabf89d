//! `cargo bench -p yue-benches --features peers` prints the table of figures. This is the same program as
//! `yue-figures`.

fn main() -> std::process::ExitCode {
    yue_benches::main()
}

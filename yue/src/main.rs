//! The `yue` command.
fn main() {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().unwrap();
    let mut s = yue::lua::Script::new(std::path::PathBuf::from(path));
    s.args = args.map(|a| a.into_encoded_bytes()).collect();
    std::process::exit(s.run());
}

//! Programs built with `panic = "abort"`: fibers run and do I/O as usual, and a panic ends the process with its usual
//! message.
//!
//! The profile applies to a whole program, so the test builds a small one in a folder under `target/`. Runs on both
//! drivers, through `YUE_IO`.

use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = r#"
use std::io::{Read, Write};
use std::time::Duration;
use yue_io::net::{TcpListener, TcpStream};
use yue_scheduler::*;

fn main() {
    let panics = std::env::args().nth(1).is_some_and(|argument| argument == "panic");
    let driver = yue_io::driver(yue_io::Choice::from_environment().unwrap()).unwrap();
    let config = Config { driver, ..Config::default() };
    let (sum, report) = Loop::new(config).unwrap().run_reported(move || {
        let fibers: Vec<_> = (0..10u64)
            .map(|n| spawn(move || sleep(Duration::from_millis(n)).map(|()| n).unwrap()))
            .collect();
        let sum: u64 = fibers.into_iter().map(|fiber| fiber.join().unwrap()).sum();
        let mut borrowed = 0;
        scope(|s| drop(s.spawn(|| borrowed = blocking(|| 5).unwrap())));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let server = spawn(move || {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            if panics {
                panic!("a fiber's panic");
            }
            stream.write_all(&byte).unwrap();
            byte[0]
        });
        client.write_all(&[7]).unwrap();
        let sum = sum + u64::from(server.join().unwrap());
        // For the end of the loop: a fiber that waits, and one that never runs.
        drop(spawn(|| sleep(Duration::MAX)));
        yield_now().unwrap();
        drop(spawn(|| ()));
        sum + borrowed
    });
    println!("{sum} {report:?}");
}
"#;

fn build() -> PathBuf {
    let io = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scheduler = io.join("../scheduler");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abort");
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/main.rs"), PROGRAM).unwrap();
    let manifest = format!(
        "[package]\nname = \"abort\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nyue-scheduler.path = {scheduler:?}\nyue-io.path = {io:?}\n\
         [profile.dev]\npanic = \"abort\"\nopt-level = 1\n[workspace]\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    // Use the workspace's versions; without the lock file cargo would query the registry.
    fs::copy(io.join("../Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--offline"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("RUSTFLAGS")
        .status()
        .unwrap();
    assert!(built.success(), "cannot build the program");
    folder.join("target/debug/abort")
}

#[test]
fn a_program_that_aborts_on_panics_runs_fibers_and_dies_with_the_panics_message() {
    let program = build();
    let fine = Command::new(&program).output().unwrap();
    let output = String::from_utf8_lossy(&fine.stdout).into_owned();
    assert!(fine.status.success(), "{fine:?}");
    let expected = "57 StopReport { fibers_abandoned: 0, operations_left: 0 }\n";
    assert_eq!(output, expected);
    let panics = Command::new(&program).arg("panic").output().unwrap();
    let output = String::from_utf8_lossy(&panics.stderr).into_owned();
    assert_eq!(panics.status.signal(), Some(libc::SIGABRT), "{output}");
    assert!(output.contains("a fiber's panic"), "{output}");
}

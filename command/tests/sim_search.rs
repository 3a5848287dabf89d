//! `yue sim --runs`: the search for a seed that fails, its faults, and the command that repeats it.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The folder from which the examples are found.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command.arg("sim").current_dir(root());
    for variable in [
        "YUE_LOG",
        "YUE_LOG_FORMAT",
        "YUE_SIM_HASH",
        "YUE_SIM_FAULTS",
    ] {
        command.env_remove(variable);
    }
    command
}

fn sim(arguments: &[&str]) -> (bool, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command().args(arguments).output().expect("yue runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.success(), text(&stdout), text(&stderr))
}

const TRADE: &str = "examples/trade/scenario.lua";

/// The line with the command that repeats a run, without the words before it.
fn replay(text: &str) -> &str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("run it again: "));
    line.unwrap_or_else(|| panic!("no command in\n{text}"))
}

/// Runs the command line that was printed, by a shell.
fn run_printed(line: &str) -> (bool, String) {
    let yue = env!("CARGO_BIN_EXE_yue");
    let line = line.replacen("yue sim", &format!("'{yue}' sim"), 1);
    let output = Command::new("sh")
        .args(["-c", &line])
        .current_dir(root())
        .output();
    let output = output.expect("a shell runs");
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_trade_that_pays_twice_is_found_by_its_seed_and_repeated() {
    let (well, _, text) = sim(&["--runs", "100", TRADE]);
    assert!(!well && text.contains("the customer pays once"), "{text}");
    let line = replay(&text);
    assert!(
        line.starts_with("yue sim --seed ") && line.ends_with(TRADE),
        "{line}"
    );
    let (well, again) = run_printed(line);
    let reason = |text: &str| text.split("the end of the trace").next().map(str::to_owned);
    assert!(!well, "{again}");
    let first = reason(&text).unwrap_or_default();
    assert!(
        again.contains(first.trim_start_matches("yue: ").trim_end()),
        "{again}\n{text}"
    );
}

#[test]
fn the_mended_trade_pays_once_under_every_seed() {
    let (well, shown, text) = sim(&["--runs", "60", TRADE, "numbers=yes"]);
    assert!(well, "{text}");
    assert_eq!(shown, "60 runs, no failure\n");
}

/// A server, and a client that fails when a call takes longer than a second.
fn impatient(folder: &tempfile::TempDir) -> String {
    let write = |name: &str, source: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, source).expect("a file can be written");
        path.display().to_string()
    };
    let server = write(
        "server.lua",
        "yue.listen('tcp://0.0.0.0:7000', { ping = function() end })",
    );
    let client = write(
        "client.lua",
        "local server = yue.open('tcp://server:7000')
         while true do yue.timeout(1, server.ping); yue.sleep(0.1) end",
    );
    format!("server={server}, client={client}")
}

#[test]
fn chaos_is_shrunk_to_the_fault_that_matters_and_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = impatient(&folder);
    let page = folder.path().join("run.html");
    let (well, _, text) = sim(&[
        "--runs",
        "50",
        "--chaos",
        "4",
        "--seconds",
        "30",
        "--hosts",
        &hosts,
        "--timeline",
        &page.display().to_string(),
    ]);
    assert!(
        !well && text.contains("the program of the host client failed"),
        "{text}"
    );
    assert!(text.contains("the faults that matter, "), "{text}");
    let drawn = std::fs::read_to_string(&page).expect("the timeline was written");
    assert!(drawn.contains("<svg") && drawn.contains("client"));
    let line = replay(&text);
    assert!(
        line.starts_with("YUE_SIM_FAULTS='") && line.contains("' yue sim --seed "),
        "{line}"
    );
    let (well, again) = run_printed(line);
    assert!(
        !well && again.contains("the program of the host client failed"),
        "{again}"
    );
}

#[test]
fn faults_come_from_a_file_and_the_trace_is_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = impatient(&folder);
    let file = folder.path().join("faults");
    std::fs::write(
        &file,
        "# a short one\n1s partition server client until 1.2s\n",
    )
    .expect("written");
    let faults = file.display().to_string();
    let (well, shown, text) = sim(&[
        "--hosts",
        &hosts,
        "--seconds",
        "3",
        "--faults",
        &faults,
        "--trace",
    ]);
    assert!(well, "{text}");
    for part in [
        "    1.000000s  *** partition server client\n",
        "    1.200000s  *** heal server client\n",
        "LOST",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    std::fs::write(&file, "1s explode server").expect("written");
    let (well, _, text) = sim(&["--hosts", &hosts, "--faults", &faults]);
    assert!(
        !well && text.contains("line 1 of the faults: 'explode' is not a fault"),
        "{text}"
    );
    std::fs::write(&file, "1s crash nobody").expect("written");
    let (well, _, text) = sim(&["--hosts", &hosts, "--faults", &faults]);
    assert!(
        !well && text.contains("there is no host named nobody"),
        "{text}"
    );
}

#[test]
fn wrong_usage_is_refused() {
    for (arguments, problem) in [
        (&["--chaos", "6", "--hosts", "a=b.lua"][..], "6"),
        (&["--chaos", "1", TRADE], "--chaos"),
        (&["--runs", "0", TRADE], "0"),
        (
            &["--seed", "18446744073709551615", TRADE],
            "the seeds are too large",
        ),
        (&["--part", "x", TRADE], "'x'"),
        (&["nowhere.lua"], "there is no script nowhere.lua"),
        (&[], "--hosts"),
    ] {
        let (well, _, text) = sim(arguments);
        assert!(!well && text.contains(problem), "{arguments:?}: {text}");
    }
}

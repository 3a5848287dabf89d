//! The conformance suite: every behaviour of `yue/tests/conformance/` over every transport, on both drivers. The suite
//! itself, and its list of transports and behaviours, are in Lua; this test runs it, and keeps the book's table the
//! same as the list.
//!
//! `YUE_CONFORMANCE="tls accept"` runs only some transports, behaviours, or both; `YUE_IO` chooses a driver.

mod common;

use common::{
    behaviours, certificates, drivers, folder_of_the_suite, listed, printed, suite_script,
    transports,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

/// Processes at a time. Most of a process's time is waiting.
const AT_ONCE: usize = 4;

/// The faults of one run: behaviours that failed or did not run, and complaints that no behaviour expects.
fn faults(ended: &common::Ended, behaviours: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut missing: BTreeSet<&str> = behaviours.iter().map(String::as_str).collect();
    let mut expected = vec!["more failures of handlers, callbacks and peers were not logged"];
    for line in ended.stdout.lines() {
        if let Some(name) = line.strip_prefix("ok ") {
            missing.remove(name);
        } else if let Some(rest) = line.strip_prefix("no ") {
            missing.remove(rest.split(':').next().unwrap_or_default());
        } else if let Some(text) = line.strip_prefix("log ") {
            expected.push(text);
        } else if line != "done" {
            // A failure, and its traceback.
            faults.push(line.to_owned());
        }
    }
    if ended.code != Some(0) || !ended.stdout.ends_with("done\n") {
        faults.push(format!("it ended with {:?}", ended.code));
    }
    faults.extend(missing.iter().map(|name| format!("{name} did not pass")));
    // The lines of a traceback are indented.
    let entries = ended
        .stderr
        .lines()
        .filter(|line| !line.starts_with(char::is_whitespace));
    let known = |entry: &str| expected.iter().any(|text| entry.contains(text));
    let strange = entries.filter(|entry| !known(entry) && !entry.contains("stack traceback"));
    faults.extend(strange.map(|entry| format!("it complained: {entry}")));
    faults
}

#[test]
fn every_behaviour_holds_over_every_transport() {
    let (transports, behaviours) = (transports(), behaviours());
    let certificates = certificates();
    let mut runs = Vec::new();
    for driver in drivers() {
        runs.extend(
            transports
                .iter()
                .map(|scheme| (driver.clone(), scheme.clone())),
        );
    }
    let (runs, failed) = (Mutex::new(runs), Mutex::new(Vec::new()));
    let next = || runs.lock().expect("no worker panics").pop();
    let work = || {
        while let Some((driver, scheme)) = next() {
            let args: Vec<_> = std::iter::once(&scheme)
                .chain(&behaviours)
                .cloned()
                .collect();
            let ended = suite_script(&driver, "run.lua", &args, certificates.path());
            let faults = faults(&ended, &behaviours);
            if !faults.is_empty() {
                let text = format!("--- {scheme}:// on {driver}\n{}", faults.join("\n"));
                failed.lock().expect("no worker panics").push(text);
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no worker panics");
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// A script that nobody runs shows nothing.
#[test]
fn every_script_is_listed() {
    let files = std::fs::read_dir(folder_of_the_suite()).expect("the folder is there");
    let files = files.map(|file| file.expect("the folder can be read").path());
    let names = files.filter(|file| file.extension().is_some_and(|extension| extension == "lua"));
    let names = names.map(|file| {
        file.file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    });
    let (files, listed): (BTreeSet<_>, BTreeSet<_>) =
        (names.collect(), listed("behaviour ").into_iter().collect());
    assert_eq!(files, listed, "the scripts, and the list in lib/suite.lua");
}

const BEGIN: &str = "<!-- The table is written by command/tests/conformance.rs. -->\n";
const END: &str = "<!-- Here the table ends. -->\n";

#[test]
fn the_books_table_is_what_the_suite_tests() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/transports.md");
    let text = std::fs::read_to_string(&path).expect("the page of the book");
    let (head, rest) = text.split_once(BEGIN).expect("the line before the table");
    let (table, tail) = rest.split_once(END).expect("the line after the table");
    let expected = format!("{}\n", printed("table.lua"));
    if std::env::var_os("YUE_WRITE_TABLE").is_some() {
        let text = format!("{head}{BEGIN}{expected}{END}{tail}");
        return std::fs::write(&path, text).expect("the page can be written");
    }
    assert!(
        table == expected,
        "docs/src/transports.md differs from the suite; write it with: \
         YUE_WRITE_TABLE=1 cargo test -p yue-cli --test conformance table"
    );
}

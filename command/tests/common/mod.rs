//! The drivers that this machine has, certificates for scripts about TLS, the `yue` command run to its end, and the
//! conformance suite's lists.

#![allow(dead_code)] // Each test binary uses a part of it.

pub mod agents;
pub mod cutter;
pub mod nodes;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No script needs a fraction of this; a machine under load may.
const DEADLINE: Duration = Duration::from_secs(180);

/// The drivers to test: the one that `YUE_IO` names, or all that this machine has.
pub fn drivers() -> Vec<String> {
    match std::env::var("YUE_IO") {
        Ok(driver) if !driver.is_empty() => vec![driver],
        _ if yue::Runtime::builder()
            .driver(yue::Choice::Uring)
            .build()
            .is_ok() =>
        {
            vec!["uring".to_owned(), "mio".to_owned()]
        }
        _ => {
            eprintln!("io_uring is refused on this machine: only mio is tested");
            vec!["mio".to_owned()]
        }
    }
}

/// A folder with certificates (`NAME.pem`) and their keys (`NAME-key.pem`), for a script to use.
pub fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(format!("{name}.pem"));
        std::fs::write(file, text).expect("a file in a temporary folder");
    };
    let authority = |name| {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let made = CertifiedIssuer::self_signed(params, key).expect("an authority");
        write(name, &made.pem());
        made
    };
    let (ca, other) = (authority("ca"), authority("other-ca"));
    let sign = |name: &str, issuer: &CertifiedIssuer<'_, KeyPair>, names: &[&str], is_expired| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        if is_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        write(name, &certificate.pem());
        write(&format!("{name}-key"), &key.serialize_pem());
    };
    let here = ["localhost", "127.0.0.1"];
    sign("server", &ca, &here, false);
    sign("expired", &ca, &here, true);
    sign("misnamed", &ca, &["example.org"], false);
    for (name, issuer) in [("alice", &ca), ("bob", &ca), ("mallory", &other)] {
        sign(name, issuer, &[], false);
    }
    folder
}

/// The end of a child process. It was killed if there is no exit code.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a child to its end, and kills it when the deadline has passed.
pub fn run_to_end(command: &mut Command) -> Ended {
    let mut child = command
        .env_remove("YUE_IO")
        .env_remove("YUE_LOG")
        // On a busy machine a script that is not slow may be.
        .env("YUE_WATCHDOG", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the yue command runs");
    let collect = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is.
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = collect(Box::new(child.stdout.take().expect("piped")));
    let stderr = collect(Box::new(child.stderr.take().expect("piped")));
    let since = Instant::now();
    let code = loop {
        match child.try_wait().expect("the child can be waited for") {
            Some(status) => break status.code(),
            None if since.elapsed() > DEADLINE => {
                child.kill().expect("the child can be killed");
                child.wait().expect("the child can be waited for");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    Ended {
        code,
        stdout: stdout.join().expect("the reader is fine"),
        stderr: stderr.join().expect("the reader is fine"),
    }
}

/// The folder of the conformance suite.
pub fn folder_of_the_suite() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../yue/tests/conformance");
    folder.canonicalize().expect("the scripts of the crate yue")
}

/// Runs a script of the suite's `lib/`.
pub fn suite_script(driver: &str, script: &str, args: &[String], certificates: &Path) -> Ended {
    run_to_end(
        Command::new(env!("CARGO_BIN_EXE_yue"))
            .args(["--io", driver])
            .arg(folder_of_the_suite().join("lib").join(script))
            .args(args)
            .env("YUE_CERTIFICATES", certificates),
    )
}

/// The output of a script of the suite's `lib/`, which must end well.
#[track_caller]
pub fn printed(script: &str) -> String {
    let ended = suite_script(&drivers()[0], script, &[], Path::new(""));
    let well = ended.code == Some(0) && ended.stderr.is_empty();
    assert!(well, "{script}: {}", ended.stderr);
    ended.stdout
}

/// One of the lists that `lib/list.lua` prints: the lines with that beginning.
pub fn listed(kind: &str) -> Vec<String> {
    let text = printed("list.lua");
    let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    lines.map(str::to_owned).collect()
}

/// Those of the list that `YUE_CONFORMANCE` names; all, if it names none of them.
pub fn wanted(all: Vec<String>) -> Vec<String> {
    let wanted = std::env::var("YUE_CONFORMANCE").unwrap_or_default();
    let is_wanted = |name: &&String| wanted.split(' ').any(|word| word == *name);
    let some: Vec<_> = all.iter().filter(is_wanted).cloned().collect();
    if some.is_empty() { all } else { some }
}

/// The transports to test.
pub fn transports() -> Vec<String> {
    wanted(listed("transport "))
}

/// The behaviours to test.
pub fn behaviours() -> Vec<String> {
    wanted(listed("behaviour "))
}

//! Every input that is kept in `corpus/` passes, the ones that once showed a fault among them.

use std::fs;
use std::path::Path;
use yue_fuzz::decoder::Decoder;
use yue_fuzz::json::Json;
use yue_fuzz::rig::Rig;
use yue_fuzz::{address, agent, frames, http, scanner, session, upgrade};

/// The limits of each target's corpus, so that these tests stay quick and the repository small.
const FILES_MAX: usize = 400;
const BYTES_MAX: usize = 128 << 10;

/// A loop over the driver that the environment chooses.
fn rig() -> Rig {
    Rig::new(yue_io::driver(yue_io::Choice::Auto).expect("a driver"))
}

/// Hands every kept input of a target to `check`, and says which one it is that fails.
fn replay(target: &str, check: impl Fn(&[u8])) {
    struct Name<'a>(&'a Path);
    impl Drop for Name<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("with the input {}", self.0.display());
            }
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("a file").path();
        let input = fs::read(&path).expect("a file");
        files += 1;
        bytes += input.len();
        let _name = Name(&path);
        check(&input);
    }
    assert!(files >= 10, "only {files} inputs in {}", folder.display());
    assert!(
        files <= FILES_MAX && bytes <= BYTES_MAX,
        "{files} inputs of {bytes} bytes in {}: minimize it, as ci/fuzz says",
        folder.display()
    );
}

#[test]
fn kept_addresses_pass() {
    replay("address", address::check);
}

#[test]
fn kept_bytes_of_owners_pass() {
    replay("agent", agent::check);
}

#[test]
fn kept_frames_pass() {
    replay("frames", frames::check);
}

#[test]
fn kept_upgrades_pass() {
    replay("upgrade", upgrade::check);
}

#[test]
fn kept_streams_pass() {
    replay("scanner", scanner::check);
}

#[test]
fn kept_values_pass() {
    let decoder = Decoder::new(rig());
    replay("decoder", |data| decoder.check(data));
}

#[test]
fn kept_ports_pass() {
    let rig = rig();
    replay("http", |data| http::check(&rig, data));
}

#[test]
fn kept_json_texts_pass() {
    let json = Json::new(rig());
    replay("json", |data| json.check(data));
}

#[test]
fn kept_sessions_pass() {
    let rig = rig();
    replay("session", |data| session::check(&rig, data));
}

//! The scenarios of `scenarios/`: systems of hosts, simulated, whose invariants hold for each seed.
//!
//! An ordinary run tries few seeds; `ci/scenarios` searches for minutes.

mod common;

use common::yue;

/// The number of seeds of each scenario.
const RUNS: &str = "8";

#[track_caller]
fn holds(name: &str) {
    let file = format!("{}/scenarios/{name}.lua", env!("CARGO_MANIFEST_DIR"));
    let output = yue()
        .args(["sim", "--runs", RUNS, &file])
        .output()
        .expect("the yue command runs");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

macro_rules! scenarios {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*

        #[test]
        fn every_scenario_is_here() {
            let listed = [$(stringify!($name)),*];
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
            for entry in std::fs::read_dir(folder).expect("the folder is there") {
                let path = entry.expect("an entry").path();
                let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
                assert!(listed.contains(&name), "{name} is not in the list");
            }
        }
    };
}

scenarios! {
    adversary, asked_clients, datagrams, flow, groups, held_calls, hooks, late_answers, releases, reload, timers
}

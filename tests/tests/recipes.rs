//! The recipes of the book (`examples/recipes/`) run, on both drivers: `tests/recipes/NAME.lua` checks the recipe of
//! that name, against the real server where there is one.
//!
//! `ci/recipes` installs the servers and sets `YUE_RECIPES_SERVERS`; then every test must run. Otherwise a test whose
//! server this machine does not have prints that and passes.

mod common;

use common::{drivers, root, run, yue};
use std::path::Path;

/// Runs the script of a recipe.
#[track_caller]
fn check(recipe: &str) {
    let folder = tempfile::tempdir().unwrap();
    // rcgen's certificates are no authorities, so they may be a server's.
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.path().join("server.pem"), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(folder.path().join("server-key.pem"), key).unwrap();
    for driver in drivers() {
        let lua_path = "tests/recipes/?.lua;yue/tests/lua/lib/?.lua;;";
        let outcome = run(yue()
            .args(["--io", driver])
            .arg(root().join(format!("tests/recipes/{recipe}.lua")))
            .env_remove("YUE_IO")
            .env("LUA_PATH", lua_path)
            .env("YUE_CERTIFICATES", folder.path()));
        assert_eq!(outcome.code(), 0, "{recipe} on {driver}: {outcome:#?}");
        let is_done = outcome
            .stdout
            .lines()
            .any(|line| line.starts_with("checks: "));
        assert!(is_done, "{recipe} on {driver} ended early: {outcome:#?}");
    }
}

/// Whether the machine has a server, by its `program`. If `ci/recipes` runs the tests, it must be there.
fn has_server(name: &str, program: &dyn Fn() -> bool) -> bool {
    let is_there = program();
    let is_demanded = std::env::var_os("YUE_RECIPES_SERVERS").is_some();
    assert!(is_there || !is_demanded, "{name} is not installed");
    if !is_there {
        println!("{name} is not installed: its recipe was not run (ci/recipes installs it)");
    }
    is_there
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

#[test]
fn cron_runs_functions_at_times_of_the_calendar() {
    check("cron");
}

#[test]
fn mail_is_submitted_over_starttls() {
    check("mail");
}

#[test]
fn redis_commands_of_many_fibers_share_a_connection() {
    if has_server("redis-server", &|| in_path("redis-server")) {
        check("redis");
    }
}

#[test]
fn postgres_runs_queries_and_transactions() {
    let is_there = || Path::new("/usr/lib/postgresql").exists() && in_path("setpriv");
    if has_server("postgresql", &is_there) {
        check("postgres");
    }
}

#[test]
fn webhooks_are_signed_and_sent_again() {
    check("webhook");
}

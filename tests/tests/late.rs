//! Programs that are stopped for longer than a time limit of theirs, and then continued.

mod common;

use common::{Running, Server, drivers, script, wait_until, yue};
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
fn an_answer_that_came_while_the_client_was_stopped_is_not_lost() {
    for driver in drivers() {
        let server = Server::of(
            yue()
                .env("YUE_IO", driver)
                .arg(script("naps.lua"))
                .arg("tcp://127.0.0.1:0"),
        );
        let calling = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("calling-{driver}-{}", std::process::id()));
        let running = Running::start(
            yue()
                .env("YUE_IO", driver)
                .arg(script("calls_nap.lua"))
                .arg(&server.address)
                .arg(&calling),
        );
        wait_until("the client calls", || calling.exists());
        // The call is on its way within the half second that the server takes to answer it.
        std::thread::sleep(Duration::from_millis(250));
        running.signal(libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(2_500));
        running.signal(libc::SIGCONT);
        assert_eq!(running.outcome().lines(), ["answer"], "{driver}");
        server.end();
        fs::remove_file(calling).unwrap();
    }
}

/// With `YUE_IDLE_SECONDS=600` the silence lasts ten minutes: the run before a release.
#[test]
fn the_first_call_after_a_silence_longer_than_its_limit_is_answered() {
    let silence = std::env::var("YUE_IDLE_SECONDS").unwrap_or_else(|_| "6".to_owned());
    let pairs: Vec<_> = drivers()
        .into_iter()
        .map(|driver| {
            let server = Server::of(
                yue()
                    .env("YUE_IO", driver)
                    .arg(script("naps.lua"))
                    .arg("tcp://127.0.0.1:0"),
            );
            let client = Running::start(
                yue()
                    .env("YUE_IO", driver)
                    .arg(script("calls_after_silence.lua"))
                    .arg(&server.address)
                    .arg(&silence),
            );
            (server, client)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(silence.parse().unwrap()));
    for (server, client) in pairs {
        let outcome = client.outcome();
        assert_eq!(outcome.lines(), ["answer", "answer", "answer"]);
        server.end();
    }
}

//! Waiting until the sessions of a loop have changed.

mod common;

use common::*;
use std::time::Duration;
use yue_rpc::session::wait_for_change;
use yue_rpc::{Options, Timeout};
use yue_scheduler::{Wakeup, deadline_after};

const LONG: Duration = Duration::from_secs(20);

/// Waits for the condition, which no time makes true: only changes are waited for. Returns their number.
#[track_caller]
fn changes_until(condition: impl Fn() -> bool) -> usize {
    let mut count = 0;
    while !condition() {
        let woken = wait_for_change("a change of a session", Some(deadline_after(LONG)));
        assert_eq!(woken, Ok(Wakeup::Woken));
        count += 1;
    }
    count
}

#[test]
fn a_fiber_is_woken_by_each_change_and_sleeps_in_between() {
    run_loop(|| {
        let server = serve(Kind::Tcp, methods(), Options::default());
        let client = server.client();
        client
            .call_async("nap", Timeout::Default, ints(&[50]), |_| ())
            .unwrap();
        changes_until(|| client.connected());
        eventually("the request runs", || {
            let sessions = server.sessions();
            sessions.len() == 1 && sessions[0].requests_in_flight() == 1
        });
        let changes = changes_until(|| server.sessions()[0].requests_in_flight() == 0);
        assert!(changes <= 1, "{changes} changes");
        client.close();
        changes_until(|| client.has_ended() && server.sessions().is_empty());
    });
}

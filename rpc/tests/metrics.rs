//! The counts of sessions in the metrics of the process. One test, because the numbers belong to the whole process.

mod common;

use common::*;
use yue_rpc::Options;
use yue_scheduler::inspect::metrics_text;

fn metric(name: &str, labels: &str) -> u64 {
    let start = format!("yue_rpc_{name}{{{labels}}} ");
    let text = metrics_text();
    let line = text.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no {start} in {text}"));
    line[start.len()..].parse().unwrap()
}

const OPENED: &str = "role=\"opened\"";
const ACCEPTED: &str = "role=\"accepted\"";

#[test]
fn the_metrics_include_both_sides_and_sessions_that_have_ended() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        // The first session has put the lines there; what was before is of the other kinds of transport.
        let names = ["calls_total", "requests_total", "links_total"];
        let before = names.map(|name| [OPENED, ACCEPTED].map(|role| metric(name, role)));
        let (sent, ended) = (
            metric("sent_bytes_total", OPENED),
            metric("links_ended_total", OPENED),
        );
        for n in 0..10 {
            assert_eq!(call(&client, "sum", &[n, 1]).unwrap(), [n + 1]);
        }
        call(&client, "no such method", &[]).unwrap_err();
        let after = names.map(|name| [OPENED, ACCEPTED].map(|role| metric(name, role)));
        let calls = after[0][0] - before[0][0];
        assert_eq!(calls, client.stats().calls, "{kind:?}");
        assert!(calls >= 11, "{kind:?}");
        let served = after[1][1] - before[1][1];
        assert!(served >= 10, "{kind:?}: {served}");
        assert_eq!(after[2][0] - before[2][0], 1, "{kind:?}");
        assert_eq!(metric("links", OPENED), 1, "{kind:?}");
        assert_eq!(metric("links", ACCEPTED), 1, "{kind:?}");
        let grown = metric("sent_bytes_total", OPENED) - sent;
        assert_eq!(grown, client.stats().bytes_out, "{kind:?}");

        let total = metric("calls_total", OPENED);
        client.close();
        drop(client);
        eventually("both sides are gone", || {
            server.sessions().is_empty()
                && metric("sessions", OPENED) == 0
                && metric("links", ACCEPTED) == 0
        });
        assert_eq!(metric("links", OPENED), 0, "{kind:?}");
        assert_eq!(metric("links_ended_total", OPENED), ended + 1, "{kind:?}");
        assert_eq!(metric("calls_total", OPENED), total, "{kind:?}");
        assert_eq!(
            metric("refused_total", "role=\"accepted\",limit=\"malformed\""),
            0
        );
    });
}

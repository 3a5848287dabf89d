//! Closures that add lines to the metrics: they may use the metrics themselves, and their panics affect nothing else.

use std::sync::Barrier;
use yue_scheduler::inspect::{add_metrics, metrics_text};
use yue_scheduler::{Config, Loop, sleep};

#[test]
fn a_metrics_closure_may_request_the_text_and_add_others() {
    add_metrics(|text| {
        assert!(!metrics_text().contains("nested_total"));
        add_metrics(|text| text.push_str("added_total 1\n"));
        text.push_str("nested_total 1\n");
    });
    let first = metrics_text();
    assert!(first.contains("nested_total 1\n") && !first.contains("added_total"));
    assert!(metrics_text().contains("added_total 1\n"));
}

#[test]
fn a_metrics_closure_that_panics_or_suspends_loses_only_its_own_lines() {
    add_metrics(|text| {
        text.push_str("half_total");
        panic!("on purpose, in a closure of add_metrics");
    });
    add_metrics(|text| {
        text.push_str("early_total 1\n");
        let _ = sleep(std::time::Duration::from_millis(1));
    });
    add_metrics(|text| text.push_str("whole_total 1\n"));
    let text = Loop::new(Config::default()).unwrap().run(metrics_text);
    for (line, is_in) in [
        ("half_total", false),
        ("early_total", false),
        ("whole_total 1\n", true),
        ("yue_fibers{", true),
    ] {
        assert_eq!(text.contains(line), is_in, "{line}: {text}");
    }
}

#[test]
fn two_threads_request_the_metrics_at_once_without_waiting() {
    static BOTH: Barrier = Barrier::new(2);
    add_metrics(|text| {
        if std::thread::current().name() == Some("asks") {
            BOTH.wait();
        }
        text.push_str("both_total 1\n");
    });
    let ask = || {
        std::thread::Builder::new()
            .name("asks".to_owned())
            .spawn(metrics_text)
            .unwrap()
    };
    for thread in [ask(), ask()] {
        assert!(thread.join().unwrap().contains("both_total 1\n"));
    }
}

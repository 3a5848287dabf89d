//! Graphs, and the deadlocks in them.

use super::*;

fn waiting(fiber: &str, kind: &str, fibers: &[&str]) -> Wait {
    Wait {
        fiber: fiber.to_owned(),
        name: Some(fiber.to_owned()),
        waits: true,
        seconds: 10.0,
        kind: kind.to_owned(),
        fibers: fibers.iter().map(|one| (*one).to_owned()).collect(),
        ..Wait::default()
    }
}

fn calling(fiber: &str, call: &str) -> Wait {
    Wait {
        calls: vec![call.to_owned()],
        method: format!("m{call}"),
        ..waiting(fiber, "call", &[])
    }
}

fn serving(mut wait: Wait, call: &str) -> Wait {
    wait.serves = Some(Serves {
        call: Some(call.to_owned()),
        ..Serves::default()
    });
    wait
}

fn alive(fiber: &str) -> Wait {
    Wait {
        open: true,
        waits_for: "sleep".to_owned(),
        ..waiting(fiber, "other", &[])
    }
}

fn process(pid: u32, fibers: Vec<Wait>) -> Process {
    Process {
        pid,
        name: format!("p{pid}.lua"),
        asked_seconds: 0.5,
        waits: Waits {
            fibers,
            ..Waits::default()
        },
    }
}

fn cycles(processes: &[Process]) -> Vec<Cycle> {
    Graph::new(processes).cycles()
}

fn names(cycle: &Cycle) -> Vec<&str> {
    cycle.fibers.iter().map(|one| one.fiber.as_str()).collect()
}

#[test]
fn two_fibers_that_wait_for_each_other_are_a_deadlock() {
    let a = waiting("a", "future", &["b"]);
    let b = waiting("b", "future", &["a"]);
    let found = cycles(&[process(1, vec![a, b, waiting("c", "mutex", &["a"])])]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].fibers.len(), found[0].others), (2, 1));
    assert!(
        found[0].text.contains("no wait in it has a time limit"),
        "{}",
        found[0].text
    );
}

#[test]
fn a_fiber_that_waits_for_itself_is_a_deadlock() {
    let found = cycles(&[process(1, vec![waiting("a", "future", &["a"])])]);
    assert_eq!(names(&found[0]), ["a"]);
    assert!(
        found[0].text.contains("waits for itself"),
        "{}",
        found[0].text
    );
}

#[test]
fn calls_lead_to_the_handlers_of_other_processes() {
    let one = process(
        1,
        vec![
            serving(calling("a", "1"), "0"),
            serving(waiting("d", "mutex", &["a"]), "3"),
        ],
    );
    let two = process(2, vec![serving(calling("b", "2"), "1")]);
    let three = process(3, vec![serving(calling("c", "3"), "2")]);
    let all = [one, two, three];
    let found = cycles(&all);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].fibers.len(), 4);
    for part in [
        "process 1 p1.lua",
        "process 2 p2.lua",
        "process 3 p3.lua",
        "a mutex that is locked by",
    ] {
        assert!(found[0].text.contains(part), "{}", found[0].text);
    }
    // Without one of them the answer may come.
    assert!(cycles(&all[..2]).is_empty());
}

#[test]
fn a_cycle_that_ends_in_a_call_is_a_sentence() {
    let handler = |wait: Wait, call: &str, method: &str| {
        let mut wait = serving(wait, call);
        if let Some(serves) = &mut wait.serves {
            serves.handler = format!("handler of {method}, called by tcp://127.0.0.1:1");
        }
        wait.place = format!("{method}.lua:3");
        wait
    };
    let one = process(1, vec![handler(calling("a", "1"), "2", "x.one")]);
    let two = process(2, vec![handler(calling("b", "2"), "1", "two")]);
    let text = &cycles(&[one, two])[0].text;
    assert_eq!(
        text.split("; for").next(),
        Some(
            "deadlock: the handler of 'two' (two.lua:3) of process 2 p2.lua waits for the answer of 'm2' from \
             process 1 p1.lua, whose handler (x.one.lua:3) waits for the answer of 'm1' from process 2 p2.lua, \
             whose handler (two.lua:3), the first one here, waits"
        )
    );
}

#[test]
fn one_live_holder_of_a_semaphore_is_enough() {
    let holders = |third: Wait| {
        vec![
            waiting("a", "semaphore", &["b", "c"]),
            waiting("b", "future", &["a"]),
            third,
        ]
    };
    assert!(cycles(&[process(1, holders(alive("c")))]).is_empty());
    let found = cycles(&[process(1, holders(waiting("c", "mutex", &["a"])))]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].fibers.len(), found[0].others), (2, 1));
    assert!(
        found[0]
            .text
            .contains("held by 2 fibers, one of them fiber"),
        "{}",
        found[0].text
    );
}

#[test]
fn a_queue_behind_a_live_holder_is_no_deadlock() {
    let mut fibers: Vec<Wait> = (0..100)
        .map(|n| waiting(&n.to_string(), "mutex", &["x"]))
        .collect();
    fibers.push(alive("x"));
    let processes = [process(1, fibers)];
    let graph = Graph::new(&processes);
    assert!(graph.cycles().is_empty() && !graph.is_undecided());
    let chains = graph.chains();
    assert_eq!(chains.len(), CHAINS_MAX);
    assert!(
        chains[0].text.contains("locked by fiber 'x'"),
        "{}",
        chains[0].text
    );
    assert!(
        chains[0]
            .text
            .contains("which waits for the end of a sleep"),
        "{}",
        chains[0].text
    );
}

#[test]
fn a_wait_that_began_during_the_collection_does_not_count_yet() {
    let mut young = waiting("b", "future", &["a"]);
    young.seconds = 0.2;
    let processes = [process(1, vec![waiting("a", "future", &["b"]), young])];
    let graph = Graph::new(&processes);
    assert!(graph.cycles().is_empty() && graph.is_undecided());
}

#[test]
fn a_time_limit_ends_a_deadlock() {
    let mut limited = waiting("b", "future", &["a"]);
    limited.left_seconds = Some(3.2);
    let found = cycles(&[process(1, vec![waiting("a", "future", &["b"]), limited])]);
    assert_eq!(found[0].ends_in_seconds, Some(3.2));
    assert!(
        found[0].text.ends_with("ends by a timeout in 3.2 s"),
        "{}",
        found[0].text
    );
}

#[test]
fn fibers_of_the_same_number_on_other_loops_and_processes_are_others() {
    let mut other_loop = waiting("b", "future", &["a"]);
    other_loop.loop_id = 7;
    let here = waiting("a", "future", &["b"]);
    assert!(cycles(&[process(1, vec![here.clone(), other_loop])]).is_empty());
    let there = waiting("b", "future", &["a"]);
    assert!(cycles(&[process(1, vec![here]), process(2, vec![there])]).is_empty());
}

#[test]
fn two_deadlocks_are_two() {
    let pair = |a: &str, b: &str| [waiting(a, "mutex", &[b]), waiting(b, "mutex", &[a])];
    let fibers = pair("a", "b").into_iter().chain(pair("c", "d"));
    assert_eq!(cycles(&[process(1, fibers.collect())]).len(), 2);
}

#[test]
fn a_very_long_cycle_is_found() {
    let count = 50_000;
    let ring = (0..count).map(|n: usize| {
        let next = ((n + 1) % count).to_string();
        waiting(&n.to_string(), "future", &[&next])
    });
    let found = cycles(&[process(1, ring.collect())]);
    assert_eq!(found[0].fibers.len(), count);
    assert!(found[0].text.len() < 4000);
}

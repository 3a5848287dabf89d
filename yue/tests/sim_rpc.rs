//! Remote calls under simulated faults: partitions, resets, crashes, freezes, short reads and writes. No request runs
//! twice, an answered one has run, and one whose error allows a retry has not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue::rpc::typed::{Client, Server};
use yue::sim::{Control, Failure, Link, Report, Sim, search};
use yue::{JoinSet, sleep};

/// The record of the events themselves, which no host knows.
#[derive(Default)]
struct Journal {
    /// The number of times that each request ran, by client and number.
    runs: HashMap<(u64, u64), u32>,
    answered: Vec<(u64, u64)>,
    /// Requests that failed with an error that allows a retry.
    retryable: Vec<(u64, u64)>,
    failed: usize,
}

type Shared = Arc<Mutex<Journal>>;

fn server(journal: Shared) -> impl Fn() + Send + Sync {
    move || {
        let journal = journal.clone();
        let run = move |(client, number): (u64, u64)| {
            *journal
                .lock()
                .unwrap()
                .runs
                .entry((client, number))
                .or_default() += 1;
            if number % 3 == 0 {
                let _ = sleep(Duration::from_millis(number % 40));
            }
            Ok(number)
        };
        let server = Server::new().handler("run", run);
        let listener = server.listen("tcp://0.0.0.0:7000").unwrap();
        let _ = yue::wait_for_shutdown();
        drop(listener);
    }
}

const CALLS: u64 = 60;

fn client(journal: Shared) -> impl Fn(usize) + Send + Sync {
    move |client| {
        let client = client as u64;
        let server = std::rc::Rc::new(Client::open("tcp://server:7000").unwrap());
        let mut calls = JoinSet::new();
        for number in 0..CALLS {
            let (server, journal) = (server.clone(), journal.clone());
            calls.spawn(move || {
                let answer = server.call::<_, u64>("run", (client, number));
                let mut journal = journal.lock().unwrap();
                match answer {
                    Ok(answer) => {
                        assert_eq!(answer, number, "the answer of another call");
                        journal.answered.push((client, number));
                    }
                    Err(error) if error.is_retryable() => {
                        journal.retryable.push((client, number));
                    }
                    Err(_) => journal.failed += 1,
                }
            });
            sleep(Duration::from_millis(30)).unwrap();
        }
        while calls.join_next().is_ok_and(|one| one.is_some()) {}
    }
}

/// Ten faults at random times.
fn disturb(sim: &Control) {
    for _ in 0..10 {
        sleep(Duration::from_millis(20 + sim.below(400))).unwrap();
        let client = format!("client{}", 1 + sim.below(2));
        match sim.below(6) {
            0 => {
                sim.partition("server", &client);
                sleep(Duration::from_millis(sim.below(3_000))).unwrap();
                sim.heal("server", &client);
            }
            1 => {
                sim.partition_one_way("server", &client);
                sleep(Duration::from_millis(sim.below(3_000))).unwrap();
                sim.heal("server", &client);
            }
            2 => sim.reset_connections("server", &client),
            3 => {
                sim.crash("server");
                sleep(Duration::from_millis(sim.below(500))).unwrap();
                sim.restart("server");
            }
            4 => {
                sim.freeze("server");
                sleep(Duration::from_millis(sim.below(2_000))).unwrap();
                sim.thaw("server");
            }
            _ => sim.set_short_transfers("server", 0.3, 0.3),
        }
    }
}

fn calls_under_faults(seed: u64) -> Result<Report, Failure> {
    let journal = Shared::default();
    let link = Link {
        latency: Duration::from_millis(5),
        jitter: Duration::from_millis(10),
        loss: 0.01,
        ..Link::default()
    };
    let seen = journal.clone();
    Sim::new(seed)
        .link(link)
        .host("server", server(journal.clone()))
        .hosts("client", 2, client(journal))
        .run(move |sim| {
            let watched = seen.clone();
            sim.always("no request runs twice", move || {
                watched.lock().unwrap().runs.values().all(|runs| *runs == 1)
            });
            let watched = seen.clone();
            sim.always("an answered request has run", move || {
                let journal = watched.lock().unwrap();
                journal
                    .answered
                    .iter()
                    .all(|id| journal.runs.contains_key(id))
            });
            let watched = seen.clone();
            sim.eventually(
                "every call has ended",
                Duration::from_secs(300),
                move || {
                    let journal = watched.lock().unwrap();
                    let ended = journal.answered.len() + journal.retryable.len() + journal.failed;
                    ended as u64 == 2 * CALLS
                },
            );
            disturb(sim);
            sleep(Duration::from_secs(400)).unwrap();
            let journal = seen.lock().unwrap();
            let wrong = journal
                .retryable
                .iter()
                .find(|id| journal.runs.contains_key(*id));
            assert!(
                wrong.is_none(),
                "{wrong:?} failed with an error that allows a retry, and ran"
            );
        })
}

#[test]
fn requests_run_at_most_once_whatever_happens_to_hosts_and_links() {
    search(0..200, calls_under_faults);
}

//! Faults as schedules: a planted fault is found among many, shrunk, shown, and repeated from what was printed.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue::rpc::typed::{Client, Server};
use yue::sim::{Chaos, Failure, Fault, Report, Schedule, Sim, note, search};
use yue::sleep;

/// A store that keeps values in memory alone. The planted fault: after a crash it asks no other store for them.
fn store() {
    let values: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let (written, read) = (values.clone(), values);
    let write = move |(key, value): (u64, u64)| {
        written.lock().unwrap().insert(key, value);
        Ok(())
    };
    let read = move |key: u64| Ok(read.lock().unwrap().get(&key).copied());
    let server = Server::new().handler("write", write).handler("read", read);
    let listener = server.listen("tcp://0.0.0.0:7000").unwrap();
    let _ = yue::wait_for_shutdown();
    drop(listener);
}

/// Writes a value to both stores, and reads it until neither has it any more.
fn writer(lost: Arc<AtomicU64>) -> impl Fn() + Send + Sync {
    move || {
        let stores = ["store1", "store2"];
        let stores = stores.map(|name| Client::open(&format!("tcp://{name}:7000")).unwrap());
        for store in &stores {
            while store.call::<_, ()>("write", (1u64, 42u64)).is_err() {
                if yue::is_cancelled() {
                    return;
                }
            }
        }
        note("written to both");
        while sleep(Duration::from_millis(700)).is_ok() {
            let read = |store: &Client| store.call::<_, Option<u64>>("read", 1u64);
            let answers = stores.each_ref().map(read);
            if answers.iter().all(|answer| matches!(answer, Ok(None))) {
                note("neither <store> has it & it's \"lost\"");
                lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

fn lost_update(seed: u64) -> Result<Report, Failure> {
    let lost = Arc::new(AtomicU64::new(0));
    let seen = lost.clone();
    Sim::new(seed)
        .host("store1", store)
        .host("store2", store)
        .host("writer", writer(lost))
        .chaos(
            Chaos::level(4)
                .within(Duration::from_secs(20))
                .hosts(["store1", "store2"]),
        )
        .run(move |sim| {
            sim.always("no value is lost", move || {
                seen.load(Ordering::Relaxed) == 0
            });
            sleep(Duration::from_secs(40)).unwrap();
        })
}

/// The search for the planted fault; it fails, so it runs only below the test that expects this.
#[test]
fn planted() {
    if std::env::var_os("YUE_TEST_PLANTED").is_some() {
        search(0..200, lost_update);
    }
}

fn run_planted(variables: &[(&str, &str)]) -> (Output, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["planted", "--exact", "--nocapture"])
        .env("YUE_TEST_PLANTED", "1");
    command
        .envs(variables.iter().copied())
        .env("RUST_BACKTRACE", "0");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

#[test]
fn a_planted_fault_is_found_shrunk_shown_and_repeated() {
    let folder = std::env::temp_dir().join(format!("yue-sim-chaos-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (trace, timeline) = (folder.join("trace"), folder.join("timeline.html"));
    let files = [
        ("YUE_SIM_TRACE", trace.to_str().unwrap()),
        ("YUE_SIM_TIMELINE", timeline.to_str().unwrap()),
    ];
    let (output, text) = run_planted(&files);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("no value is lost"), "{text}");
    let faults: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("    ") && line.contains(" crash "))
        .collect();
    assert_eq!(faults.len(), 2, "{text}");
    assert!(text.contains("the faults that matter, 2 of "), "{text}");
    assert!(
        text.lines()
            .all(|line| line.len() <= 80 || line.contains("YUE_SIM")),
        "{text}"
    );
    for fault in &faults {
        let parsed: Schedule = fault.parse().unwrap();
        assert!(matches!(parsed.faults()[0].fault, Fault::Crash(_)));
    }
    let written = std::fs::read_to_string(&trace).unwrap();
    for part in [
        "*** crash store1",
        "*** restart store2",
        "writer -> store1",
        "sent",
        "FAILED",
    ] {
        assert!(written.contains(part), "{part} in\n{written}");
    }
    let page = std::fs::read_to_string(&timeline).unwrap();
    assert!(page.contains("<svg") && page.contains("no value is lost"));
    assert!(page.contains("neither &lt;store&gt; has it &amp; it&#39;s &quot;lost&quot;"));
    // What was printed repeats it: the same failure at the same time.
    let again = text
        .lines()
        .find(|line| line.starts_with("run it again:"))
        .unwrap();
    let seed = again
        .split("YUE_SIM_SEED=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let faults = again
        .split("YUE_SIM_FAULTS='")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    let (output, repeated) = run_planted(&[("YUE_SIM_SEED", seed), ("YUE_SIM_FAULTS", faults)]);
    assert!(!output.status.success(), "{repeated}");
    let failure = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("seed "))
            .map(str::to_owned)
    };
    assert_eq!(failure(&text), failure(&repeated), "{repeated}");
    // Without a fault nothing happens, nor with one of the two.
    let one = faults.split(';').next().unwrap();
    for few in ["", one] {
        let (output, text) = run_planted(&[("YUE_SIM_SEED", seed), ("YUE_SIM_FAULTS", few)]);
        assert!(output.status.success(), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Thirty hosts, and more records than anybody can look at.
fn crowd(seed: u64) -> Result<Report, Failure> {
    let bot = |number: usize| {
        let server = Client::open("tcp://server:7000").unwrap();
        while sleep(Duration::from_millis(40 + number as u64)).is_ok() {
            let _ = server.call::<_, Option<u64>>("read", 1u64);
        }
    };
    Sim::new(seed)
        .host("server", store)
        .hosts("a-bot-with-a-long-name", 28, bot)
        .chaos(Chaos::level(4).within(Duration::from_secs(10)))
        .run(|_| sleep(Duration::from_secs(15)).unwrap())
}

#[test]
fn the_timeline_of_a_long_trace_is_bounded() {
    let report = crowd(1).unwrap();
    assert!(report.trace.len() > 20_000, "{report:?}");
    let page = report.timeline();
    assert!((200_000..1_500_000).contains(&page.len()), "{}", page.len());
    assert!(page.contains("messages are not drawn"));
    let crashes = report
        .schedule
        .faults()
        .iter()
        .filter(|one| matches!(one.fault, Fault::Crash(_)));
    assert!(crashes.count() > 0 && page.contains("area crash"));
}

/// A datagram socket that answers.
fn echo() {
    let socket = yue::net::UdpSocket::bind("0.0.0.0:9").unwrap();
    let mut bytes = [0; 16];
    while let Ok((count, from)) = socket.recv_from(&mut bytes) {
        let _ = socket.send_to(&bytes[..count], from);
    }
}

/// Returns the tenths of seconds at which the server answers, with these faults.
fn answered(faults: &str) -> Vec<u64> {
    let schedule: Schedule = faults.parse().unwrap();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let seen = answered.clone();
    Sim::new(1)
        .host("server", echo)
        .schedule(schedule)
        .run(move |_| {
            let socket = yue::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("server:9").unwrap();
            let limit = Duration::from_millis(50);
            socket.set_read_timeout(Some(limit)).unwrap();
            for tenth in 0..50 {
                let began = yue::scheduler::now();
                socket.send(&[tenth as u8]).unwrap();
                let mut bytes = [0; 16];
                // An answer to an earlier question does not count.
                while socket.recv(&mut bytes).is_ok() {
                    if bytes[0] == tenth as u8 {
                        seen.lock().unwrap().push(tenth);
                        break;
                    }
                }
                let next = began.saturating_add(Duration::from_millis(100));
                yue::scheduler::sleep_until(next).unwrap();
            }
        })
        .unwrap();
    answered.lock().unwrap().clone()
}

#[test]
fn what_overlapping_faults_change_is_undone_when_the_last_one_ends() {
    let without = |range: std::ops::Range<u64>| {
        (0..50)
            .filter(|tenth| !range.contains(tenth))
            .collect::<Vec<_>>()
    };
    let all: Vec<u64> = (0..50).collect();
    assert_eq!(answered(""), all);
    for faults in [
        "0.95s partition scenario server until 1.95s; 1.5s partition server scenario until 2.95s",
        "0.95s partition scenario -> server until 2.95s; 1.5s partition server scenario until 1.95s",
        "0.95s crash server until 1.95s; 1.5s crash server until 2.95s",
        "0.95s crash server until 2.95s; 1.5s freeze server until 1.95s; 2s freeze server until 4s",
        "0.95s link server scenario latency=60ms until 1.95s; 1.5s link scenario server latency=1ms loss=1 until 2.95s",
    ] {
        assert_eq!(answered(faults), without(10..30), "{faults}");
    }
    // A fault without an end stays.
    assert_eq!(answered("0.95s crash server"), (0..10).collect::<Vec<_>>());
    assert_eq!(answered("0.95s freeze server until 2.95s"), without(10..30));
}

#[test]
fn a_schedule_of_other_hosts_is_an_error_that_names_those_there_are() {
    for (faults, problem) in [
        (
            "1s crash serve",
            "there is no host named serve; there are scenario, server",
        ),
        (
            "1s partition server nobody until 2s",
            "there is no host named nobody",
        ),
        ("1s crash scenario", "'crash scenario' is impossible"),
    ] {
        let schedule: Schedule = faults.parse().unwrap();
        let failure = Sim::new(1)
            .host("server", echo)
            .schedule(schedule)
            .run(|_| {})
            .unwrap_err();
        assert!(failure.to_string().contains(problem), "{failure}");
    }
}

#[test]
fn the_trace_says_in_a_line_what_happened_and_repeats_nothing() {
    let schedule: Schedule = "2.5s partition scenario server until 3.5s".parse().unwrap();
    let report = Sim::new(1)
        .host("server", echo)
        .schedule(schedule)
        .run(|_| {
            let socket = yue::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("server:9").unwrap();
            for number in 0..40 {
                socket.send(format!("{number}").as_bytes()).unwrap();
                sleep(Duration::from_millis(100)).unwrap();
            }
            note("done\n\x1b[1m");
        })
        .unwrap();
    let text = report.trace_text();
    let expected = "    0.000000s  scenario -> server  udp 9           sent 1 B
    0.000200s  scenario -> server  udp 9           arrived 1 B
    0.000200s  server -> scenario  udp 9           sent 1 B
    0.000400s  server -> scenario  udp 9           arrived 1 B
           …  the last 4 lines 24 times more, until 2.400";
    assert!(text.starts_with(expected), "{text}");
    let lost = "    2.500018s  scenario -> server  udp 9           LOST 2 B";
    assert!(text.lines().any(|line| line == lost), "{text}");
    assert!(
        text.contains("\n    2.500000s  *** partition scenario server\n"),
        "{text}"
    );
    assert!(text.contains("  *** heal scenario server\n"), "{text}");
    assert!(text.ends_with("  scenario: done  [1m\n"), "{text}");
    assert!(
        text.lines().count() < 30 && text.lines().all(|line| line.len() <= 80),
        "{text}"
    );
    assert_eq!(report.last_lines(2).lines().count(), 2);
}

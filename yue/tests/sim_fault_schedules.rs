//! Faults of disks and clocks as lines of a schedule: they begin and end, are restored, shrunk and shown.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue::fs;
use yue::sim::{Chaos, DiskFaults, DiskLatency, Failure, Report, Schedule, Search, Sim};
use yue::sleep;

/// Writes a file every tenth of a second; returns the tenths at which it succeeds and is quick, and the report.
fn written(faults: &str) -> (Vec<u64>, Report) {
    let schedule: Schedule = faults.parse().unwrap();
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = written.clone();
    let main = move || {
        for tenth in 0..50 {
            let until = Duration::from_millis(100 * tenth + 10);
            let at = yue::scheduler::now();
            let begin = yue::scheduler::Instant::from_nanos(1_000_000_000);
            if at.saturating_since(begin) > until {
                continue; // It was started again, or was held up.
            }
            let next = begin.saturating_add(until);
            if yue::scheduler::sleep_until(next).is_err() {
                return;
            }
            // A new file takes space.
            let result = fs::write(format!("/{tenth}"), "text");
            let took = yue::scheduler::now().saturating_since(next);
            if result.is_ok() && took < Duration::from_millis(20) {
                seen.lock().unwrap().push(tenth);
            }
        }
    };
    let run = Sim::new(1).host("db", main).schedule(schedule);
    let report = run.run(|_| sleep(Duration::from_secs(6)).unwrap()).unwrap();
    let written = written.lock().unwrap().clone();
    (written, report)
}

fn without(range: std::ops::Range<u64>) -> Vec<u64> {
    (0..50).filter(|tenth| !range.contains(tenth)).collect()
}

#[test]
fn faults_of_a_disk_begin_and_end_at_their_times() {
    assert_eq!(written("").0, without(0..0));
    for faults in [
        "0.95s disk-faults db write=1 until 1.95s",
        "0.95s disk-faults db no-space=1 until 1.95s",
        "0.95s disk-full db until 1.95s",
        "0.95s disk-latency db operation=40ms until 1.95s",
        "0.95s crash db until 1.95s",
        "0.95s crash-at-operation db 1 until 1.95s",
        // Two operations for each file.
        "0.55s crash-at-operation db 9 until 1.95s",
    ] {
        assert_eq!(written(faults).0, without(10..20), "{faults}");
    }
    // The first operation that hangs ends late, and those that it has held up do not happen.
    assert_eq!(
        written("0.95s freeze-disk db until 1.95s").0,
        without(10..20)
    );
}

#[test]
fn overlapping_faults_of_a_disk_end_when_the_last_one_ends() {
    for faults in [
        "0.95s disk-faults db write=1 until 1.95s; 1.5s disk-faults db write=1 until 2.95s",
        "0.95s disk-faults db write=1 until 2.95s; 1.5s disk-faults db write=1 open=1 until 1.95s",
        "0.95s disk-full db until 1.95s; 1.5s disk-full db until 2.95s",
        "0.95s freeze-disk db until 1.95s; 1.5s freeze-disk db until 2.95s",
        "0.95s crash db until 1.95s; 1.5s crash-at-operation db 1 until 2.95s",
        "0.95s crash-at-operation db 1 until 2.95s; 1.5s crash db until 1.95s",
    ] {
        assert_eq!(written(faults).0, without(10..30), "{faults}");
    }
}

#[test]
fn a_crash_at_an_operation_that_is_not_reached_does_not_happen() {
    let (all, report) = written("0.95s crash-at-operation db 3 until 1.05s");
    assert_eq!(all, without(0..0));
    assert!(!report.trace_text().contains("*** crash db"));
    // Nor does it when the operation is reached afterwards, or the host has crashed in between.
    let (all, _) = written("0.95s crash-at-operation db 9 until 1.05s; 2.95s crash db until 3.05s");
    assert_eq!(all, without(30..31));
    let (all, _) = written("0.95s crash-at-operation db 9; 0.96s crash db until 0.97s");
    assert_eq!(all, without(0..0));
}

#[test]
fn a_fault_that_ends_restores_what_the_scenario_has_set() {
    let schedule: Schedule =
        "1s disk-faults db read=0.5 until 2s; 1s disk-latency db operation=1s until 2s"
            .parse()
            .unwrap();
    let errors = Arc::new(AtomicU64::new(0));
    let slow = Arc::new(AtomicU64::new(0));
    let (seen_errors, seen_slow) = (errors.clone(), slow.clone());
    let main = move || {
        while sleep(Duration::from_millis(100)).is_ok() {
            let before = yue::scheduler::now();
            if fs::write("/file", "text").is_err() {
                seen_errors.fetch_add(1, Ordering::Relaxed);
            }
            let took = yue::scheduler::now().saturating_since(before);
            if took >= Duration::from_millis(50) {
                seen_slow.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let run = Sim::new(1).host("db", main).schedule(schedule);
    let run = run.run(move |sim| {
        let faults = DiskFaults {
            write: 1.0,
            ..DiskFaults::default()
        };
        let latency = DiskLatency {
            operation: Duration::from_millis(50),
            ..DiskLatency::default()
        };
        sim.set_disk_faults("db", faults);
        sim.set_disk_latency("db", latency);
        sleep(Duration::from_millis(2_900)).unwrap();
        let before = (errors.load(Ordering::Relaxed), slow.load(Ordering::Relaxed));
        sleep(Duration::from_secs(2)).unwrap();
        let after = (errors.load(Ordering::Relaxed), slow.load(Ordering::Relaxed));
        assert!(after.0 > before.0 + 5, "{before:?} {after:?}");
        assert!(after.1 > before.1 + 5, "{before:?} {after:?}");
    });
    run.unwrap();
}

#[test]
fn a_clock_jumps_once_and_stays() {
    let schedule: Schedule = "1s jump-clock scenario -3600s; 2s jump-clock scenario 90s"
        .parse()
        .unwrap();
    let run = Sim::new(1).schedule(schedule).run(|_| {
        let wall = || yue::scheduler::simulation::wall_clock();
        let begin = wall();
        let seconds = |time: std::time::SystemTime| match time.duration_since(begin) {
            Ok(ahead) => ahead.as_secs() as i64,
            Err(behind) => -(behind.duration().as_secs() as i64),
        };
        sleep(Duration::from_millis(1_500)).unwrap();
        assert_eq!(seconds(wall()), -3_598);
        sleep(Duration::from_secs(1)).unwrap();
        assert_eq!(seconds(wall()), -3_507);
    });
    let report = run.unwrap();
    let text = report.trace_text();
    assert!(
        text.contains("    1.000000s  *** jump-clock scenario -3600s\n"),
        "{text}"
    );
}

#[test]
fn faults_of_disks_are_in_the_trace_and_on_the_timeline() {
    let (_, report) = written(
        "1s disk-faults db write=0.5 sync=1 until 2s; 2s disk-full db until 3s; 3s freeze-disk db until 3.2s; \
         3.3s disk-latency db operation=20ms until 3.4s; 3.5s crash-at-operation db 2 until 4s; \
         4s network-faults db socket=0.5 until 4.1s",
    );
    let (text, page) = (report.trace_text(), report.timeline());
    for line in [
        "*** disk-faults db write=0.5 sync=1",
        "*** end disk-faults db",
        "*** disk-full db",
        "*** end disk-full db",
        "*** freeze-disk db",
        "*** thaw-disk db",
        "*** disk-latency db operation=20ms jitter=80us sync=1ms",
        "*** disk-latency db operation=20us jitter=80us sync=1ms",
        "*** crash-at-operation db 2",
        "*** crash db",
        "*** restart db",
        "*** network-faults db socket=0.5",
    ] {
        assert!(text.contains(&format!("  {line}\n")), "{line} in\n{text}");
    }
    for area in ["disk-faults", "disk-full", "freeze-disk", "disk-latency"] {
        assert!(page.contains(&format!("area {area}\"")), "{area}");
    }
    assert!(page.contains("crash-at-operation db 2"));
}

#[test]
fn a_host_that_a_fault_stops_is_not_the_scenario() {
    for fault in ["crash-at-operation scenario 1", "freeze scenario"] {
        let schedule: Schedule = format!("1s {fault}").parse().unwrap();
        let failure = Sim::new(1).schedule(schedule).run(|_| {}).unwrap_err();
        let expected = format!("'{fault}' is impossible");
        assert!(failure.to_string().contains(&expected), "{failure}");
    }
}

/// A host that replaces its settings, and forgets the sync of the new file: a crash after the rename may lose the text.
fn careless(seed: u64) -> Result<Report, Failure> {
    let save = |number: u64| -> std::io::Result<()> {
        fs::write("/settings.new", format!("number = {number}"))?;
        fs::rename("/settings.new", "/settings")?;
        fs::File::open("/")?.sync_all()
    };
    let main = move || {
        let settings = fs::read("/settings");
        // A disk with errors may refuse to read. An empty file is a loss.
        if settings.is_ok_and(|settings| settings.is_empty()) {
            panic!("the settings are lost");
        }
        for number in 0.. {
            let _ = save(number);
            if sleep(Duration::from_millis(50)).is_err() {
                return;
            }
        }
    };
    Sim::new(seed)
        .host("player", main)
        .host("other", || {})
        .file("player", "/settings", "number = 0")
        .chaos(Chaos::level(3).within(Duration::from_secs(10)))
        .run(|_| sleep(Duration::from_secs(15)).unwrap())
}

#[test]
fn chaos_finds_what_a_disk_can_lose_and_the_fault_that_matters_is_left() {
    let found = Search::new(0..100).run(careless).unwrap_err();
    assert!(
        found.failure.to_string().contains("the settings are lost"),
        "{found:?}"
    );
    let faults = found.failure.report.schedule.to_string();
    assert_eq!(found.failure.report.schedule.len(), 1, "{faults}");
    assert!(faults.contains(" crash"), "{faults}");
    // From its line, it happens again.
    let again = Search::parse(&found.seed.to_string()).unwrap();
    let again = again
        .faults(faults.parse().unwrap())
        .run(careless)
        .unwrap_err();
    assert_eq!(again.failure.to_string(), found.failure.to_string());
}

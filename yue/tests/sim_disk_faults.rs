//! Faults of simulated disks, clocks and sockets, and crashes at a chosen operation.

use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue::fs::{self, File};
use yue::sim::{DiskFaults, DiskLatency, Sim};
use yue::{sleep, spawn};

// -- Crashes and failures at each operation ---------------------------------------------------------------------------

#[test]
fn a_crash_at_each_operation_ends_the_program_there() {
    let run = |nth: u64| {
        let reached = Arc::new(AtomicU64::new(0));
        let store = reached.clone();
        let main = move || {
            sleep(Duration::from_secs(1)).unwrap();
            for number in 1..=5 {
                let written = fs::write(format!("/{number}"), "x");
                if written.is_ok() {
                    store.store(number, Ordering::Relaxed);
                }
            }
        };
        let run = Sim::new(nth).host("db", main).run(move |sim| {
            sim.crash_at_operation("db", nth);
            sleep(Duration::from_secs(10)).unwrap();
            assert!(!sim.is_running("db"));
            // Each file takes an opening and a write.
            assert_eq!(sim.disk_operations("db"), nth.min(10));
            assert_eq!(reached.load(Ordering::Relaxed), (nth - 1) / 2);
            sim.restart("db");
            sleep(Duration::from_secs(10)).unwrap();
            assert_eq!(reached.load(Ordering::Relaxed), 5);
        });
        run.unwrap();
    };
    (1..=10).for_each(run);
}

#[test]
fn a_failure_at_an_operation_is_an_error_of_that_one() {
    let run = Sim::new(1).host("other", || {}).run(|sim| {
        sim.fail_at("scenario", 2);
        let mut file = File::create("/file").unwrap();
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(5));
        file.write_all(b"y").unwrap();
        assert_eq!(sim.read_file("scenario", "/file").unwrap(), b"y");
    });
    run.unwrap();
}

#[test]
fn a_failed_sync_loses_pages_that_the_next_one_does_not_write() {
    let lost = |seed| {
        let run = Sim::new(seed).run(|sim| {
            let mut file = File::create("/file").unwrap();
            let other = File::options().write(true).open("/file").unwrap();
            File::open("/").unwrap().sync_all().unwrap();
            file.write_all(b"text").unwrap();
            sim.set_disk_faults(
                "scenario",
                DiskFaults {
                    sync: 1.0,
                    ..DiskFaults::default()
                },
            );
            assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5));
            sim.set_disk_faults("scenario", DiskFaults::default());
            // Each open file hears of it once.
            file.sync_all().unwrap();
            assert_eq!(other.sync_all().unwrap_err().raw_os_error(), Some(5));
            other.sync_all().unwrap();
            assert_eq!(fs::read("/file").unwrap(), b"text");
            assert_eq!(
                sim.durable_files("scenario")[std::path::Path::new("/file")],
                b"text"
            );
        });
        run.is_err()
    };
    let lost = (0..100).filter(|seed| lost(*seed)).count();
    assert!((20..90).contains(&lost), "{lost}");
}

#[test]
fn faults_come_as_often_as_they_should() {
    let run = Sim::new(9).run(|sim| {
        let faults = DiskFaults {
            read: 0.5,
            short_read: 0.5,
            short_write: 1.0,
            no_space: 0.2,
            ..DiskFaults::default()
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .open("/file")
            .unwrap();
        sim.set_disk_faults("scenario", faults);
        let (mut errors, mut full, mut short) = (0, 0, 0);
        for _ in 0..200 {
            match file.write_at(&[1; 100], 0) {
                Ok(count) => assert!((1..100).contains(&count)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull);
                    full += 1;
                }
            }
            match file.read_at(&mut [0; 100], 0) {
                Ok(count) => short += u32::from(count < 50),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(5));
                    errors += 1;
                }
            }
        }
        assert!((60..140).contains(&errors), "{errors}");
        assert!((15..70).contains(&full), "{full}");
        assert!((15..80).contains(&short), "{short}");
        // Loops over short transfers still get everything.
        sim.set_disk_faults(
            "scenario",
            DiskFaults {
                short_read: 1.0,
                short_write: 1.0,
                ..DiskFaults::default()
            },
        );
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(&[7; 1000]).unwrap();
        file.rewind().unwrap();
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, [7; 1000]);
    });
    run.unwrap();
}

#[test]
fn a_full_disk_takes_what_fits() {
    let run = Sim::new(1).run(|sim| {
        sim.set_disk_capacity("scenario", 3 * 4096);
        let mut file = File::create("/file").unwrap();
        assert_eq!(file.write(&[1; 20_000]).unwrap(), 3 * 4096);
        assert_eq!(file.write(&[1]).unwrap_err().kind(), ErrorKind::StorageFull);
        // What is there may be changed, and space that is freed may be used.
        file.write_all_at(&[2; 100], 4000).unwrap();
        file.set_len(4096).unwrap();
        fs::write("/other", [3; 8192]).unwrap();
        let full = fs::write("/third", "x").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let open = File::open("/other").unwrap();
        fs::remove_file("/other").unwrap();
        assert!(fs::write("/third", "x").is_err());
        drop(open);
        fs::write("/third", "x").unwrap();
    });
    run.unwrap();
}

#[test]
fn a_frozen_disk_holds_its_operations_and_a_slow_one_takes_its_time() {
    let run = Sim::new(1).run(|sim| {
        sim.freeze_disk("scenario");
        let writer = spawn(|| fs::write("/file", "x"));
        sleep(Duration::from_secs(60)).unwrap();
        assert!(sim.files("scenario").is_empty());
        sim.thaw_disk("scenario");
        writer.join().unwrap().unwrap();
        let slow = DiskLatency {
            operation: Duration::from_secs(1),
            ..DiskLatency::default()
        };
        sim.set_disk_latency("scenario", slow);
        let before = yue::scheduler::now();
        fs::metadata("/file").unwrap();
        assert!(yue::scheduler::now().saturating_since(before) >= Duration::from_secs(1));
    });
    run.unwrap();
    // A host whose disk hangs can crash.
    let run = Sim::new(1)
        .host("db", || drop(fs::write("/file", "x")))
        .run(|sim| {
            sim.freeze_disk("db");
            sleep(Duration::from_secs(1)).unwrap();
            assert!(sim.is_running("db"));
            sim.crash("db");
            sim.thaw_disk("db");
            sim.restart("db");
            sleep(Duration::from_secs(1)).unwrap();
            assert_eq!(sim.read_file("db", "/file").unwrap(), b"x");
        });
    run.unwrap();
}

#[test]
fn what_fibers_do_about_a_crash_does_not_reach_the_disk() {
    struct Farewell;
    impl Drop for Farewell {
        fn drop(&mut self) {
            let _ = fs::write("/farewell", "x");
        }
    }
    let main = || {
        let _farewell = Farewell;
        let _ = yue::wait_for_shutdown();
        assert!(fs::write("/farewell", "x").is_err());
    };
    let run = Sim::new(1).host("db", main).run(|sim| {
        sleep(Duration::from_secs(1)).unwrap();
        sim.crash("db");
        assert!(sim.files("db").is_empty());
        sim.restart("db");
    });
    run.unwrap();
}

// -- Clocks, the network's faults, watches ----------------------------------------------------------------------------

#[test]
fn a_jump_of_the_clock_is_seen_in_the_times_of_files() {
    let run = Sim::new(1).run(|sim| {
        fs::write("/one", "").unwrap();
        sim.jump_clock("scenario", -3_600_000);
        fs::write("/two", "").unwrap();
        let time = |path| fs::metadata(path).unwrap().modified().unwrap();
        let back = time("/one").duration_since(time("/two")).unwrap();
        assert!(back > Duration::from_secs(3590), "{back:?}");
        sim.jump_clock("scenario", 7_200_000);
        fs::write("/two", "x").unwrap();
        assert!(time("/two") > time("/one"));
    });
    run.unwrap();
}

#[test]
fn changes_are_reported_to_watchers() {
    use yue::inotify::{Events, Watcher};
    let run = Sim::new(1).run(|_| {
        let watcher = Watcher::new().unwrap();
        watcher.add("/tmp", Events::CHANGES).unwrap();
        let writer = spawn(|| {
            fs::write("/tmp/one", "x").unwrap();
            fs::rename("/tmp/one", "/tmp/two").unwrap();
            fs::remove_file("/tmp/two").unwrap();
        });
        let events: Vec<_> = (0..6).map(|_| watcher.next().unwrap()).collect();
        writer.join().unwrap();
        let expected = [
            (Events::CREATED, "one"),
            (Events::MODIFIED, "one"),
            (Events::WRITTEN, "one"),
            (Events::MOVED_FROM, "one"),
            (Events::MOVED_TO, "two"),
            (Events::REMOVED, "two"),
        ];
        for (event, (kind, name)) in events.iter().zip(expected) {
            assert_eq!(
                (event.events, event.name.as_deref()),
                (kind, Some(name.as_ref()))
            );
        }
        assert_eq!(events[3].cookie, events[4].cookie);
    });
    run.unwrap();
}

#[test]
fn calls_on_sockets_fail_as_often_as_they_should() {
    use yue::net::{TcpListener, TcpStream, UdpSocket};
    use yue::sim::NetworkFaults;
    let echo = || {
        let listener = TcpListener::bind("0.0.0.0:7000").unwrap();
        for stream in listener.incoming() {
            drop(stream.map(|mut stream| stream.write_all(b"x")));
        }
    };
    let run = Sim::new(1).host("server", echo).run(|sim| {
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        sim.set_network_faults(
            "server",
            NetworkFaults {
                accept: 0.5,
                ..NetworkFaults::default()
            },
        );
        let answers = (0..100).filter(|_| {
            let stream = TcpStream::connect("server:7000");
            stream
                .and_then(|mut stream| stream.read_exact(&mut [0]))
                .is_ok()
        });
        let answers = answers.count();
        assert!((30..70).contains(&answers), "{answers}");
        sim.set_network_faults(
            "scenario",
            NetworkFaults {
                socket: 0.5,
                send: 0.5,
                ..NetworkFaults::default()
            },
        );
        let full = (0..100)
            .filter(|_| UdpSocket::bind("0.0.0.0:0").is_err())
            .count();
        assert!((30..70).contains(&full), "{full}");
        let lost = (0..100).filter(|_| {
            let sent = udp.send_to(b"x", "10.0.0.2:9");
            sent.is_err_and(|error| error.raw_os_error() == Some(105))
        });
        let lost = lost.count();
        assert!((30..70).contains(&lost), "{lost}");
    });
    run.unwrap();
}

#[test]
fn a_seed_repeats_its_disk() {
    let run = |seed| {
        let main = || {
            for number in 0..20 {
                let _ = fs::write(format!("/{number}"), "text");
            }
        };
        let report = Sim::new(seed).host("db", main).run(|sim| {
            sim.set_disk_faults(
                "db",
                DiskFaults {
                    write: 0.3,
                    ..DiskFaults::default()
                },
            );
            sleep(Duration::from_millis(5)).unwrap();
            sim.crash("db");
            let paths: Vec<_> = sim.files("db").into_iter().collect();
            yue::fs::write("/found", format!("{paths:?}")).unwrap();
        });
        report.unwrap()
    };
    assert_eq!(run(4), run(4));
    assert_ne!(run(4).digest, run(5).digest);
}

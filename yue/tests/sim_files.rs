//! Disks of simulated hosts: what a crash leaves of files, names and protocols.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue::fs::{self, File, OpenOptions};
use yue::sim::{Control, Failure, Sim};
use yue::sleep;

/// Seeds in which a protocol that is correct must hold.
const SEEDS: u64 = 1000;

fn sync_folder(path: &str) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The number of seeds for a protocol that is not.
const SEEDS_OF_FAILURES: u64 = 200;

/// The number of seeds whose run fails.
fn failing(seeds: u64, run: impl Fn(u64) -> Result<(), Failure>) -> usize {
    (0..seeds).filter(|seed| run(*seed).is_err()).count()
}

// -- A write-ahead log ------------------------------------------------------------------------------------------------

const LOG: &str = "/log";

/// Appends numbers, each in a record of a fixed length, and counts those that are safe.
fn write_log(syncs: bool, safe: &AtomicU64) -> io::Result<()> {
    let mut log = OpenOptions::new().append(true).create(true).open(LOG)?;
    sync_folder("/")?;
    for number in 1..=20u64 {
        log.write_all(format!("{number:<699}\n").as_bytes())?;
        if syncs {
            log.sync_data()?;
        }
        safe.store(number, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads the numbers up to the first record that is not whole.
fn read_log(bytes: &[u8]) -> u64 {
    let whole = bytes
        .chunks(700)
        .zip(1..)
        .take_while(|(record, number)| *record == format!("{number:<699}\n").as_bytes());
    whole.count() as u64
}

fn log_survives(seed: u64, syncs: bool) -> Result<(), Failure> {
    let safe = Arc::new(AtomicU64::new(0));
    let seen = safe.clone();
    let main = move || drop(write_log(syncs, &safe));
    let run = Sim::new(seed).host("db", main).run(move |sim| {
        sleep(Duration::from_micros(sim.below(30_000))).unwrap();
        sim.crash("db");
        let found = sim.read_file("db", LOG).unwrap_or_default();
        let (found, safe) = (read_log(&found), seen.load(Ordering::Relaxed));
        assert!(found >= safe, "{safe} were safe, {found} were found");
    });
    run.map(drop)
}

#[test]
fn a_log_that_is_synced_loses_nothing_and_one_that_is_not_does() {
    assert_eq!(failing(SEEDS, |seed| log_survives(seed, true)), 0);
    let failing = failing(SEEDS_OF_FAILURES, |seed| log_survives(seed, false));
    assert!(failing > 20, "{failing}");
}

// -- Write, sync, rename, sync the folder -----------------------------------------------------------------------------

/// The steps of the protocol that replaces a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Temporary,
    SyncFile,
    SyncFolder,
}

fn contents(version: u64) -> Vec<u8> {
    format!("{version:04}").repeat(400).into_bytes()
}

fn replace(version: u64, omitted: Option<Step>) -> io::Result<()> {
    let path = match omitted {
        Some(Step::Temporary) => "/data/state",
        _ => "/data/state.new",
    };
    let mut file = File::create(path)?;
    file.write_all(&contents(version))?;
    if omitted != Some(Step::SyncFile) {
        file.sync_all()?;
    }
    drop(file);
    if omitted != Some(Step::Temporary) {
        fs::rename(path, "/data/state")?;
    }
    if omitted != Some(Step::SyncFolder) {
        sync_folder("/data")?;
    }
    Ok(())
}

fn replacement_survives(seed: u64, omitted: Option<Step>) -> Result<(), Failure> {
    let safe = Arc::new(AtomicU64::new(0));
    let seen = safe.clone();
    let main = move || {
        for version in 1..5 {
            if replace(version, omitted).is_ok() {
                safe.store(version, Ordering::Relaxed);
            }
        }
    };
    let system = Sim::new(seed).host("db", main);
    let run = system
        .file("db", "/data/state", contents(0))
        .run(move |sim| {
            sleep(Duration::from_micros(sim.below(15_000))).unwrap();
            sim.crash("db");
            let (state, safe) = (
                sim.read_file("db", "/data/state").unwrap(),
                seen.load(Ordering::Relaxed),
            );
            let version = (0..5).find(|version| state == contents(*version));
            assert!(version.is_some(), "half a file: {} bytes", state.len());
            assert!(
                version >= Some(safe),
                "{safe} was safe, {version:?} was found"
            );
        });
    run.map(drop)
}

#[test]
fn a_file_that_is_replaced_by_renaming_is_never_half_and_each_step_is_needed() {
    assert_eq!(failing(SEEDS, |seed| replacement_survives(seed, None)), 0);
    for step in [Step::Temporary, Step::SyncFile, Step::SyncFolder] {
        let failing = failing(SEEDS_OF_FAILURES, |seed| {
            replacement_survives(seed, Some(step))
        });
        assert!(failing > 4, "{step:?}: {failing}");
    }
}

// -- What a crash may leave -------------------------------------------------------------------------------------------

/// Runs `main` on a host, crashes it when `main` has done all, and collects what `look` finds, for many seeds.
fn after_crash<T: Ord + Send + 'static>(
    main: fn() -> io::Result<()>,
    look: fn(&Control) -> T,
) -> BTreeSet<T> {
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    for seed in 0..200 {
        let store = found.clone();
        let body = move || {
            main().unwrap();
            let _ = yue::wait_for_shutdown();
        };
        Sim::new(seed)
            .host("db", body)
            .run(move |sim| {
                sleep(Duration::from_secs(1)).unwrap();
                sim.crash("db");
                store.lock().unwrap().insert(look(sim));
            })
            .unwrap();
    }
    Arc::into_inner(found).unwrap().into_inner().unwrap()
}

#[test]
fn a_write_is_lost_or_done_or_torn_between_sectors() {
    let main = || {
        let file = File::create("/file")?;
        file.write_all_at(&[b'a'; 1024], 0)?;
        file.sync_all()?;
        sync_folder("/")?;
        file.write_all_at(&[b'b'; 1024], 0)
    };
    let look = |sim: &Control| {
        let bytes = sim.read_file("db", "/file").unwrap();
        let sectors = bytes.chunks(512).map(|sector| {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a sector is torn"
            );
            char::from(sector[0])
        });
        sectors.collect::<String>()
    };
    let found = after_crash(main, look);
    assert_eq!(Vec::from_iter(found), ["aa", "ab", "ba", "bb"]);
}

#[test]
fn later_writes_may_survive_earlier_ones_and_a_length_may_survive_its_data() {
    let main = || {
        let file = File::create("/file")?;
        file.sync_all()?;
        sync_folder("/")?;
        file.write_all_at(b"1", 0)?;
        file.write_all_at(b"2", 1)
    };
    let look = |sim: &Control| {
        let bytes = sim.read_file("db", "/file").unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let found = after_crash(main, look);
    let expected = ["", "\0", "\0\0", "\u{0}2", "1", "1\0", "12"];
    assert_eq!(found, BTreeSet::from(expected.map(str::to_owned)));
}

#[test]
fn a_rename_between_folders_is_done_or_not() {
    let main = || {
        fs::create_dir("/one")?;
        fs::write("/one/file", "text")?;
        File::open("/one/file")?.sync_all()?;
        sync_folder("/one")?;
        sync_folder("/")?;
        // The second folder is not synced, and may disappear; the file must not disappear with it.
        fs::create_dir("/two")?;
        fs::rename("/one/file", "/two/file")
    };
    let look = |sim: &Control| {
        let files = sim.files("db");
        let paths = files.keys().map(|path| path.display().to_string());
        paths.collect::<Vec<_>>().join(" ")
    };
    let found = after_crash(main, look);
    assert_eq!(Vec::from_iter(found), ["/one/file", "/two/file"]);
}

#[test]
fn a_new_name_needs_a_sync_of_each_folder_above_it() {
    let main = || {
        fs::create_dir_all("/a/b")?;
        let mut file = File::create("/a/b/file")?;
        file.write_all(b"text")?;
        file.sync_all()?;
        sync_folder("/a/b")?;
        sync_folder("/a")
    };
    let look = |sim: &Control| {
        let durable = sim.durable_files("db");
        assert_eq!(durable, sim.files("db"));
        durable.len()
    };
    // The folder `/a` itself may be lost, with all that is in it.
    assert_eq!(Vec::from_iter(after_crash(main, look)), [0, 1]);
}

#[test]
fn a_process_that_ends_loses_nothing_and_its_files_are_there_after_a_restart() {
    let main = || {
        let count = fs::read("/count").map_or(0, |bytes| bytes.len());
        fs::write("/count", vec![b'x'; count + 1]).unwrap();
    };
    let run = Sim::new(3).host("db", main).run(|sim| {
        for expected in 1..4 {
            sleep(Duration::from_secs(1)).unwrap();
            assert!(!sim.is_running("db"));
            assert_eq!(
                sim.files("db")[std::path::Path::new("/count")].len(),
                expected
            );
            assert!(sim.durable_files("db").is_empty());
            sim.restart("db");
        }
    });
    run.unwrap();
}

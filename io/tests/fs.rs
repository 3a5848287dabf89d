//! Files and directories, on both drivers.

mod common;

use common::*;
use std::cell::Cell;
use std::io::{
    self, BufRead, BufReader, ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write,
};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::rc::Rc;
use std::time::Duration;
use yue_io::fs::{self, File, NamedTempFile, OpenOptions, Permissions, TempDir};
use yue_scheduler::*;

#[test]
fn files_of_every_size_are_read_whole() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        let mut buffer = Vec::new();
        for size in [
            0,
            1,
            65_535,
            65_536,
            65_537,
            4 << 20,
            (4 << 20) + 1,
            5_000_000,
            7,
        ] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{size}");
            let length = fs::read_into(&path, &mut buffer, size).unwrap();
            assert_eq!(length, Some(size));
            assert!(buffer[..size] == bytes, "{size}");
            if size > 0 {
                assert_eq!(fs::read_into(&path, &mut buffer, size - 1).unwrap(), None);
            }
        }
        // A directory, and nothing at all.
        assert_eq!(
            fs::read(dir.path()).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
        let missing = fs::read(dir.path().join("nothing")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_fiber_that_reads_what_is_cached_lets_others_run() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let turns = Rc::new(Cell::new(0));
        let counted = turns.clone();
        let other = spawn(move || {
            while yield_now().is_ok() {
                counted.set(counted.get() + 1);
            }
        });
        for _ in 0..2_000 {
            assert_eq!(fs::read(&path).unwrap(), b"text");
        }
        assert!(turns.get() > 5, "{}", turns.get());
        other.cancel();
        other.join().unwrap();
        // A cancelled fiber reads nothing.
        let stopped = spawn(move || {
            cancel(current_id());
            fs::read(&path).map(drop)
        });
        assert!(stopped.join().unwrap().is_err());
    });
}

#[test]
fn written_bytes_are_read_back() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        assert!(fs::read(&path).unwrap() == bytes);
        assert_eq!(fs::metadata(&path).unwrap().len(), 3_000_000);
        fs::write(&path, "short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        fs::write(&path, b"\xff").unwrap();
        let error = fs::read_to_string(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        fs::write(&path, "").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        // Files in /proc report a length of zero.
        assert!(
            fs::read_to_string("/proc/self/status")
                .unwrap()
                .contains("Name:")
        );
        assert_eq!(operations(), 0);
    });
}

#[test]
fn positional_reads_and_writes_leave_the_files_position() {
    on_each_driver(|| {
        let mut file = fs::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        assert_eq!(file.stream_position().unwrap(), 10);
        file.write_all_at(b"ab", 3).unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 2).unwrap();
        assert_eq!(&bytes, b"2ab5");
        // Neither call moved the position.
        assert_eq!(file.stream_position().unwrap(), 10);
        file.seek(SeekFrom::Start(8)).unwrap();
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "89");
        assert_eq!(file.read_at(&mut bytes, 100).unwrap(), 0);
        let beyond = file.read_exact_at(&mut bytes, 8).unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        let wrong = file.read_at(&mut bytes, u64::MAX).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
        file.write_all_at(b"!", 12).unwrap();
        file.rewind().unwrap();
        let mut all = Vec::new();
        file.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"012ab56789\0\0!");
    });
}

#[test]
fn appending_writes_at_the_current_end() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        let open = || OpenOptions::new().append(true).create(true).open(&path);
        let (mut one, mut other) = (open().unwrap(), open().unwrap());
        for n in 0..5 {
            writeln!(one, "one {n}").unwrap();
            writeln!(other, "other {n}").unwrap();
        }
        let lines: Vec<_> = BufReader::new(File::open(&path).unwrap())
            .lines()
            .collect::<io::Result<_>>()
            .unwrap();
        let wanted: Vec<_> = (0..5)
            .flat_map(|n| [format!("one {n}"), format!("other {n}")])
            .collect();
        assert_eq!(lines, wanted);
    });
}

#[test]
fn several_buffers_are_transferred_at_once() {
    on_each_driver(|| {
        let mut file = fs::tempfile().unwrap();
        let slices = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        assert_eq!(file.write_vectored(&slices).unwrap(), 7);
        file.rewind().unwrap();
        let (mut first, mut second) = ([0; 3], [0; 9]);
        let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(file.read_vectored(&mut buffers).unwrap(), 7);
        assert_eq!((&first, &second[..4]), (b"one", &b" two"[..]));
    });
}

#[test]
fn options_determine_how_a_file_is_opened() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        let kind = |options: &OpenOptions| options.open(&path).unwrap_err().kind();
        assert_eq!(kind(OpenOptions::new().read(true)), ErrorKind::NotFound);
        assert_eq!(kind(OpenOptions::new().write(true)), ErrorKind::NotFound);
        // Options that contradict each other.
        assert_eq!(kind(&OpenOptions::new()), ErrorKind::InvalidInput);
        assert_eq!(
            kind(OpenOptions::new().read(true).create(true)),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            kind(OpenOptions::new().append(true).truncate(true)),
            ErrorKind::InvalidInput
        );
        let mut made = File::create_new(&path).unwrap();
        made.write_all(b"text").unwrap();
        assert_eq!(
            kind(OpenOptions::new().write(true).create_new(true)),
            ErrorKind::AlreadyExists
        );
        let mut both = File::options().read(true).write(true).open(&path).unwrap();
        let mut text = String::new();
        both.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        // Opened for reading only, a file refuses writes; opened for writing only, reads.
        assert!(File::open(&path).unwrap().write(b"x").is_err());
        assert!(File::create(&path).unwrap().read(&mut [0]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"");
        let private = dir.path().join("private");
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .mode(0o600)
            .open(&private)
            .unwrap();
        let mode = fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::symlink(&private, dir.path().join("link")).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        let error = options.open(dir.path().join("link")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        let zero = File::open("a\0b").unwrap_err();
        assert_eq!(zero.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn length_space_times_and_permissions_are_set() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        let file = File::create_new(&path).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100);
        match file.allocate(0, 10_000) {
            Ok(()) => assert_eq!(file.metadata().unwrap().len(), 10_000),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
        let error = file.allocate(0, 0).unwrap_err();
        assert!([ErrorKind::InvalidInput, ErrorKind::Unsupported].contains(&error.kind()));
        file.set_len(3).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let times = fs::FileTimes::new().set_modified(time);
        file.set_times(times).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
        file.set_permissions(Permissions::from_mode(0o640)).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o640);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(mode(), 0o600);
        file.try_lock().unwrap();
        assert!(File::open(&path).unwrap().try_lock().is_err());
        file.unlock().unwrap();
        File::open(&path).unwrap().try_lock().unwrap();
    });
}

#[test]
fn directories_are_created_listed_and_removed() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let deep = dir.path().join("a/b/c");
        assert_eq!(
            fs::create_dir(&deep).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(
            fs::create_dir(&deep).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        // More than one batch.
        for n in 0..600 {
            fs::write(deep.join(n.to_string()), "").unwrap();
        }
        let mut names: Vec<u32> = fs::read_dir(&deep)
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        names.sort();
        assert_eq!(names, (0..600).collect::<Vec<_>>());
        assert_eq!(
            fs::remove_dir(&deep).unwrap_err().kind(),
            ErrorKind::DirectoryNotEmpty
        );
        fs::remove_dir_all(&deep).unwrap();
        fs::remove_dir(dir.path().join("a/b")).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);
        let error = fs::read_dir(deep).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn files_are_renamed_linked_copied_and_removed() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("one"), "1").unwrap();
        fs::write(at("two"), "2").unwrap();
        fs::rename(at("one"), at("two")).unwrap();
        assert_eq!(fs::read_to_string(at("two")).unwrap(), "1");
        assert!(!fs::exists(at("one")).unwrap());
        fs::hard_link(at("two"), at("hard")).unwrap();
        fs::symlink("two", at("soft")).unwrap();
        assert_eq!(fs::read_link(at("soft")).unwrap().to_str(), Some("two"));
        assert!(fs::symlink_metadata(at("soft")).unwrap().is_symlink());
        assert_eq!(
            fs::canonicalize(at("soft")).unwrap(),
            fs::canonicalize(at("two")).unwrap()
        );
        assert_eq!(fs::copy(at("soft"), at("copy")).unwrap(), 1);
        for name in ["two", "hard", "soft", "copy"] {
            fs::remove_file(at(name)).unwrap();
        }
        for error in [
            fs::remove_file(at("two")).unwrap_err(),
            fs::rename(at("two"), at("one")).unwrap_err(),
            fs::hard_link(at("two"), at("one")).unwrap_err(),
            fs::read(at("two")).unwrap_err(),
            fs::metadata(at("two")).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let directory = fs::remove_file(dir.path()).unwrap_err();
        assert_eq!(directory.kind(), ErrorKind::IsADirectory);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}

#[test]
fn temporary_files_are_removed() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let inner = TempDir::new_in(dir.path()).unwrap();
        let kept = TempDir::new_in(dir.path()).unwrap().keep();
        let path = inner.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        inner.close().unwrap();
        assert!(!path.exists() && kept.exists());
        let mut named = NamedTempFile::new_in(dir.path()).unwrap();
        assert!(named.path().exists());
        named.file().write_all(b"whole").unwrap();
        let goal = dir.path().join("goal");
        fs::write(&goal, "old").unwrap();
        drop(named.persist(&goal).unwrap());
        assert_eq!(fs::read_to_string(&goal).unwrap(), "whole");
        drop(NamedTempFile::new_in(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    });
}

#[test]
fn a_cancelled_fiber_starts_no_operation_and_finishes_one_in_progress() {
    on_each_driver(|| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        let late = path.clone();
        let fiber = spawn(move || {
            let before = File::open(&late);
            assert!(is_cancelled());
            (
                before.is_err(),
                fs::write(&late, "x").is_err(),
                fs::remove_file(&late).is_err(),
            )
        });
        fiber.cancel();
        assert_eq!(fiber.join().unwrap(), (true, true, true));
        assert!(!path.exists());
        for round in 0..100 {
            let target = path.clone();
            let fiber = spawn(move || fs::write(&target, [7; 10_000]).map(|()| target));
            if round % 2 == 0 {
                yield_now().unwrap();
            }
            sleep(Duration::from_micros(round)).unwrap();
            fiber.cancel();
            match fiber.join().unwrap() {
                // Bytes reported as written are written.
                Ok(path) => assert_eq!(fs::metadata(&path).unwrap().len(), 10_000),
                Err(error) => assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled),
            }
        }
        assert_eq!(operations(), 0);
    });
}

#[test]
fn other_fibers_run_during_a_file_operation() {
    on_each_driver(|| {
        let ticks = Rc::new(Cell::new(0u32));
        let count = ticks.clone();
        let counter = spawn(move || {
            while yield_now().is_ok() {
                count.set(count.get() + 1);
            }
        });
        let mut file = fs::tempfile().unwrap();
        let before = ticks.get();
        while ticks.get() < before + 10 {
            file.write_all(&[1; 4096]).unwrap();
            file.sync_all().unwrap();
        }
        counter.cancel();
        counter.join().unwrap();
    });
}

#[test]
fn files_convert_to_the_standard_library_and_work_on_threads() {
    on_each_driver(|| {
        let file = fs::tempfile().unwrap();
        let clone = file.try_clone().unwrap();
        std::thread::spawn(move || (&clone).write_all(b"thread").unwrap())
            .join()
            .unwrap();
        let mut standard = file.into_std();
        standard.rewind().unwrap();
        let mut file = File::from(standard);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "thread");
    });
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), "no loop").unwrap();
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"no loop");
}

#[test]
fn in_a_callback_a_file_operation_returns_would_block() {
    on_each_driver(|| {
        let seen = Rc::new(Cell::new(None));
        let (outcome, waker) = (seen.clone(), prepare_park());
        let timer = Timer::new(move || {
            outcome.set(Some(File::open("/dev/null").unwrap_err().kind()));
            waker.wake();
        });
        timer.arm(now());
        park("the timer").unwrap();
        assert_eq!(seen.get(), Some(ErrorKind::WouldBlock));
    });
}

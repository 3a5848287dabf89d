//! Simulated disks: random sequences of calls have the results that they have on a real file system.

use proptest::prelude::*;
use proptest::test_runner::{Config as TestConfig, FileFailurePersistence, TestRunner};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use yue_io::fs::{self, File, OpenOptions};
use yue_scheduler::simulation;

const FILES: usize = 3;

/// A call. Paths are numbers of [`PATHS`], files numbers of open files.
#[derive(Debug, Clone)]
enum Call {
    Open(usize, usize, Flags),
    Close(usize),
    Clone(usize, usize),
    Read(usize, usize),
    ReadAt(usize, usize, u64),
    Write(usize, usize),
    WriteAt(usize, usize, u64),
    Vectored(usize, usize),
    Seek(usize, i64, u8),
    SetLen(usize, u64),
    Allocate(usize, u64, u64),
    Sync(usize, bool),
    Facts(usize),
    Lock(usize),
    Unlock(usize),
    Mkdir(usize),
    MkdirAll(usize),
    Remove(usize),
    Rmdir(usize),
    RemoveAll(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Symlink(usize, usize),
    ReadLink(usize),
    Stat(usize),
    Lstat(usize),
    Exists(usize),
    List(usize),
    Canonicalize(usize),
    Copy(usize, usize),
    ReadWhole(usize),
    WriteWhole(usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct Flags {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    no_follow: bool,
}

const PATHS: [&str; 18] = [
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "d/e",
    "d/e/a",
    "a/",
    "d/",
    "./a",
    "d/../b",
    "d/.",
    "d/e/..",
    "d/e/",
    "missing/a",
    "c/a",
    "",
];

/// The targets of symbolic links.
const TARGETS: [&str; 8] = ["a", "d", "../a", "d/a", "c", "e/a", "missing", "d/"];

fn flags() -> impl Strategy<Value = Flags> {
    let probable = proptest::bool::weighted(0.7);
    let rare = proptest::bool::weighted(0.15);
    (
        probable,
        probable,
        rare,
        rare,
        proptest::bool::ANY,
        rare,
        rare,
    )
        .prop_map(
            |(read, write, append, truncate, create, create_new, no_follow)| Flags {
                read,
                write,
                append,
                truncate,
                create,
                create_new,
                no_follow,
            },
        )
}

fn call() -> impl Strategy<Value = Call> {
    let path = || 0..PATHS.len();
    let file = || 0..FILES;
    let size = || prop_oneof![0..20usize, 4000..9000usize];
    let offset = || prop_oneof![0..30u64, 4000..20_000u64];
    let targets = 0..TARGETS.len();
    prop_oneof![
        8 => (file(), path(), flags()).prop_map(|(f, p, flags)| Call::Open(f, p, flags)),
        1 => file().prop_map(Call::Close),
        1 => (file(), file()).prop_map(|(f, g)| Call::Clone(f, g)),
        2 => (file(), size()).prop_map(|(f, n)| Call::Read(f, n)),
        2 => (file(), size(), offset()).prop_map(|(f, n, at)| Call::ReadAt(f, n, at)),
        4 => (file(), size()).prop_map(|(f, n)| Call::Write(f, n)),
        3 => (file(), size(), offset()).prop_map(|(f, n, at)| Call::WriteAt(f, n, at)),
        1 => (file(), size()).prop_map(|(f, n)| Call::Vectored(f, n)),
        2 => (file(), -50..5000i64, 0..3u8).prop_map(|(f, by, from)| Call::Seek(f, by, from)),
        2 => (file(), offset()).prop_map(|(f, n)| Call::SetLen(f, n)),
        1 => (file(), offset(), offset()).prop_map(|(f, at, n)| Call::Allocate(f, at, n)),
        1 => (file(), proptest::bool::ANY).prop_map(|(f, data)| Call::Sync(f, data)),
        2 => file().prop_map(Call::Facts),
        1 => file().prop_map(Call::Lock),
        1 => file().prop_map(Call::Unlock),
        4 => path().prop_map(Call::Mkdir),
        1 => path().prop_map(Call::MkdirAll),
        3 => path().prop_map(Call::Remove),
        2 => path().prop_map(Call::Rmdir),
        1 => path().prop_map(Call::RemoveAll),
        6 => (path(), path()).prop_map(|(p, q)| Call::Rename(p, q)),
        2 => (path(), path()).prop_map(|(p, q)| Call::Link(p, q)),
        3 => (targets, path()).prop_map(|(t, p)| Call::Symlink(t, p)),
        1 => path().prop_map(Call::ReadLink),
        2 => path().prop_map(Call::Stat),
        2 => path().prop_map(Call::Lstat),
        1 => path().prop_map(Call::Exists),
        2 => path().prop_map(Call::List),
        2 => path().prop_map(Call::Canonicalize),
        1 => (path(), path()).prop_map(|(p, q)| Call::Copy(p, q)),
        3 => path().prop_map(Call::ReadWhole),
        3 => (path(), size()).prop_map(|(p, n)| Call::WriteWhole(p, n)),
    ]
}

/// A file system under test: the folder in which paths begin, and the open files.
struct World {
    base: PathBuf,
    open: [Option<File>; FILES],
    written: u8,
}

fn facts(facts: &fs::Metadata) -> String {
    match facts.is_dir() {
        true => "directory".to_owned(),
        false => format!("{:?} {} {}", facts.file_type(), facts.len(), facts.nlink()),
    }
}

fn contents(bytes: &[u8]) -> String {
    let sum = bytes.iter().enumerate().fold(0u64, |sum, (at, byte)| {
        sum.wrapping_mul(31)
            .wrapping_add(u64::from(*byte) + at as u64)
    });
    format!("{} bytes, {sum:x}", bytes.len())
}

fn show<T: std::fmt::Debug>(result: io::Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => match error.raw_os_error() {
            Some(errno) => format!("errno {errno} {:?}", error.kind()),
            None => format!("{:?}", error.kind()),
        },
    }
}

impl World {
    fn path(&self, index: usize) -> PathBuf {
        match PATHS[index] {
            "" => PathBuf::new(),
            // `join` and `Path` would drop the last slash and the dots.
            path => PathBuf::from(format!("{}/{path}", self.base.display())),
        }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        self.written = self.written.wrapping_add(1);
        (0..length)
            .map(|at| self.written.wrapping_add(at as u8))
            .collect()
    }

    fn file(&self, index: usize) -> io::Result<&File> {
        self.open[index]
            .as_ref()
            .ok_or_else(|| io::Error::other("not open"))
    }

    fn perform(&mut self, call: &Call) -> String {
        match *call {
            Call::Open(file, path, flags) => {
                let mut options = OpenOptions::new();
                options
                    .read(flags.read)
                    .write(flags.write)
                    .append(flags.append);
                options
                    .truncate(flags.truncate)
                    .create(flags.create)
                    .create_new(flags.create_new);
                if flags.no_follow {
                    options.custom_flags(libc::O_NOFOLLOW);
                }
                let opened = options.open(self.path(path));
                show(opened.map(|opened| self.open[file] = Some(opened)))
            }
            Call::Close(file) => {
                drop(self.open[file].take());
                String::new()
            }
            Call::Clone(file, other) => {
                let cloned = self.file(file).and_then(File::try_clone);
                show(cloned.map(|cloned| self.open[other] = Some(cloned)))
            }
            Call::Read(file, length) => {
                let mut bytes = vec![0; length];
                let count = self.file(file).and_then(|mut file| file.read(&mut bytes));
                show(count.map(|count| contents(&bytes[..count])))
            }
            Call::ReadAt(file, length, at) => {
                let mut bytes = vec![0; length];
                let count = self
                    .file(file)
                    .and_then(|file| file.read_at(&mut bytes, at));
                show(count.map(|count| contents(&bytes[..count])))
            }
            Call::Write(file, length) => {
                let bytes = self.bytes(length);
                show(self.file(file).and_then(|mut file| file.write(&bytes)))
            }
            Call::WriteAt(file, length, at) => {
                let bytes = self.bytes(length);
                show(self.file(file).and_then(|file| file.write_at(&bytes, at)))
            }
            Call::Vectored(file, length) => self.vectored(file, length),
            Call::Seek(file, by, from) => {
                let to = match from {
                    0 => SeekFrom::Start(by as u64),
                    1 => SeekFrom::Current(by),
                    _ => SeekFrom::End(by),
                };
                // The end of a directory is a matter of the file system.
                let seek = |mut file: &File| match file.metadata()?.is_dir() {
                    true => Ok(0),
                    false => file.seek(to),
                };
                show(self.file(file).and_then(seek))
            }
            Call::SetLen(file, length) => {
                show(self.file(file).and_then(|file| file.set_len(length)))
            }
            Call::Allocate(file, at, length) => {
                show(self.file(file).and_then(|file| file.allocate(at, length)))
            }
            Call::Sync(file, data) => show(self.file(file).and_then(|file| match data {
                true => file.sync_data(),
                false => file.sync_all(),
            })),
            Call::Facts(file) => show(
                self.file(file)
                    .and_then(|file| Ok(facts(&file.metadata()?))),
            ),
            Call::Lock(file) => show(self.file(file).and_then(
                |file| match file.metadata()?.is_dir() {
                    true => Ok(()),
                    false => file.try_lock().map_err(io::Error::from),
                },
            )),
            Call::Unlock(file) => show(self.file(file).and_then(File::unlock)),
            _ => self.perform_on_path(call),
        }
    }

    fn vectored(&mut self, file: usize, length: usize) -> String {
        let (one, two) = (self.bytes(length), self.bytes(3));
        let slices = [IoSlice::new(&one), IoSlice::new(&[]), IoSlice::new(&two)];
        let written = self
            .file(file)
            .and_then(|mut file| file.write_vectored(&slices));
        let (mut one, mut two) = (vec![0; 5], vec![0; length]);
        let mut slices = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let read = self
            .file(file)
            .and_then(|mut file| file.read_vectored(&mut slices));
        format!(
            "{} {} {one:?} {}",
            show(written),
            show(read),
            contents(&two)
        )
    }

    fn perform_on_path(&mut self, call: &Call) -> String {
        let unit = |result: io::Result<()>| show(result);
        match *call {
            Call::Mkdir(path) => unit(fs::create_dir(self.path(path))),
            Call::MkdirAll(path) => unit(fs::create_dir_all(self.path(path))),
            Call::Remove(path) => unit(fs::remove_file(self.path(path))),
            Call::Rmdir(path) => unit(fs::remove_dir(self.path(path))),
            Call::RemoveAll(path) => match PATHS[path] {
                // The standard library removes what is in the folder before it fails, or does not.
                "d/." | "d/e/.." | "a/" | "d/" | "d/e/" => String::new(),
                _ => unit(fs::remove_dir_all(self.path(path))),
            },
            Call::Rename(from, to) => unit(fs::rename(self.path(from), self.path(to))),
            Call::Link(from, to) => unit(fs::hard_link(self.path(from), self.path(to))),
            Call::Symlink(to, path) => unit(fs::symlink(TARGETS[to], self.path(path))),
            Call::ReadLink(path) => show(fs::read_link(self.path(path))),
            Call::Stat(path) => show(fs::metadata(self.path(path)).map(|found| facts(&found))),
            Call::Lstat(path) => {
                show(fs::symlink_metadata(self.path(path)).map(|found| facts(&found)))
            }
            Call::Exists(path) => show(fs::exists(self.path(path))),
            Call::List(path) => show(self.list(&self.path(path))),
            Call::Canonicalize(path) => {
                let found = fs::canonicalize(self.path(path));
                let above = self.base.parent().unwrap();
                show(found.map(|found| found.strip_prefix(above).unwrap().to_owned()))
            }
            Call::Copy(from, to) => show(fs::copy(self.path(from), self.path(to))),
            Call::ReadWhole(path) => show(fs::read(self.path(path)).map(|bytes| contents(&bytes))),
            Call::WriteWhole(path, length) => {
                let bytes = self.bytes(length);
                unit(fs::write(self.path(path), bytes))
            }
            _ => unreachable!(),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            assert_eq!(kind, entry.metadata()?.file_type());
            names.push(format!("{:?} {kind:?}", entry.file_name()));
        }
        names.sort();
        Ok(names)
    }

    /// Everything that is there.
    fn tree(&self, path: &Path, all: &mut Vec<String>) {
        for entry in self.list(path).unwrap() {
            let name = entry.split('"').nth(1).unwrap();
            let path = path.join(name);
            let facts = fs::symlink_metadata(&path).unwrap();
            let inside = match (facts.is_dir(), facts.is_file()) {
                (true, _) => String::new(),
                (_, true) => contents(&fs::read(&path).unwrap()),
                _ => format!("{:?}", fs::read_link(&path).unwrap()),
            };
            let shown = path.strip_prefix(&self.base).unwrap().display().to_string();
            all.push(format!("{shown} {inside} {}", facts.nlink()));
            if facts.is_dir() {
                self.tree(&path, all);
            }
        }
    }
}

/// The results of calls in a folder that is empty at first.
fn results(base: PathBuf, calls: &[Call]) -> Vec<String> {
    let mut world = World {
        base,
        open: Default::default(),
        written: 0,
    };
    let mut results: Vec<String> = calls.iter().map(|call| world.perform(call)).collect();
    world.tree(&world.base.clone(), &mut results);
    results
}

fn simulated(seed: u64, calls: Vec<Call>) -> Vec<String> {
    let run = move || {
        yue_io::run(move || {
            fs::create_dir_all("/above/base").unwrap();
            results(PathBuf::from("/above/base"), &calls)
        })
    };
    simulation::run(seed, run).unwrap().0.unwrap()
}

fn real(calls: &[Call]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    // Links may lead to the folder above.
    let base = dir.path().canonicalize().unwrap().join("base");
    std::fs::create_dir(&base).unwrap();
    results(base, calls)
}

#[test]
fn a_simulated_disk_answers_like_a_real_one() {
    let calls = proptest::collection::vec(call(), 1..60);
    let config = TestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..TestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    runner
        .run(&calls, |calls| {
            let (expected, found) = (real(&calls), simulated(7, calls.clone()));
            for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
                prop_assert_eq!(found, expected, "call {}: {:?}", index, calls.get(index));
            }
            prop_assert_eq!(found.len(), expected.len());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_same_seed_takes_the_same_time() {
    let run = |seed| {
        let run = || {
            yue_io::run(|| {
                for n in 0..20 {
                    fs::write(format!("/tmp/{n}"), "text").unwrap();
                    File::open(format!("/tmp/{n}")).unwrap().sync_all().unwrap();
                }
            })
            .unwrap();
            simulation::now()
        };
        simulation::run(seed, run).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).0, run(2).0);
}

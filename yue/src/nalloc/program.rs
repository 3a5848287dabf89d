//! The program that this process runs, as it travels to other machines.
//!
//! A node runs its owner's program, so versions cannot differ. What travels is the part of the file that is loaded to
//! run: without symbols and debug information it is a fraction of the file. It is named by its hash. To a system whose
//! libraries are older or others, the libraries that the program uses travel as well, with the dynamic loader, and the
//! program is started through that loader.

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use yue_scheduler::lock;

/// The name of the dynamic loader in a folder of libraries.
const LOADER: &str = "ld.so";

/// A file on its way to another machine.
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    /// The number of bytes, and their hash, when they are unpacked.
    pub(super) size: usize,
    pub(super) hash: String,
}

impl Packed {
    fn new(bytes: &[u8], packs: bool) -> io::Result<Packed> {
        let packed = if packs {
            // The fastest level: most networks are slower, and a host receives it once.
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()?
        } else {
            bytes.to_vec()
        };
        Ok(Packed {
            bytes: packed,
            size: bytes.len(),
            hash: hash(bytes),
        })
    }
}

/// A library of the program: its name, and its file on this machine.
pub(crate) struct Library {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Library {
    pub(super) fn hash(&self) -> io::Result<String> {
        Ok(hash(&fs::read(&self.path)?))
    }

    pub(super) fn pack(&self, packs: bool) -> io::Result<Packed> {
        Packed::new(&fs::read(&self.path)?, packs)
    }
}

/// The hash of the part that is loaded, by which other machines know the program. The first call reads the file.
pub(super) fn own_hash() -> io::Result<&'static str> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(known) = HASH.get() {
        return Ok(known);
    }
    let own = hash(&read_loaded()?);
    Ok(HASH.get_or_init(|| own))
}

/// The program as it travels. Allocations that send it at the same time share it.
pub(super) fn own_packed(packs: bool) -> io::Result<Arc<Packed>> {
    static PACKED: Mutex<[Weak<Packed>; 2]> = Mutex::new([Weak::new(), Weak::new()]);
    let mut shared = lock(&PACKED);
    let slot = &mut shared[usize::from(packs)];
    if let Some(packed) = slot.upgrade() {
        return Ok(packed);
    }
    let packed = Arc::new(Packed::new(&read_loaded()?, packs)?);
    *slot = Arc::downgrade(&packed);
    Ok(packed)
}

/// The words that start this program again: its path, after the loader if it was started through one.
pub(crate) fn own_command() -> io::Result<Vec<OsString>> {
    // The kernel knows the loader's words, too; the program sees only those behind them.
    let line = fs::read("/proc/self/cmdline")?;
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let before = words.len().saturating_sub(std::env::args_os().count());
    if before == 0 {
        return Ok(vec![std::env::current_exe()?.into_os_string()]);
    }
    let owned = |word: &&[u8]| OsString::from_vec(word.to_vec());
    Ok(words[..=before].iter().map(owned).collect())
}

/// The program's file. It can be read even if another one has its name by now, unless a loader started it.
fn own_file() -> io::Result<PathBuf> {
    let mut words = own_command()?;
    match (words.len(), words.pop()) {
        (2.., Some(path)) => Ok(path.into()),
        // Not `self`: the loader that lists the libraries is another process.
        _ => Ok(format!("/proc/{}/exe", std::process::id()).into()),
    }
}

/// The libraries that the program uses, and first the dynamic loader. None if it uses none.
pub(crate) fn own_libraries() -> io::Result<Vec<Library>> {
    let command = own_command()?;
    let (mut listing, loader) = match command.as_slice() {
        [loader, options @ .., _] => {
            let mut listing = Command::new(loader);
            listing.args(options);
            (listing, PathBuf::from(loader))
        }
        _ => {
            let program = fs::read("/proc/self/exe")?;
            let Some(loader) = Elf::new(&program).and_then(|elf| elf.interpreter()) else {
                return Ok(Vec::new());
            };
            (Command::new(&loader), loader)
        }
    };
    let output = listing.arg("--list").arg(own_file()?).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let text = format!("{} cannot list the libraries: {said}", loader.display());
        return Err(io::Error::other(text));
    }
    let mut libraries = vec![Library {
        name: LOADER.to_owned(),
        path: loader,
    }];
    libraries.extend(listed(&output.stdout));
    Ok(libraries)
}

/// The libraries in the output of a loader: lines `NAME => PATH (ADDRESS)`. A line without an arrow is the loader, or
/// the kernel's own.
fn listed(output: &[u8]) -> impl Iterator<Item = Library> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    let text = String::from_utf8_lossy(output).into_owned();
    let lines: Vec<Library> = text
        .lines()
        .filter_map(|line| {
            let (name, path) = line.trim().split_once(" => ")?;
            let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
            let is_library = path.starts_with('/') && name.bytes().all(is_plain);
            is_library.then(|| Library {
                name: name.to_owned(),
                path: path.into(),
            })
        })
        .collect();
    lines.into_iter()
}

fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of the program's file that is loaded to run.
fn read_loaded() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(own_file()?)?.read_to_end(&mut bytes)?;
    if let Some(end) = Elf::new(&bytes).and_then(|elf| elf.loaded_end()) {
        bytes.truncate(end);
        Elf::forget_sections(&mut bytes);
    }
    Ok(bytes)
}

/// A 64-bit little-endian ELF file; see elf(5).
struct Elf<'a>(&'a [u8]);

impl Elf<'_> {
    /// The offsets of fields in the header.
    const SEGMENTS: usize = 32;
    const SECTIONS: usize = 40;
    const SEGMENT_SIZE: usize = 54;
    const SEGMENT_COUNT: usize = 56;
    const SECTION_COUNT: usize = 60;
    const SECTION_NAMES: usize = 62;
    const HEADER_SIZE: usize = 64;

    /// Kinds of segments.
    const LOADED: u64 = 1;
    const INTERPRETER: u64 = 3;

    fn new(bytes: &[u8]) -> Option<Elf<'_>> {
        // Magic, 64 bits, little-endian.
        bytes.starts_with(b"\x7fELF\x02\x01").then_some(Elf(bytes))
    }

    /// A number of so many bytes.
    fn number(&self, at: usize, count: usize) -> Option<u64> {
        let bytes = self.0.get(at..at.checked_add(count)?)?;
        let value = bytes.iter().rev();
        Some(value.fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// The kind of each segment, and its place in the file.
    fn segments(&self) -> Option<Vec<(u64, usize, usize)>> {
        let first = usize::try_from(self.number(Self::SEGMENTS, 8)?).ok()?;
        let size = self.number(Self::SEGMENT_SIZE, 2)? as usize;
        let count = self.number(Self::SEGMENT_COUNT, 2)? as usize;
        let segment = |index: usize| {
            let at = first.checked_add(index * size)?;
            let kind = self.number(at, 4)?;
            let offset = usize::try_from(self.number(at + 8, 8)?).ok()?;
            let length = usize::try_from(self.number(at + 32, 8)?).ok()?;
            Some((kind, offset, offset.checked_add(length)?))
        };
        (0..count).map(segment).collect()
    }

    /// The end of what is loaded; the headers are part of it.
    fn loaded_end(&self) -> Option<usize> {
        let segments = self.segments()?;
        let loaded = segments.iter().filter(|segment| segment.0 == Self::LOADED);
        let end = loaded.map(|segment| segment.2).max()?;
        let headers = self.number(Self::SEGMENTS, 8)? + 56 * segments.len() as u64;
        (end <= self.0.len() && headers <= end as u64).then_some(end)
    }

    fn interpreter(&self) -> Option<PathBuf> {
        let segments = self.segments()?;
        let (_, start, end) = segments
            .iter()
            .find(|segment| segment.0 == Self::INTERPRETER)?;
        let path = self.0.get(*start..*end)?;
        let path = path.strip_suffix(b"\0").unwrap_or(path);
        Some(Path::new(OsStr::from_bytes(path)).to_owned())
    }

    /// Removes the table of sections from the header: it has been cut off.
    fn forget_sections(bytes: &mut [u8]) {
        if bytes.len() < Self::HEADER_SIZE {
            return;
        }
        bytes[Self::SECTIONS..Self::SECTIONS + 8].fill(0);
        bytes[Self::SECTION_COUNT..Self::SECTION_NAMES + 2].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_loaded_part_of_a_program_runs() {
        // A test's own program lists its tests.
        let folder = std::env::temp_dir().join(format!("yue-program-{}", std::process::id()));
        let loaded = read_loaded().expect("the file can be read");
        let whole = fs::metadata("/proc/self/exe").expect("it is there").len();
        assert!((loaded.len() as u64) < whole);
        fs::write(&folder, &loaded).expect("the folder can be written to");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
        let ran = Command::new(&folder).arg("--list").output();
        let _ = fs::remove_file(&folder);
        let ran = ran.expect("it starts");
        assert!(String::from_utf8_lossy(&ran.stdout).contains("the_loaded_part"));
    }

    #[test]
    fn the_libraries_are_the_loaders_list() {
        let all = own_libraries().expect("they can be listed");
        assert_eq!(all[0].name, LOADER);
        assert!(
            all.iter()
                .any(|library| library.name.starts_with("libc.so"))
        );
        assert!(all.iter().all(|library| library.path.exists()));
        let kernel =
            b"\tlinux-vdso.so.1 (0x7f)\n\tlibx y.so => /lib/x (0x1)\n\tliba.so => /a b (0x1)\n";
        let few: Vec<_> = listed(kernel).map(|library| library.path).collect();
        assert_eq!(few, [Path::new("/a b")]);
    }

    #[test]
    fn files_that_are_not_programs_travel_as_they_are() {
        assert!(Elf::new(b"#!/bin/sh\n").is_none());
        let mut cut = b"\x7fELF\x02\x01".to_vec();
        for length in [6, 40, 64, 100] {
            cut.resize(length, 0xff);
            assert_eq!(Elf::new(&cut).and_then(|elf| elf.loaded_end()), None);
            assert!(Elf::new(&cut).is_some_and(|elf| elf.interpreter().is_none()));
        }
    }
}

//! The lines of earlier sessions, in a file of this user: an entry a line, in which `\n` stands for a line's end and
//! `\\` for a backslash.
//!
//! The file may hold secrets that were typed, so its mode is 0600. Several consoles append to it at once.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Entries that are kept. The file is shortened when it has twice as many.
pub(super) const ENTRIES_MAX: usize = 2000;

/// A longer file is not a history.
const FILE_MAX: u64 = 64 << 20;

/// The file: `$XDG_STATE_HOME/yue/console_history`, or below `~/.local/state`. `None` without a home.
pub(super) fn file() -> Option<PathBuf> {
    let folder = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("yue/console_history"))
}

/// Reads the last entries, oldest first.
///
/// # Errors
/// The system's.
pub(super) fn load(path: &Path) -> io::Result<Vec<String>> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::other("the history is too long"));
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let mut lines: Vec<&str> = text.lines().collect();
    let excess = lines.len().saturating_sub(ENTRIES_MAX);
    let is_long = lines.len() > 2 * ENTRIES_MAX;
    lines.drain(..excess);
    if is_long {
        replace(path, &lines)?;
    }
    Ok(lines.into_iter().map(unescape).collect())
}

/// Writes these lines in place of the file, in one step.
fn replace(path: &Path, lines: &[&str]) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = open(&new)?;
    file.write_all((lines.join("\n") + "\n").as_bytes())?;
    fs::rename(new, path)
}

fn open(path: &Path) -> io::Result<fs::File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    // The file may have been made by another program, or the mode changed.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Adds an entry.
///
/// # Errors
/// The system's.
pub(super) fn append(path: &Path, entry: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    // One write: entries of other consoles do not mix with it.
    open(path)?.write_all((escape(entry) + "\n").as_bytes())
}

fn escape(entry: &str) -> String {
    entry
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "")
}

fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            (other, false) => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/yue/console_history");
        (folder, path)
    }

    #[test]
    fn entries_come_back_with_their_lines() {
        let (_folder, path) = place();
        let entries = ["1 + 1", "for i = 1, 2 do\n  print('a\\nb')\nend", "\\", "ä"];
        for entry in entries {
            append(&path, entry).expect("it is written");
        }
        assert_eq!(load(&path).expect("it is read"), entries);
    }

    #[test]
    fn nobody_else_can_read_the_file() {
        let (_folder, path) = place();
        append(&path, "secret").expect("it is written");
        let mode = || fs::metadata(&path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        append(&path, "more").expect("it is written");
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn a_long_file_is_shortened_and_its_last_entries_stay() {
        let (_folder, path) = place();
        append(&path, "first").expect("it is written");
        let many: Vec<_> = (0..2 * ENTRIES_MAX)
            .map(|number| number.to_string())
            .collect();
        fs::write(&path, many.join("\n") + "\n").expect("it is written");
        append(&path, "last").expect("it is written");
        let loaded = load(&path).expect("it is read");
        assert_eq!(loaded.len(), ENTRIES_MAX);
        assert_eq!(loaded.last().map(String::as_str), Some("last"));
        let lines = fs::read_to_string(&path)
            .expect("it exists")
            .lines()
            .count();
        assert_eq!(lines, ENTRIES_MAX);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let (_folder, path) = place();
        assert_eq!(
            load(&path).expect_err("it is missing").kind(),
            io::ErrorKind::NotFound
        );
    }
}

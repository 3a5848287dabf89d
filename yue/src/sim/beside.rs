//! Files of the machine's folders, which the hosts find on their disks: pages, data.

use std::fs;
use std::path::{Path, PathBuf};

/// The limits on the files of a folder: each host has them in memory. The rest is left out.
const FILES_MAX: usize = 1000;
const BYTES_MAX: usize = 2 << 20;

/// The maximum number of folders within each other.
const DEPTH_MAX: usize = 8;

/// The files of a folder, by their paths as a program names them.
pub(super) type Files = Vec<(PathBuf, Vec<u8>)>;

/// Returns the files of a folder of the machine and of the folders in it, by their paths, for [`Sim::file`]: 1000
/// files, 2 MiB in all, and eight folders within each other at most. The rest, hidden files, and those that cannot be
/// read are left out. `yue sim` puts those of a script's folder on the disk of the host that runs it.
///
/// [`Sim::file`]: super::Sim::file
pub fn files_of_folder(folder: impl AsRef<Path>) -> Vec<(PathBuf, Vec<u8>)> {
    let mut reading = Reading::default();
    reading.add_folder(folder.as_ref(), DEPTH_MAX);
    if reading.is_cut {
        let (folder, mib) = (folder.as_ref().display(), BYTES_MAX >> 20);
        yue_scheduler::log(
            yue_scheduler::LogLevel::Warn,
            format_args!(
                "not all files of {folder} are on the simulated disk: it takes {FILES_MAX} of them, {mib} MiB, and \
                 {DEPTH_MAX} folders within each other"
            ),
        );
    }
    reading.files
}

/// The files that have been read so far.
#[derive(Default)]
struct Reading {
    files: Files,
    bytes: usize,
    /// Whether a limit has left something out.
    is_cut: bool,
}

impl Reading {
    fn add_folder(&mut self, folder: &Path, depth: usize) {
        let real = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let Some(depth) = depth.checked_sub(1) else {
            self.is_cut = true;
            return;
        };
        let Ok(list) = fs::read_dir(real) else { return };
        let mut names: Vec<_> = list.flatten().map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        for name in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if self.files.len() >= FILES_MAX {
                self.is_cut = true;
                return;
            }
            let path = folder.join(name);
            let Ok(facts) = path.metadata() else { continue };
            if facts.is_dir() && !path.is_symlink() {
                self.add_folder(&path, depth);
            } else if facts.is_file() && facts.len() > (BYTES_MAX - self.bytes) as u64 {
                self.is_cut = true;
            } else if facts.is_file() {
                self.add_file(path);
            }
        }
    }

    fn add_file(&mut self, path: PathBuf) {
        let Ok(bytes) = fs::read(&path) else { return };
        // It may have grown.
        if bytes.len() <= BYTES_MAX - self.bytes {
            self.bytes += bytes.len();
            self.files.push((path, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_folder_keep_their_paths() {
        let name = format!("yue-sim-folder-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let path = |name: &str| folder.join(name);
        fs::create_dir_all(path("page")).expect("a folder");
        for name in ["server.lua", "page/index.html", ".hidden"] {
            fs::write(path(name), name).expect("a file");
        }
        let files = files_of_folder(&folder);
        fs::remove_dir_all(&folder).expect("it is there");
        let paths: Vec<&PathBuf> = files.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, [&path("page/index.html"), &path("server.lua")]);
        assert_eq!(files[0].1, b"page/index.html");
    }
}

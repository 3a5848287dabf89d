//! Tests of a simulated disk by itself: what is durable, what a crash leaves, and that nothing is kept too long.

use super::disk::Disk;
use super::inode::OpenId;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::time::UNIX_EPOCH;
use yue_scheduler::simulation::Random;

fn disk(seed: u64) -> Disk {
    Disk::new(1, seed, UNIX_EPOCH)
}

const NEW: i32 = libc::O_RDWR | libc::O_CREAT;

impl Disk {
    #[track_caller]
    fn opened_at(&mut self, id: OpenId, path: &str, flags: i32) -> OpenId {
        self.open(id, path.as_bytes(), flags, 0o666).unwrap();
        id
    }

    fn put_at(&mut self, id: OpenId, offset: u64, bytes: &[u8]) {
        let count = self
            .write(id, &[IoSlice::new(bytes)], Some(offset))
            .unwrap();
        assert_eq!(count, bytes.len());
    }

    fn sync_path(&mut self, path: &str) {
        let id = self.opened_at(u64::MAX, path, libc::O_RDONLY);
        self.sync(id, false).unwrap();
        self.close(id);
    }

    /// The paths of all files, with their contents.
    fn tree(&self) -> BTreeMap<String, String> {
        let files = self.visible_files().into_iter();
        files
            .map(|(path, bytes)| {
                (
                    path.display().to_string(),
                    String::from_utf8(bytes).unwrap(),
                )
            })
            .collect()
    }

    /// Checks what must hold at any time.
    #[track_caller]
    fn check(&self) {
        let pages: u64 = (self.inodes.values())
            .filter(|inode| inode.is_alive())
            .map(|inode| inode.page_count())
            .sum();
        assert_eq!(self.pages_used, pages, "pages");
        let pending = self.inodes.values().filter_map(|inode| inode.file());
        let bytes: u64 = pending
            .flat_map(|file| &file.pending)
            .map(|change| change.bytes())
            .sum();
        assert_eq!(self.pending_bytes, bytes, "pending bytes");
        let mut links: BTreeMap<u64, u32> = BTreeMap::from([(2, 1)]);
        let mut durable = links.clone();
        for directory in self.inodes.values().filter_map(|inode| inode.directory()) {
            directory
                .now
                .values()
                .for_each(|ino| *links.entry(*ino).or_default() += 1);
            directory
                .durable
                .values()
                .for_each(|ino| *durable.entry(*ino).or_default() += 1);
        }
        for (ino, inode) in &self.inodes {
            assert!(
                inode.is_alive() || inode.may_return(),
                "inode {ino} is kept for nothing"
            );
            assert_eq!(
                inode.links,
                links.remove(ino).unwrap_or_default(),
                "links of {ino}"
            );
            let durable = durable.remove(ino).unwrap_or_default();
            assert_eq!(inode.durable_links, durable, "durable links of {ino}");
        }
        assert!(
            links.is_empty() && durable.is_empty(),
            "names without an inode"
        );
    }
}

#[test]
fn a_removed_file_lives_until_its_last_handle_and_its_durable_name_are_gone() {
    let mut disk = disk(1);
    let before = disk.inodes.len();
    let file = disk.opened_at(1, "/file", NEW);
    disk.put_at(file, 0, &[1; 5000]);
    disk.sync(file, false).unwrap();
    disk.sync_path("/");
    disk.remove_file(b"/file").unwrap();
    disk.check();
    assert_eq!(disk.pages_used, 2);
    disk.close(file);
    assert_eq!((disk.pages_used, disk.inodes.len()), (0, before + 1));
    // A crash could bring it back.
    disk.sync_path("/");
    assert_eq!(disk.inodes.len(), before);
    disk.check();
}

#[test]
fn a_program_that_never_syncs_does_not_fill_the_memory() {
    let mut disk = disk(1);
    let file = disk.opened_at(1, "/file", NEW);
    for _ in 0..300 {
        disk.put_at(file, 0, &[7; 1 << 20]);
        assert!(disk.pending_bytes <= 65 << 20);
    }
    for number in 0..10_000 {
        let path = format!("/tmp/{number}");
        let one = disk.opened_at(2, &path, NEW);
        disk.close(one);
        disk.remove_file(path.as_bytes()).unwrap();
    }
    assert!(disk.inodes.len() < 10_000, "{}", disk.inodes.len());
    disk.write_back_all();
    assert_eq!(disk.inodes.len(), 3);
    disk.check();
}

#[test]
fn a_lost_truncation_loses_later_writes_beyond_it() {
    let mut found = BTreeSet::new();
    for seed in 0..300 {
        let mut disk = disk(seed);
        let file = disk.opened_at(1, "/file", NEW);
        disk.put_at(file, 0, b"old");
        disk.sync(file, false).unwrap();
        disk.sync_path("/");
        disk.set_len(file, 0).unwrap();
        disk.put_at(file, 0, b"N");
        disk.crash();
        disk.check();
        found.insert(disk.tree()["/file"].clone());
    }
    let expected = ["", "\0", "N", "old"];
    assert_eq!(found, BTreeSet::from(expected.map(str::to_owned)));
}

#[test]
fn a_file_that_is_linked_and_unlinked_keeps_one_of_its_names() {
    let mut found = BTreeSet::new();
    for seed in 0..300 {
        let mut disk = disk(seed);
        let file = disk.opened_at(1, "/draft", NEW);
        disk.put_at(file, 0, b"text");
        disk.sync(file, false).unwrap();
        disk.sync_path("/");
        disk.hard_link(b"/draft", b"/tmp/final").unwrap();
        disk.remove_file(b"/draft").unwrap();
        disk.crash();
        disk.check();
        assert!(disk.tree().values().all(|text| text == "text"));
        found.insert(disk.tree().into_keys().collect::<Vec<_>>().join(" "));
    }
    assert_eq!(
        Vec::from_iter(found),
        ["/draft", "/draft /tmp/final", "/tmp/final"]
    );
}

#[test]
fn a_file_that_leaves_a_folder_survives_the_folder() {
    for seed in 0..300 {
        let mut disk = disk(seed);
        disk.create_dir(b"/old", 0o777).unwrap();
        let file = disk.opened_at(1, "/old/file", NEW);
        disk.put_at(file, 0, b"text");
        disk.sync(file, false).unwrap();
        disk.sync_path("/old");
        disk.sync_path("/");
        disk.rename(b"/old/file", b"/file").unwrap();
        disk.remove_dir(b"/old").unwrap();
        disk.crash();
        disk.check();
        assert_eq!(Vec::from_iter(disk.tree().into_values()), ["text"]);
    }
}

#[test]
fn a_rename_back_and_forth_leaves_one_name() {
    for seed in 0..300 {
        let mut disk = disk(seed);
        disk.create_dir(b"/a", 0o777).unwrap();
        disk.create_dir(b"/b", 0o777).unwrap();
        disk.sync_path("/");
        // In another order, the folders could end inside each other.
        disk.rename(b"/a", b"/b/a").unwrap();
        disk.rename(b"/b/a", b"/a").unwrap();
        disk.rename(b"/b", b"/a/b").unwrap();
        disk.crash();
        disk.check();
        let folders = disk
            .inodes
            .values()
            .filter(|inode| inode.is_directory())
            .count();
        assert_eq!(folders, 4, "the root, /tmp, and both folders");
    }
}

/// Random changes of names and contents, with crashes and syncs in between: the books always balance, and what is
/// durable is what a crash leaves that loses everything else.
#[test]
fn the_books_balance_after_random_changes_and_crashes() {
    const NAMES: [&str; 8] = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/b/y", "/a/x/z", "/c"];
    for seed in 0..300 {
        let mut disk = disk(seed);
        let mut random = Random::new(seed);
        let mut id = 0;
        for _ in 0..120 {
            let one = NAMES[random.below(8) as usize].as_bytes();
            let other = NAMES[random.below(8) as usize].as_bytes();
            // Most changes are refused: there is something else at the path, or nothing.
            let _ = match random.below(12) {
                0 => disk.create_dir(one, 0o777),
                1 => disk.remove_dir(one),
                2 => disk.remove_file(one),
                3..5 => disk.rename(one, other),
                5 => disk.hard_link(one, other),
                6 => disk.symlink(other, one),
                7 | 8 => {
                    id += 1;
                    disk.open(id, one, NEW, 0o666)
                        .map(|()| disk.put_at(id, 100, b"text"))
                }
                9 => {
                    disk.close(random.below(id + 1));
                    Ok(())
                }
                10 => disk.sync(random.below(id + 1), random.chance(0.2)),
                _ => {
                    if let Ok(ino) = disk.find_path(one, true) {
                        disk.sync_directory(ino);
                    }
                    Ok(())
                }
            };
            disk.check();
            if random.chance(0.03) {
                disk.crash();
                disk.check();
                assert_eq!(disk.visible_files(), disk.durable_files());
            }
        }
    }
}

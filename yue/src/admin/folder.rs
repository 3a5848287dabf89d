//! The folder of the endpoints: one for each user, which nobody else can write to.
//!
//! | folder | if |
//! |---|---|
//! | `$XDG_RUNTIME_DIR/yue` | the variable names a folder of this user |
//! | `/run/user/UID/yue` | `/run/user/UID` is a folder of this user |
//! | `/tmp/yue-UID` | neither is |
//!
//! Another user can make the folder in `/tmp` first. So a folder is used only if it belongs to this user and others
//! cannot write to it, and if others cannot replace it in its parent.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The mode of a folder that is made here.
const MODE: u32 = 0o700;
/// The permission of others to write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Entries of a folder with this bit can be replaced by their owners alone.
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// Returns the effective user of this process.
fn user() -> u32 {
    // SAFETY: a plain query.
    unsafe { libc::geteuid() }
}

/// Returns the folder of this user. It may not exist yet.
pub(super) fn of_this_user() -> PathBuf {
    let user = user();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = [named, Some(PathBuf::from(format!("/run/user/{user}")))];
    let own = |folder: &PathBuf| {
        // Where `sudo` keeps the variable, it names the folder of another user.
        folder.is_absolute() && fs::metadata(folder).is_ok_and(|facts| is_own(&facts, user))
    };
    match runtime.into_iter().flatten().find(own) {
        Some(folder) => folder.join("yue"),
        None => PathBuf::from(format!("/tmp/yue-{user}")),
    }
}

/// Whether the user owns the folder, and others cannot write to it.
fn is_own(facts: &Metadata, user: u32) -> bool {
    facts.is_dir() && facts.uid() == user && facts.mode() & WRITABLE_BY_OTHERS == 0
}

/// Creates the folder if it does not exist, and checks it.
///
/// # Errors
/// If others could put a socket of theirs into the folder, or replace it; or the system's error.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    check(folder)
}

/// Checks that the folder exists and is safe to use.
///
/// # Errors
/// See [`prepare`].
pub(super) fn check(folder: &Path) -> io::Result<()> {
    let user = user();
    let refused = |why: String| {
        let text = format!("the folder {} {why}", folder.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    // Not that of a link's target: anybody may have made the link.
    let facts = fs::symlink_metadata(folder)?;
    if !facts.is_dir() {
        return refused("is not a folder; remove it".to_owned());
    }
    if facts.uid() != user {
        let owner = facts.uid();
        return refused(format!("belongs to another user ({owner}); remove it"));
    }
    if !is_own(&facts, user) {
        return refused("can be written to by others; change its mode to 0700".to_owned());
    }
    let parent = fs::metadata(folder.parent().unwrap_or(Path::new("/")))?;
    let is_open = parent.mode() & WRITABLE_BY_OTHERS != 0 && parent.mode() & STICKY == 0;
    if is_open || ![user, ROOT].contains(&parent.uid()) {
        return refused("is in a folder that others can change".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use yue_io::fs::TempDir;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    }

    fn refusal(folder: &Path) -> String {
        prepare(folder).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_folder_is_made_for_its_user_alone() {
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("yue");
        prepare(&folder).expect("it is made");
        prepare(&folder).expect("it may exist");
        let made = fs::metadata(&folder).expect("it exists").mode();
        assert_eq!(made & 0o777, MODE);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("yue");
        prepare(&folder).expect("it is made");
        for open in [0o720, 0o702] {
            mode(&folder, open);
            assert!(refusal(&folder).contains("written to by others"));
        }
        mode(&folder, 0o755);
        prepare(&folder).expect("others may read it: its sockets have their own mode");
    }

    #[test]
    fn a_folder_in_a_place_that_others_can_change_is_refused() {
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("yue");
        for open in [0o777, 0o770] {
            mode(place.path(), open);
            assert!(refusal(&folder).contains("others can change"));
        }
        mode(place.path(), 0o1777);
        prepare(&folder).expect("nobody else can replace it there");
    }

    #[test]
    fn a_link_or_a_file_in_place_of_the_folder_is_refused() {
        let place = TempDir::new().expect("a folder");
        let (target, link) = (place.path().join("target"), place.path().join("link"));
        fs::create_dir(&target).expect("a folder");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        assert!(refusal(&link).contains("is not a folder"));
        let file = place.path().join("file");
        fs::write(&file, "").expect("a file");
        assert!(refusal(&file).contains("is not a folder"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        if user() != ROOT {
            return eprintln!("only root can give a folder away: not tested");
        }
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("yue");
        prepare(&folder).expect("it is made");
        std::os::unix::fs::chown(&folder, Some(4711), None).expect("root may");
        assert!(refusal(&folder).contains("belongs to another user (4711)"));
    }
}

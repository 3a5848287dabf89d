//! The processes of this user that have an endpoint.

use super::folder;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use yue_rpc::{Address, remove_deserted_socket};

/// A running process that has an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// The path of its socket.
    pub path: PathBuf,
    /// The address of its socket, for [`Client::open`](crate::rpc::typed::Client::open) or `yue.open`.
    pub address: String,
}

/// Returns the running processes of this user that have an admin endpoint, in the order of their ids. Sockets that
/// killed processes have left behind are removed.
///
/// It connects to each socket, so it blocks for a few milliseconds: on a loop, call it by
/// [`blocking`](crate::blocking).
///
/// ```
/// for process in yue::admin::processes()? {
///     println!("{} {}", process.pid, process.address);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// If the folder is not safe, because others can write to it for example.
pub fn processes() -> io::Result<Vec<Process>> {
    processes_in(&folder::of_this_user())
}

fn processes_in(place: &Path) -> io::Result<Vec<Process>> {
    match folder::check(place) {
        // Nobody has made it yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        let Some(process) = of_path(&path) else {
            continue;
        };
        // An error means that it cannot be known: the file is of another kind, or its listener has no room.
        let is_deserted = remove_deserted_socket(&path);
        match is_deserted {
            Ok(true) => {}
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {}
            _ => found.push(process),
        }
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// The process of a file `PID.sock`.
fn of_path(path: &Path) -> Option<Process> {
    let text = path.to_str()?;
    let pid = path.file_name()?.to_str()?.strip_suffix(".sock")?;
    let address = Address::Unix {
        path: text.to_owned(),
    };
    Some(Process {
        pid: pid.parse().ok()?,
        path: path.to_owned(),
        address: address.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use yue_io::fs::TempDir;

    #[test]
    fn running_processes_are_listed_and_sockets_of_ended_ones_are_removed() {
        let place = TempDir::new().expect("a folder");
        let folder = place.path().join("yue");
        assert_eq!(processes_in(&folder).expect("nobody is there"), []);
        folder::prepare(&folder).expect("it is made");
        let bind = |name: &str| UnixListener::bind(folder.join(name)).expect("a socket");
        let _running = [bind("12.sock"), bind("7.sock")];
        drop(bind("9.sock"));
        let _other = bind("of another program.sock");
        fs::write(folder.join("8.sock"), "no socket").expect("a file");
        let found = processes_in(&folder).expect("a list");
        let ids: Vec<u32> = found.iter().map(|process| process.pid).collect();
        assert_eq!(ids, [7, 12]);
        assert!(!folder.join("9.sock").exists());
        assert!(folder.join("8.sock").exists(), "it is not ours to remove");
        let address = format!("unix://{}", folder.join("7.sock").display());
        assert_eq!(found[0].address, address);
    }
}

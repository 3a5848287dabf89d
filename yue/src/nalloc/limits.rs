//! Limits of memory and processors for a node on this machine: a control group of its own, where the system lets this
//! process create one.
//!
//! ```text
//!   cgroup v2   /sys/fs/cgroup/PARENT/yue-PID-NUMBER       beside the group of this process, which has processes
//!                                                          and so cannot have limited children
//!   cgroup v1   /sys/fs/cgroup/CONTROLLER/GROUP/yue-…      one for each controller
//! ```
//!
//! The node enters its group between fork and exec, so nothing of it runs outside. The group is removed after the
//! node's end, with what is left in it. Groups of owners that were killed are removed when another one is created.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use yue_scheduler::{LogLevel, lock, log, sleep};

/// The period in which a group gets its share of processor time, as the kernel's default is.
const PERIOD_US: u64 = 100_000;

/// The killed processes of a group have left it after a moment: so often, and in such steps, the removal is tried.
const REMOVALS: u32 = 100;
const REMOVAL_TIME: Duration = Duration::from_millis(10);

/// The beginning of the names of all groups.
const PREFIX: &str = "yue-";

/// The limits of a node.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: Option<u64>,
    /// A number of processors.
    pub(crate) cpu: Option<f64>,
}

/// The hierarchies of control groups, as this process sees them.
#[derive(Debug, Default)]
struct Hierarchies {
    /// The folder of this process's group, by controller of version 1.
    v1: Vec<(String, PathBuf)>,
    /// The folders in which a group of version 2 may be created.
    v2: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads `/proc/self/cgroup` and `/proc/self/mountinfo`; see cgroups(7) and proc(5).
    fn new(groups: &str, mounts: &str) -> Hierarchies {
        let mut all = Hierarchies::default();
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let mut place = place.split(' ').skip(3);
            let (root, folder) = (place.next().unwrap_or("/"), place.next().unwrap_or("/"));
            let mut kind = kind.split(' ');
            let name = kind.next();
            let options = kind.nth(1).unwrap_or("");
            for group in groups.lines() {
                let mut group = group.splitn(3, ':').skip(1);
                let (controllers, path) = (group.next().unwrap_or(""), group.next().unwrap_or(""));
                let inner = path.strip_prefix(root).unwrap_or("");
                let own = Path::new(folder).join(inner.trim_start_matches('/'));
                match name {
                    Some("cgroup2") if controllers.is_empty() => {
                        all.v2.extend(own.parent().map(Path::to_owned));
                        all.v2.push(own);
                    }
                    Some("cgroup") => {
                        let has = |it: &&str| options.split(',').any(|option| option == *it);
                        let mounted = controllers
                            .split(',')
                            .filter(|it| !it.is_empty() && has(it));
                        all.v1
                            .extend(mounted.map(|controller| (controller.to_owned(), own.clone())));
                    }
                    _ => {}
                }
            }
        }
        all
    }

    fn of_this_process() -> io::Result<Hierarchies> {
        Ok(Hierarchies::new(
            &fs::read_to_string("/proc/self/cgroup")?,
            &fs::read_to_string("/proc/self/mountinfo")?,
        ))
    }

    /// The folder in which a group for the controller may be created, and whether it is of version 2.
    fn parent(&self, controller: &str) -> Option<(&Path, bool)> {
        let delegates = |folder: &&PathBuf| {
            let list = fs::read_to_string(folder.join("cgroup.subtree_control"));
            list.is_ok_and(|list| list.split_whitespace().any(|it| it == controller))
        };
        if let Some(folder) = self.v2.iter().find(delegates) {
            return Some((folder, true));
        }
        let own = self.v1.iter().find(|(name, _)| name == controller);
        own.map(|(_, folder)| (folder.as_path(), false))
    }
}

/// A control group for one node. It is removed when it is dropped, if it is empty.
pub(super) struct Group {
    limits: Limits,
    folders: Vec<PathBuf>,
}

impl Group {
    /// Creates a group with those of the limits that this system can enforce. The log says once which it cannot.
    pub(super) fn new(limits: Limits, number: u64) -> Group {
        let mut group = Group {
            limits,
            folders: Vec::new(),
        };
        let all = Hierarchies::of_this_process();
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut set = |controller: &str, files: &[(&str, &str, String)]| {
            let all = all.as_ref().map_err(ToString::to_string)?;
            let (parent, is_v2) = all
                .parent(controller)
                .ok_or_else(|| format!("no control group for {controller} may be created"))?;
            remove_abandoned(parent);
            let folder = parent.join(&name);
            if !group.folders.contains(&folder) {
                fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
                group.folders.push(folder.clone());
            }
            for (index, (v1, v2, value)) in files.iter().enumerate() {
                let file = folder.join(if is_v2 { v2 } else { v1 });
                match fs::write(&file, value) {
                    // The first one is the limit itself. Systems lack the others.
                    Err(error) if index == 0 => {
                        return Err(format!("{}: {error}", file.display()));
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        if let Some(bytes) = limits.memory_bytes {
            let swap = "memory.memsw.limit_in_bytes";
            let files = [
                ("memory.limit_in_bytes", "memory.max", bytes.to_string()),
                (swap, "memory.swap.max", bytes.to_string()),
            ];
            say_once("memory", set("memory", &files));
        }
        if let Some(cpu) = limits.cpu {
            // The kernel's smallest quota is a millisecond.
            let quota = ((cpu * PERIOD_US as f64) as u64).max(1000);
            let text = |is_v2| match is_v2 {
                true => format!("{quota} {PERIOD_US}"),
                false => quota.to_string(),
            };
            let is_v2 = all
                .as_ref()
                .is_ok_and(|all| all.parent("cpu").is_some_and(|parent| parent.1));
            let files = [("cpu.cfs_quota_us", "cpu.max", text(is_v2))];
            say_once("cpu", set("cpu", &files));
        }
        group
    }

    /// The process that the command starts enters the group.
    pub(super) fn enter(&self, command: &mut Command) -> io::Result<()> {
        for folder in &self.folders {
            let file = OpenOptions::new()
                .write(true)
                .open(folder.join("cgroup.procs"))?;
            let enter = move || enter(&file);
            // SAFETY: between fork and exec only an async-signal-safe call is made, and nothing is allocated.
            unsafe { command.pre_exec(enter) };
        }
        Ok(())
    }

    /// Whether the kernel has killed a process of the group for its memory: the limit, for messages.
    pub(super) fn memory_cause(&self) -> Option<String> {
        let killed = self.folders.iter().any(|folder| {
            ["memory.events", "memory.oom_control"].iter().any(|file| {
                let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
                let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                count.is_some_and(|count| count.trim() != "0")
            })
        });
        let limit = self.limits.memory_bytes.filter(|_| killed)?;
        Some(format!("memory limit {}", size(limit)))
    }

    /// Removes the group, and what is left in it. In a fiber.
    pub(super) fn remove(mut self) {
        for folder in std::mem::take(&mut self.folders) {
            for _ in 0..REMOVALS {
                if fs::remove_dir(&folder).is_ok() || !folder.exists() {
                    break;
                }
                kill_all(&folder);
                if sleep(REMOVAL_TIME).is_err() {
                    break;
                }
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // It may not be empty; then it is removed with another group's creation.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Moves the calling process into the group. Async-signal-safe.
fn enter(processes: &File) -> io::Result<()> {
    // SAFETY: the buffer outlives the call.
    match unsafe { libc::write(processes.as_raw_fd(), c"0".as_ptr().cast(), 1) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn kill_all(folder: &Path) {
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in list
        .lines()
        .filter_map(|line| line.parse::<libc::pid_t>().ok())
    {
        // Zero stands for a process of another namespace.
        if pid > 0 {
            // SAFETY: no memory is passed.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Removes the groups of processes that have ended.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some((Ok(owner), _)) = rest
            .split_once('-')
            .map(|(pid, rest)| (pid.parse::<u32>(), rest))
        else {
            continue;
        };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            // Its node may still be on its way out.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Logs, once for each limit, why it is not enforced.
fn say_once(limit: &'static str, outcome: Result<(), String>) {
    static SAID: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let Err(why) = outcome else { return };
    let mut said = lock(&SAID);
    if !said.contains(&limit) {
        said.push(limit);
        log(
            LogLevel::Warn,
            format_args!("yue.nalloc: the option {limit} is not enforced here: {why}"),
        );
    }
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{bytes} bytes"),
        |(name, unit)| format!("{} {name}", bytes / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let groups = "4:memory:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/x\n0::/user/app/own\n";
        let mounts = "\
            31 2 0:27 / /cg/memory rw,relatime - cgroup cgroup rw,memory\n\
            32 2 0:28 / /cg/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            33 2 0:29 /user /cg/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let all = Hierarchies::new(groups, mounts);
        let v1: Vec<_> = all
            .v1
            .iter()
            .map(|(name, path)| (&**name, path.to_str()))
            .collect();
        let expected = [
            ("memory", Some("/cg/memory/a/b")),
            ("cpu", Some("/cg/cpu/")),
            ("cpuacct", Some("/cg/cpu/")),
        ];
        assert_eq!(v1, expected);
        assert_eq!(
            all.v2,
            [
                Path::new("/cg/unified/app"),
                Path::new("/cg/unified/app/own")
            ]
        );
    }

    #[test]
    fn a_delegated_group_of_version_2_comes_first() {
        let folder = std::env::temp_dir().join(format!("yue-limits-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        fs::write(folder.join("cgroup.subtree_control"), "cpu memory\n").expect("a file");
        let all = Hierarchies {
            v1: vec![
                ("memory".into(), "/v1".into()),
                ("pids".into(), "/v1".into()),
            ],
            v2: vec!["/nowhere".into(), folder.clone()],
        };
        assert_eq!(all.parent("memory"), Some((folder.as_path(), true)));
        assert_eq!(all.parent("pids"), Some((Path::new("/v1"), false)));
        assert_eq!(all.parent("io"), None);
        fs::remove_dir_all(folder).expect("it is ours");
    }

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_divides_them() {
        assert_eq!(size(512 << 20), "512 MiB");
        assert_eq!(size(3 << 30), "3 GiB");
        assert_eq!(size(1500), "1500 bytes");
    }
}

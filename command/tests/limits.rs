//! The options `memory` and `cpu` of `yue.nalloc` for nodes on this machine: control groups.

mod common;

use common::drivers;
use common::nodes::{run, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

/// Whether this process may create control groups that limit memory.
fn may_limit() -> bool {
    let folder =
        Path::new("/sys/fs/cgroup/memory").join(format!("yue-probe-{}", std::process::id()));
    let may = fs::create_dir(&folder).is_ok();
    let _ = fs::remove_dir(&folder);
    if !may {
        eprintln!("skipped: this user may not create control groups of version 1");
    }
    may
}

/// The groups of yue's nodes.
fn groups() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["memory", "cpu", "cpu,cpuacct"]
        .map(|controller| Path::new("/sys/fs/cgroup").join(controller))
        .into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        for path in entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
        {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("yue-") && !name.starts_with("yue-probe-") {
                found.push(path.clone());
            }
            folders.push(path);
        }
    }
    found
}

#[test]
fn a_node_that_needs_more_memory_than_it_may_have_says_so_in_the_error() {
    if !may_limit() {
        return;
    }
    for driver in drivers() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let said = run(
            &driver,
            folder.path(),
            "local k = yue.nalloc(function()
               function group() return io.open('/proc/self/cgroup'):read('*a') end
               function quota(path) local f = io.open(path) return f and f:read('*n') end
               function grow() local all = {} for i = 1, 1e9 do all[i] = ('x'):rep(2 ^ 20) .. i end end
             end, { memory = '64M', cpu = 0.5 })
             local own = 'yue%-' .. yue.process.run { 'sh', '-c', 'echo $PPID' }.out:match('%d+') .. '%-%d+'
             local groups = k.group()
             local cpu = groups:match(':cpu:(%S+)') or groups:match(':cpu,cpuacct:(%S+)')
             assert(groups:match(':memory:(%S+)'):find(own .. '$') and cpu:find(own .. '$'), groups)
             print(k.quota('/sys/fs/cgroup/cpu' .. cpu .. '/cpu.cfs_quota_us'))
             local ok, e = pcall(k.grow)
             print(ok, e.type, e.msg)",
        );
        assert!(
            said.starts_with("50000\nfalse\tConnectionLostError\t"),
            "{said}"
        );
        assert!(
            said.contains("was killed by signal 9: memory limit 64 MiB"),
            "{said}"
        );
        // Of other tests there may be some, but not for long.
        assert!(wait_until(|| groups().is_empty()), "left: {:?}", groups());
    }
}

#[test]
fn the_groups_of_a_killed_owner_are_removed_by_the_next_one() {
    if !may_limit() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let driver = &drivers()[0];
    let killed =
        "local k = yue.nalloc(function() function ping() return 1 end end, { memory = '64M' })
        assert(k.ping() == 1)
        yue.process.run { 'sh', '-c', 'kill -9 $PPID' }
        yue.sleep(60)";
    let mut owner = common::nodes::yue(driver, folder.path(), killed);
    let ended = owner.status().expect("yue runs");
    assert_eq!(ended.code(), None);
    let next =
        "local k = yue.nalloc(function() function ping() return 1 end end, { memory = '64M' })
        yue.conn(k):close()";
    // The node of the killed owner may still be on its way out.
    let none = wait_until(|| {
        run(driver, folder.path(), next);
        groups().is_empty()
    });
    assert!(none, "left: {:?}", groups());
}

#[test]
fn a_limit_that_is_not_enforced_is_logged_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ended = common::run_to_end(&mut common::nodes::yue(
        &drivers()[0],
        folder.path(),
        "for i = 1, 2 do
           local k = yue.nalloc('thread', function() function ping() return 1 end end, { memory = '64M' })
           assert(k.ping() == 1)
           yue.conn(k):close()
         end",
    ));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let warnings = ended
        .stderr
        .matches("the options memory and cpu are not enforced in a thread");
    assert_eq!(warnings.count(), 1, "{}", ended.stderr);
}

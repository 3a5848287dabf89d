//! Shared by the tests of carriers: servers of their own, processes that are left, and tests that are skipped.

use super::{Ended, run_to_end};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing that is waited for takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A test that this machine cannot run: says so, and fails where `ci/nodes` says that it must run.
pub fn skip(what: &str) {
    eprintln!("skipped: {what}");
    assert!(!runs_servers(), "ci/nodes must not skip this: {what}");
}

/// The path of a program; `None` if this machine does not have it.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let mut paths = folders.map(|folder| Path::new(folder).join(name));
    paths.find(|path| path.is_file())
}

/// Whether this run is that of `ci/nodes`. Other runs leave servers alone: they would take minutes, and ports.
pub fn runs_servers() -> bool {
    std::env::var("YUE_NODES").is_ok_and(|value| !value.is_empty())
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::geteuid() == 0 }
}

/// Waits until the condition is true; returns whether it became so.
pub fn wait_until(mut is_true: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !is_true() {
        if since.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The processes whose command line or environment has that text, except this one.
pub fn processes_with(text: &str) -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("Linux has it").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |pid: u32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let pids = pids.filter(|pid| *pid != std::process::id());
    let all = pids.map(|pid| (pid, read(pid, "cmdline"), read(pid, "environ")));
    // The test's own server is none of them.
    let all = all.filter(|(_, line, _)| !line.contains("sshd -D"));
    let with = all.filter(|(_, line, variables)| line.contains(text) || variables.contains(text));
    with.map(|(pid, line, _)| (pid, line)).collect()
}

/// Waits until no process with that text is left.
#[track_caller]
pub fn assert_none_left(text: &str, when: &str) {
    let none = wait_until(|| processes_with(text).is_empty());
    assert!(none, "{when}, these are left: {:?}", processes_with(text));
}

/// Sends SIGKILL to a process.
pub fn kill(pid: u32) {
    // SAFETY: no memory is passed.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

/// The command under test, running a script.
pub fn yue(driver: &str, folder: &Path, script: &str) -> Command {
    let path = folder.join("owner.lua");
    fs::write(&path, script).expect("a file in a temporary folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
    command
        .args(["--io", driver])
        .arg(path)
        .env("XDG_CACHE_HOME", folder.join("own-cache"))
        .env("YUE_WATCHDOG", "0")
        .env_remove("YUE_LOG")
        .env_remove("YUE_IO");
    command
}

/// Runs a script to its end, which must be a good one; returns its output.
#[track_caller]
pub fn run(driver: &str, folder: &Path, script: &str) -> String {
    let Ended {
        code,
        stdout,
        stderr,
    } = run_to_end(&mut yue(driver, folder, script));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    stdout
}

/// The library of most tests.
pub const LIBRARY: &str = "\
function ping() return 'pong' end
function pid() return yue.node.pid or tonumber(io.open('/proc/self/stat'):read('*n')) end
function variable(name) return os.getenv(name) end
function folder() return (yue.fs.realpath or tostring)('.') end
function line() return (io.open('/proc/self/cmdline'):read('*a'):gsub('%z', ' ')) end
";

/// Writes the library into the folder.
pub fn library(folder: &Path) -> String {
    let path = folder.join("library.lua");
    fs::write(&path, LIBRARY).expect("a file in a temporary folder");
    path.display().to_string()
}

/// An sshd on loopback with keys of its own.
pub struct Sshd {
    pub folder: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

impl Sshd {
    /// Starts it; `None`, said, if this machine cannot. `setup` is run by a shell in the server's own mount namespace
    /// before, if it is not empty.
    pub fn start(setup: &str) -> Option<Sshd> {
        if !runs_servers() {
            skip("sshd is started by ci/nodes");
            return None;
        }
        let Some(server) = program("sshd") else {
            skip("there is no sshd; install openssh-server");
            return None;
        };
        if program("ssh").is_none() {
            skip("there is no ssh; install openssh-client");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("cache")).expect("a folder");
        if is_root() {
            // sshd wants it.
            fs::create_dir_all("/run/sshd").expect("root may");
        }
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = port.local_addr().expect("it is bound").port();
        let sshd = |path: &str| folder.path().join(path).display().to_string();
        key(&folder.path().join("host"));
        key(&folder.path().join("user"));
        fs::copy(sshd("user.pub"), sshd("authorized")).expect("a file");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 200\n\
             SetEnv XDG_CACHE_HOME={}\n",
            sshd("host"),
            sshd("authorized"),
            sshd("cache"),
        );
        fs::write(sshd("config"), config).expect("a file");
        let server = format!("exec {} -D -e -f {}", server.display(), sshd("config"));
        let mut command = if setup.is_empty() {
            Command::new("sh")
        } else {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "--propagation", "private", "sh"]);
            unshare
        };
        let log = fs::File::create(sshd("log")).expect("a file");
        let child = command
            .args(["-c", &format!("{setup}\n{server}")])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a shell");
        let sshd = Sshd {
            folder,
            port,
            child,
        };
        let listens = wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(listens, "sshd does not listen: {}", sshd.read("log"));
        Some(sshd)
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A key that may run that text of shell only; the client's command is `$SSH_ORIGINAL_COMMAND`.
    pub fn forced(&self, name: &str, shell: &str) {
        fs::write(self.path(&format!("{name}.sh")), shell).expect("a file");
        key(&self.folder.path().join(name));
        let line = format!(
            "command=\"sh {}\" {}",
            self.path(&format!("{name}.sh")),
            self.read(&format!("{name}.pub"))
        );
        let all = self.read("authorized") + &line;
        fs::write(self.path("authorized"), all).expect("a file");
    }

    /// The target, for a script, with that key.
    pub fn target(&self, key: &str) -> String {
        format!(
            "{{ address = 'ssh://127.0.0.1:{}', host_key = [[{}]], identity = '{}', config = '/dev/null' }}",
            self.port,
            self.read("host.pub").trim(),
            self.path(key),
        )
    }

    /// The names of the files in the host's cache.
    pub fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache/yue/bin"));
        let names = entries.into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(made.is_ok_and(|status| status.success()), "no key");
}

/// Writes an executable shell script.
pub fn script(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

//! The server is killed and started again in the middle of 1 000 fibers' calls, over each transport and on both
//! drivers; and links are cut at any byte. `yue/tests/conformance/restart/client.lua` calls and checks; these tests
//! kill, start and cut.
//!
//! Every fiber ends with a right answer or an error whose `retryable` is true or false, no call runs twice, and all
//! fibers succeed once the server is back. `YUE_RESTARTS=100` kills that often, instead of a few times, and cuts ten
//! times as many links; `YUE_SEED` repeats cuts; `YUE_CONFORMANCE=tls` chooses a transport, and `YUE_IO` a driver.

mod common;

use common::cutter::Cutter;
use common::{certificates, drivers, folder_of_the_suite, listed, wanted};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The number of times that the server is killed.
const RESTARTS: u64 = 4;

/// The number of links that are cut, for each time that a server would be killed.
const CUTS: u64 = 10;

/// Nothing takes a fraction of this, for each time that the server is killed.
const DEADLINE: Duration = Duration::from_secs(30);

/// A child that is killed when the test ends, however it ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One run: a transport, a driver, and the folder in which server and client meet.
struct Run<'a> {
    scheme: &'a str,
    driver: &'a str,
    folder: &'a Path,
    certificates: &'a Path,
    restarts: u64,
    deadline: Instant,
}

impl Run<'_> {
    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command
            .args(["--io", self.driver])
            .arg(folder_of_the_suite().join("restart").join(name))
            .arg(format!("folder={}", self.folder.display()))
            .arg(format!("transport={}", self.scheme))
            .env("YUE_CERTIFICATES", self.certificates)
            .env("YUE_WATCHDOG", "0")
            .env_remove("YUE_LOG")
            .stdin(Stdio::null())
            .stderr(self.log(name));
        command
    }

    /// The file that a script complains to.
    fn log(&self, name: &str) -> std::fs::File {
        let path = self.folder.join(format!("{name}.log"));
        let mut file = std::fs::OpenOptions::new();
        let file = file.create(true).append(true).open(path);
        file.expect("a file in a temporary folder")
    }

    /// Starts a client, and returns it.
    fn client(&self, address: Option<&str>) -> Killed {
        let mut command = self.script("client.lua");
        command.args(address.map(|address| format!("address={address}")));
        command.arg(format!("rounds={}", self.restarts));
        Killed(command.stdout(Stdio::piped()).spawn().expect("yue runs"))
    }

    /// Starts a server, and returns where it listens.
    fn server(&self, address: Option<&str>) -> Result<(Killed, String), String> {
        let mut command = self.script("server.lua");
        command.args(address.map(|address| format!("address={address}")));
        let child = command.stdout(Stdio::piped()).spawn().expect("yue runs");
        let mut child = Killed(child);
        let stdout = child.0.stdout.take().expect("it is a pipe");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        match line.trim_end().strip_prefix("serving at ") {
            Some(address) => Ok((child, address.to_owned())),
            None => Err(format!("the server does not serve: {read:?} {line:?}")),
        }
    }

    /// Waits until the server has executed that many calls more.
    fn wait_for_calls(&self, count: u64, client: &mut Killed) -> Result<(), String> {
        let journal = self.folder.join("journal");
        let size = || std::fs::metadata(&journal).map_or(0, |file| file.len());
        // A line has at most seven bytes.
        let goal = size() + count * 7;
        while size() < goal {
            if client.0.try_wait().expect("it is our child").is_some() {
                return Err("the client has ended".to_owned());
            }
            if Instant::now() > self.deadline {
                return Err("nothing is executed any more".to_owned());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills the servers behind `popen://`, which are children of the client.
    fn kill_listed(&self, already: &mut usize) {
        let text = std::fs::read_to_string(self.folder.join("pids")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        for pid in all.iter().skip(*already) {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            let ours = command.is_ok_and(|line| line.contains(&*self.folder.to_string_lossy()));
            if let (true, Ok(pid)) = (ours, pid.parse()) {
                // SAFETY: a plain system call; the process has this test's folder in its command line.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        *already = all.len();
    }

    /// Kills the server, and starts another one at its address.
    fn restart_servers(&self) -> Result<(), String> {
        let runs_in = |place| listed(place).iter().any(|scheme| scheme == self.scheme);
        let (in_client, by_client) = (runs_in("thread "), runs_in("child "));
        let mut server = match in_client || by_client {
            true => None,
            false => Some(self.server(None)?),
        };
        let address = server.as_ref().map(|(_, address)| address.clone());
        let mut client = self.client(address.as_deref());
        let mut killed = 0;
        for round in 0..self.restarts {
            if in_client {
                break;
            }
            // Sometimes at once, sometimes after a while.
            self.wait_for_calls([1, 3000, 300][round as usize % 3], &mut client)?;
            if by_client {
                self.kill_listed(&mut killed);
            } else {
                drop(server.take());
                // In odd rounds clients find nobody for a while.
                std::thread::sleep(Duration::from_millis(200) * (round % 2) as u32);
                server = Some(self.server(address.as_deref())?);
            }
        }
        self.finish(client)?;
        // A server that is killed leaves its file behind.
        drop(server);
        let file = address
            .as_deref()
            .and_then(|address| address.strip_prefix("unix://"));
        file.map_or(Ok(()), std::fs::remove_file)
            .map_err(|error| error.to_string())
    }

    /// Cuts links that pass through a relay.
    fn cut_links(&self, seed: u64) -> Result<(), String> {
        let (_server, address) = self.server(None)?;
        let port = |text: &str| {
            text.split([':', '/'])
                .filter_map(|part| part.parse().ok())
                .next()
        };
        let to: u16 = port(&address).ok_or("no port")?;
        let cutter = Cutter::new(to, seed);
        let client = address.replace(&format!(":{to}"), &format!(":{}", cutter.port));
        let mut client = self.client(Some(&client));
        while cutter.links_cut.load(Ordering::Relaxed) < self.restarts * CUTS {
            self.wait_for_calls(1, &mut client)?;
        }
        cutter.cuts.store(false, Ordering::Relaxed);
        self.finish(client)
    }

    /// Lets the client end, and reads what it found.
    fn finish(&self, mut client: Killed) -> Result<(), String> {
        std::fs::write(self.folder.join("finish"), "").expect("a file in a temporary folder");
        let status = loop {
            if let Some(status) = client.0.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > self.deadline {
                return Err("the client does not end".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        let mut stdout = client.0.stdout.take().expect("it is a pipe");
        stdout
            .read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        println!("{}:// on {}: {}", self.scheme, self.driver, text.trim_end());
        match status.success() && text.ends_with("done\n") {
            true => Ok(()),
            false => Err(format!("{status}: {text}")),
        }
    }

    /// The end of the scripts' complaints.
    fn complaints(&self) -> String {
        let of = |name: &str| {
            let text = std::fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let end = &text[text.len().saturating_sub(2000)..];
            format!("{name}: …{}\n", String::from_utf8_lossy(end))
        };
        of("server.lua") + &of("client.lua")
    }
}

/// Disturbs the calls over each of the transports, on each driver.
fn over_each(schemes: &[String], disturb: impl Fn(&Run<'_>) -> Result<(), String> + Sync) {
    let restarts = std::env::var("YUE_RESTARTS").ok();
    let restarts = restarts.map_or(RESTARTS, |number| {
        number.parse().expect("YUE_RESTARTS is a number")
    });
    let certificates = certificates();
    let mut runs = Vec::new();
    for driver in drivers() {
        runs.extend(schemes.iter().map(|scheme| (driver.clone(), scheme)));
    }
    let (runs, failed) = (Mutex::new(runs), Mutex::new(Vec::new()));
    let next = || runs.lock().expect("no worker panics").pop();
    let work = || {
        while let Some((driver, scheme)) = next() {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let run = Run {
                scheme,
                driver: &driver,
                folder: folder.path(),
                certificates: certificates.path(),
                restarts,
                deadline: Instant::now() + DEADLINE * restarts.max(4) as u32,
            };
            if let Err(why) = disturb(&run) {
                let text = format!("--- {scheme}:// on {driver}: {why}\n{}", run.complaints());
                failed.lock().expect("no worker panics").push(text);
            }
        }
    };
    // Two at a time: a process that cannot run shows nothing.
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().expect("no worker panics");
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[test]
fn calls_survive_a_server_that_is_killed_again_and_again() {
    over_each(&wanted(listed("restarts ")), |run| run.restart_servers());
}

#[test]
fn calls_survive_links_that_are_cut_at_any_byte() {
    let seed = std::env::var("YUE_SEED").ok();
    let seed = seed.map_or_else(random, |seed| seed.parse().expect("YUE_SEED is a number"));
    println!("YUE_SEED={seed}");
    over_each(&wanted(listed("port ")), |run| run.cut_links(seed));
}

/// A number that differs from run to run.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

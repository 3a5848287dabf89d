//! Connections come and go while processes of either side are killed at random: nothing may be left behind.
//!
//! ```text
//!   lasting server  ◀──┬── lasting clients          the lasting two are watched: memory, descriptors, counters
//!   mortal server   ◀──┴── mortal clients (two)     the mortal ones are killed (SIGKILL) and started again
//! ```
//!
//! Each of the lasting two meets peers that die in the middle of anything. Three seconds on each driver; as many as
//! `YUE_CHURN_SECONDS` says, which should be 600 before a release.

mod common;

use common::{LONG, drivers, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a mortal process lives: somewhere up to this.
const LIFE_MS_MAX: u64 = 600;
/// What memory may grow by after warming up: heaps and stack pools reach their highest level late.
const GROWTH_BYTES_MAX: usize = 2 << 20;

/// One process of the program `churn`; killed when dropped.
struct Churn {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    /// What it said first.
    greeting: String,
}

/// What a process has at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    fibers: u64,
    operations: u64,
    timers: u64,
    descriptors: usize,
}

impl Churn {
    fn start(driver: &str, arguments: &[&str]) -> Churn {
        let mut child = Command::new(env!("CARGO_BIN_EXE_churn"))
            .args(arguments)
            .env("YUE_IO", driver)
            .env("YUE_WATCHDOG", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut churn = Churn {
            commands: child.stdin.take().unwrap(),
            child,
            lines,
            greeting: String::new(),
        };
        churn.greeting = churn.line();
        churn
    }

    #[track_caller]
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(LONG);
        line.unwrap_or_else(|error| panic!("process {}: {error}", self.child.id()))
    }

    fn address(&self) -> &str {
        self.greeting.strip_prefix("serving at ").unwrap()
    }

    /// Has it do something; what it has afterwards, and how many connections it has seen end.
    #[track_caller]
    fn tell(&mut self, command: &str) -> (Holdings, u64) {
        writeln!(self.commands, "{command}").unwrap();
        let line = self.line();
        let words: Vec<&str> = line.split(' ').collect();
        let &[
            "fibers",
            fibers,
            "operations",
            operations,
            "timers",
            timers,
            "ended",
            ended,
        ] = &words[..]
        else {
            panic!("not an answer: {line:?}");
        };
        let number = |text: &str| text.parse().unwrap();
        let holdings = Holdings {
            fibers: number(fibers),
            operations: number(operations),
            timers: number(timers),
            descriptors: std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
                .unwrap()
                .count(),
        };
        (holdings, number(ended))
    }

    /// Resident memory in bytes.
    fn memory(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap().parse::<usize>().unwrap() << 10
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        // It may have ended by itself, which the next line that is asked of it tells.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All processes of one run.
struct Run {
    driver: &'static str,
    server: Churn,
    clients: Churn,
    mortal_server: Churn,
    mortal_clients: [Churn; 2],
    random: u64,
    kills: u64,
}

impl Run {
    /// The processes, and what the lasting two have before anything happens.
    fn start(driver: &'static str) -> (Run, [Holdings; 2]) {
        let mut server = Churn::start(driver, &["serve"]);
        let mortal_server = Churn::start(driver, &["serve"]);
        let mut clients = Churn::start(
            driver,
            &["connect", server.address(), mortal_server.address()],
        );
        let base = [server.tell("count").0, clients.tell("count").0];
        clients.tell("begin");
        let mortal = |_| Run::mortal_clients(driver, &server, &mortal_server);
        let run = Run {
            driver,
            mortal_clients: [0, 1].map(mortal),
            server,
            clients,
            mortal_server,
            random: 0x9e37_79b9_7f4a_7c15,
            kills: 0,
        };
        (run, base)
    }

    fn mortal_clients(driver: &str, server: &Churn, mortal: &Churn) -> Churn {
        let mut clients = Churn::start(driver, &["connect", server.address(), mortal.address()]);
        clients.tell("begin");
        clients
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    /// Lets some time pass, kills one of the mortal processes and starts it again.
    fn kill_one(&mut self) {
        std::thread::sleep(Duration::from_millis(self.below(LIFE_MS_MAX / 3)));
        self.kills += 1;
        match self.below(3) as usize {
            2 => {
                // At another port: while nobody listens at the old one, a client's own port may come to be that one.
                self.mortal_server = Churn::start(self.driver, &["serve"]);
                let at = format!("at 1 {}", self.mortal_server.address());
                self.clients.tell(&at);
                for clients in &mut self.mortal_clients {
                    clients.tell(&at);
                }
            }
            which => {
                self.mortal_clients[which] =
                    Run::mortal_clients(self.driver, &self.server, &self.mortal_server);
            }
        }
    }

    /// Churns for `time`; the most memory that the lasting two had.
    fn churn(&mut self, time: Duration) -> [usize; 2] {
        let deadline = Instant::now() + time;
        let mut most = [0; 2];
        while Instant::now() < deadline {
            self.kill_one();
            most[0] = most[0].max(self.server.memory());
            most[1] = most[1].max(self.clients.memory());
        }
        most
    }
}

#[test]
fn connections_come_and_go_under_kills_and_leave_nothing_behind() {
    let seconds = std::env::var("YUE_CHURN_SECONDS").map_or(3, |text| text.parse().unwrap());
    for driver in drivers() {
        churn(driver, Duration::from_secs(seconds));
    }
}

fn churn(driver: &'static str, time: Duration) {
    const PARTS: u32 = 10;
    let (mut run, base) = Run::start(driver);
    let most: Vec<[usize; 2]> = (0..PARTS).map(|_| run.churn(time / PARTS)).collect();
    // The mortal ones die a last time, and with them what the lasting two still have of them.
    drop(run.mortal_clients);
    drop(run.mortal_server);
    let (_, connected) = run.clients.tell("quiet");
    let (_, served) = run.server.tell("count");
    println!(
        "{driver}: {} kills, {connected} connections made, {served} served; memory of server and clients, in KiB, a \
         tenth of the time each: {:?}",
        run.kills,
        most.iter()
            .map(|[server, clients]| (server >> 10, clients >> 10))
            .collect::<Vec<_>>()
    );
    assert!(connected > 0 && served > 0);
    for (process, base, name) in [
        (&mut run.server, base[0], "server"),
        (&mut run.clients, base[1], "clients"),
    ] {
        wait_until(
            &format!("the {name} on {driver} have {base:?} again"),
            || process.tell("count").0 == base,
        );
    }
    // The first parts fill what is kept for reuse.
    let highest =
        |parts: &[[usize; 2]], which: usize| parts.iter().map(|part| part[which]).max().unwrap();
    for (which, name) in ["server", "clients"].iter().enumerate() {
        let (warm, last) = (highest(&most[..4], which), highest(&most[7..], which));
        assert!(
            last <= warm + GROWTH_BYTES_MAX,
            "on {driver} the {name} grew from {warm} to {last} bytes"
        );
    }
}

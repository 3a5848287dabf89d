//! Chaos: a schedule that a seed determines, from mild to merciless.

use super::{Fault, Schedule, Scheduled};
use crate::sim::{DiskFaults, DiskLatency, Link};
use std::time::Duration;
use yue_scheduler::simulation::{Random, mix};

/// The kinds of faults, each with the level from which it happens and its share of all.
type Kinds = &'static [(Kind, u8, u64)];

/// Those of hosts and of the network, which every program meets.
const KINDS: Kinds = &[
    (Kind::Link, 1, 4),
    (Kind::ShortTransfers, 1, 2),
    (Kind::Reset, 1, 2),
    (Kind::Partition, 2, 4),
    (Kind::Crash, 3, 3),
    (Kind::Freeze, 3, 2),
    (Kind::PartitionOneWay, 3, 2),
    (Kind::ClockDrift, 4, 1),
];

/// Those of disks and wall clocks, which many programs do not use. So they take no share of the others, but come in
/// addition: see [`ONE_IN`].
const DISK_KINDS: Kinds = &[
    (Kind::DiskLatency, 1, 2),
    (Kind::ShortFileTransfers, 2, 1),
    (Kind::FreezeDisk, 2, 2),
    (Kind::DiskErrors, 3, 3),
    (Kind::DiskFull, 3, 2),
    (Kind::CrashAtOperation, 3, 4),
    (Kind::ClockJump, 4, 2),
];

/// The number of other faults for each fault of a disk or a wall clock.
const ONE_IN: u128 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Link,
    ShortTransfers,
    Reset,
    Partition,
    Crash,
    Freeze,
    PartitionOneWay,
    ClockDrift,
    ClockJump,
    DiskLatency,
    ShortFileTransfers,
    DiskErrors,
    DiskFull,
    FreezeDisk,
    CrashAtOperation,
}

/// The faults in ten seconds, by level.
const IN_TEN_SECONDS: [u128; 5] = [2, 4, 8, 15, 30];

/// The longest time that a fault lasts, by level.
const LONGEST: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];

/// The shortest time that a fault lasts, and the earliest time of one: a few packets' way.
const SHORTEST: Duration = Duration::from_millis(1);

/// More faults than a schedule of any length has. They would only make runs slow.
const MOST_FAULTS: u128 = 2_000;

/// Random faults. Each has an end, and after [`Chaos::within`] all is quiet, so that the system can recover.
///
/// ```
/// use std::time::Duration;
/// use yue::sim::Chaos;
///
/// let chaos = Chaos::level(3).within(Duration::from_secs(10));
/// let schedule = chaos.schedule(17, &["bank", "customer"]);
/// assert_eq!(schedule, chaos.schedule(17, &["bank", "customer"]));
/// assert!(!schedule.is_empty());
/// assert!(schedule.faults().iter().all(|fault| fault.until <= Some(Duration::from_secs(10))));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Chaos {
    level: u8,
    within: Duration,
    hosts: Option<Vec<String>>,
}

impl Chaos {
    /// Faults of a level from 1 to 5; a lower or higher one counts as 1 or 5.
    ///
    /// | level | faults in 10 s | each lasts up to | kinds |
    /// |---|---|---|---|
    /// | 1 | 2 | 0.5 s | slow and lossy links, short reads and writes, connections that are reset |
    /// | 2 | 4 | 2 s | also partitions |
    /// | 3 | 8 | 5 s | also crashes, freezes, partitions in one direction |
    /// | 4 | 15 | 10 s | also clocks that are too fast or too slow |
    /// | 5 | 30 | 20 s | the same, most of the time |
    ///
    /// One fault of a disk or a wall clock comes in addition to every four of these:
    ///
    /// | level | kinds |
    /// |---|---|
    /// | 1 | slow disks |
    /// | 2 | also short reads and writes of files, disks that hang |
    /// | 3 | also errors of disks, full disks, crashes at an operation of a disk |
    /// | 4, 5 | also wall clocks that jump |
    ///
    /// A program that has no files meets as many of the others as if there were none of disks.
    pub fn level(level: u8) -> Chaos {
        Chaos {
            level: level.clamp(1, 5),
            within: Duration::from_secs(30),
            hosts: None,
        }
    }

    /// Sets the time within which all faults begin and end; 30 s by default.
    pub fn within(mut self, within: Duration) -> Chaos {
        self.within = within;
        self
    }

    /// Sets the hosts to which faults happen; by default all but `scenario`.
    pub fn hosts<S: Into<String>>(mut self, hosts: impl IntoIterator<Item = S>) -> Chaos {
        self.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Returns the schedule of a seed for a system of these hosts.
    pub fn schedule<S: AsRef<str>>(&self, seed: u64, hosts: &[S]) -> Schedule {
        let all = || hosts.iter().map(|host| host.as_ref().to_owned()).collect();
        let hosts: Vec<String> = self.hosts.clone().unwrap_or_else(all);
        if hosts.is_empty() || self.within < 2 * SHORTEST {
            return Schedule::new();
        }
        let level = usize::from(self.level) - 1;
        // One fault more than the share of the time: the shortest run has some, too.
        let count = self.within.as_millis() * IN_TEN_SECONDS[level] / 10_000;
        let count = (count + 1).min(MOST_FAULTS);
        let groups = groups(hosts);
        let maker = |kinds, sequence| Maker {
            kinds,
            // The run itself has the seed's own sequence.
            random: Random::new(mix(seed ^ sequence)),
            level: self.level,
            within: self.within,
            longest: LONGEST[level].min(self.within / 2),
            groups: groups.clone(),
        };
        let mut schedule = maker(KINDS, 0x6368_616f_7300).make(count);
        let of_disks = maker(DISK_KINDS, 0x6469_736b_7300).make(count.div_ceil(ONE_IN));
        schedule.extend(of_disks.faults);
        schedule
    }
}

impl From<u8> for Chaos {
    fn from(level: u8) -> Chaos {
        Chaos::level(level)
    }
}

/// Groups hosts whose names differ in the number at their end only. Twenty bots and a server are two groups, so most
/// faults meet the server, and not two bots that have nothing to do with each other.
fn groups(hosts: Vec<String>) -> Vec<Vec<String>> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for host in hosts {
        let stem = host.trim_end_matches(|c: char| c.is_ascii_digit());
        match groups.iter_mut().find(|(name, _)| name == stem) {
            Some((_, members)) => members.push(host),
            None => groups.push((stem.to_owned(), vec![host])),
        }
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

struct Maker {
    kinds: Kinds,
    random: Random,
    level: u8,
    within: Duration,
    longest: Duration,
    groups: Vec<Vec<String>>,
}

impl Maker {
    fn make(&mut self, count: u128) -> Schedule {
        (0..count).map(|_| self.scheduled()).collect()
    }

    fn scheduled(&mut self) -> Scheduled {
        let fault = self.fault();
        let lasts = self.log_uniform(SHORTEST, self.longest);
        let last_begin = self.within.saturating_sub(lasts);
        // Programs connect and greet each other in their first moments, so a third of the faults begin there.
        let at = match self.random.below(3) {
            0 => self.log_uniform(SHORTEST / 10, last_begin),
            _ => whole_micros(self.random.up_to(last_begin)),
        };
        let until = (!fault.is_instant()).then_some(at + lasts);
        Scheduled { at, fault, until }
    }

    fn fault(&mut self) -> Fault {
        let kind = self.kind();
        match kind {
            Kind::Link => {
                let (one, other) = self.pair();
                let link = self.link();
                Fault::Link(one, other, link)
            }
            Kind::ShortTransfers => {
                let (read, write) = (self.probability(60), self.probability(60));
                Fault::ShortTransfers(self.host(), read, write)
            }
            Kind::Reset => {
                let (one, other) = self.pair();
                Fault::ResetConnections(one, other)
            }
            Kind::Partition => {
                let (one, other) = self.pair();
                Fault::Partition(one, other)
            }
            Kind::PartitionOneWay => {
                let (one, other) = self.pair();
                match self.random.chance(0.5) {
                    true => Fault::PartitionOneWay(one, other),
                    false => Fault::PartitionOneWay(other, one),
                }
            }
            Kind::Crash => Fault::Crash(self.host()),
            Kind::Freeze => Fault::Freeze(self.host()),
            Kind::ClockDrift => {
                let ppm = self.random.below(20_001) as i64 - 10_000;
                Fault::ClockDrift(self.host(), ppm)
            }
            Kind::ClockJump => {
                // From a millisecond, as by NTP, to a day, as by somebody who sets it.
                let day = Duration::from_secs(86_400);
                let ms = self.log_uniform(Duration::from_millis(1), day).as_millis() as i64;
                let by_ms = if self.random.chance(0.5) { ms } else { -ms };
                Fault::ClockJump(self.host(), by_ms)
            }
            _ => self.disk_fault(kind),
        }
    }

    fn disk_fault(&mut self, kind: Kind) -> Fault {
        let host = self.host();
        match kind {
            Kind::DiskLatency => {
                let millisecond = Duration::from_millis(1);
                let mut up_to = |ms| {
                    let time = self.log_uniform(millisecond, Duration::from_millis(ms));
                    Duration::from_millis(time.as_millis() as u64)
                };
                let (operation, jitter, sync) = (up_to(50), up_to(100), up_to(2_000));
                let latency = DiskLatency {
                    operation,
                    jitter,
                    sync,
                };
                Fault::DiskLatency(host, latency)
            }
            Kind::ShortFileTransfers => {
                let (short_read, short_write) = (self.probability(60), self.probability(60));
                let faults = DiskFaults {
                    short_read,
                    short_write,
                    ..DiskFaults::default()
                };
                Fault::DiskFaults(host, faults)
            }
            Kind::DiskFull => Fault::DiskFull(host),
            Kind::FreezeDisk => Fault::FreezeDisk(host),
            // A program begins few operations in the time of a fault.
            Kind::CrashAtOperation => Fault::CrashAtOperation(host, 1 + self.random.below(30)),
            _ => {
                let mut faults = DiskFaults::default();
                // One kind of operation: when all fail, a program gets nowhere.
                let percent = 1 + self.random.below(10 * u64::from(self.level));
                let field = match self.random.below(6) {
                    0 => &mut faults.open,
                    1 => &mut faults.read,
                    2 => &mut faults.write,
                    3 => &mut faults.inspect,
                    4 => &mut faults.change,
                    _ => &mut faults.sync,
                };
                *field = percent as f64 / 100.0;
                Fault::DiskFaults(host, faults)
            }
        }
    }

    fn kind(&mut self) -> Kind {
        let (level, kinds) = (self.level, self.kinds);
        let possible = || kinds.iter().filter(|(_, from, _)| *from <= level);
        let mut left = self.random.below(possible().map(|(.., share)| share).sum());
        for (kind, _, share) in possible() {
            match left.checked_sub(*share) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        kinds[0].0
    }

    fn host(&mut self) -> String {
        let group = self.random.below(self.groups.len() as u64) as usize;
        self.member(group)
    }

    fn member(&mut self, group: usize) -> String {
        let members = &self.groups[group];
        members[self.random.below(members.len() as u64) as usize].clone()
    }

    /// Chooses two hosts, of different groups if there are several. A single host is paired with the scenario.
    fn pair(&mut self) -> (String, String) {
        let count = self.groups.len() as u64;
        if count == 1 {
            let members = &self.groups[0];
            let first = self.random.below(members.len() as u64) as usize;
            let step = 1 + self.random.below(members.len() as u64 - 1) as usize;
            let second = match members.len() {
                1 => "scenario".to_owned(),
                len => members[(first + step) % len].clone(),
            };
            return (members[first].clone(), second);
        }
        let first = self.random.below(count);
        let second = (first + 1 + self.random.below(count - 1)) % count;
        (self.member(first as usize), self.member(second as usize))
    }

    fn link(&mut self) -> Link {
        let milliseconds = self.log_uniform(Duration::from_millis(1), Duration::from_millis(300));
        let latency = Duration::from_millis(milliseconds.as_millis() as u64);
        let jitter = Duration::from_millis(self.random.below(latency.as_millis() as u64 + 1));
        let bandwidth = self.random.chance(0.2);
        Link {
            latency,
            jitter,
            loss: self.probability(6 * u64::from(self.level)),
            duplicate: self.probability(2 * u64::from(self.level)),
            reorder: self.probability(4 * u64::from(self.level)),
            bandwidth: bandwidth.then(|| 1_000 * (2 + self.random.below(500))),
        }
    }

    /// Returns a probability of whole percents.
    fn probability(&mut self, most_percent: u64) -> f64 {
        self.random.below(most_percent + 1) as f64 / 100.0
    }

    /// Returns a time whose magnitude is random: a millisecond is as likely as a second.
    fn log_uniform(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let doublings = (longest.as_micros() / shortest.as_micros().max(1))
            .max(1)
            .ilog2();
        let low = shortest * (1 << self.random.below(u64::from(doublings) + 1));
        whole_micros(low + self.random.up_to(low)).min(longest.max(shortest))
    }
}

/// Drops digits that nobody wants to read.
fn whole_micros(time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_ends_in_time_and_is_read_back_from_its_text() {
        let mut kinds = [0; 5];
        for seed in 0..200 {
            for level in 1..=5 {
                let within = Duration::from_millis(10 + seed * 313);
                let chaos = Chaos::level(level).within(within);
                let schedule = chaos.schedule(seed, &["bank", "bot1", "bot2", "bot3"]);
                assert!(!schedule.is_empty());
                for one in schedule.faults() {
                    assert!(one.at <= within && one.until.is_none_or(|until| until <= within));
                    assert!(one.until.is_some() || one.fault.is_instant(), "{one}");
                }
                assert_eq!(schedule.to_string().parse(), Ok(schedule.clone()));
                kinds[usize::from(level) - 1] += schedule.len();
            }
        }
        assert!(kinds.is_sorted(), "{kinds:?}");
    }

    #[test]
    fn faults_of_disks_and_clocks_replace_no_others() {
        for level in 1..=5 {
            let schedule = Chaos::level(level).schedule(7, &["bank", "bot1"]);
            let of_disks = |one: &&Scheduled| {
                let text = one.fault.to_string();
                text.contains("disk") || text.contains("operation") || text.contains("jump-clock")
            };
            let (disks, all) = (
                schedule.faults().iter().filter(of_disks).count(),
                schedule.len(),
            );
            let others = all - disks;
            assert_eq!(
                others as u128,
                3 * IN_TEN_SECONDS[usize::from(level) - 1] + 1
            );
            assert_eq!(disks, others.div_ceil(4));
        }
    }

    #[test]
    fn a_level_has_its_kinds_and_its_hosts() {
        let text = |level, seed| {
            Chaos::level(level)
                .schedule(seed, &["bank", "bot1", "bot2"])
                .to_string()
        };
        let all = |level| -> String { (0..50).map(|seed| text(level, seed)).collect() };
        let (mild, wild) = (all(1), all(4));
        for kind in ["partition", "crash", "freeze", "drift"] {
            assert!(!mild.contains(kind) && wild.contains(kind), "{kind}");
        }
        assert!(mild.contains("link") && mild.contains("reset") && wild.contains("->"));
        // Bots are one group, so no fault is between two of them.
        assert!(!wild.contains("bot1 bot2") && !wild.contains("bot2 bot1"));
        // What concerns disks and wall clocks alone begins mildly, too.
        let (full, harsh) = (all(2), all(3));
        for (kind, milder, from) in [
            ("short-write", &mild, &full),
            ("freeze-disk", &mild, &full),
            ("disk-full", &full, &harsh),
            ("sync=0", &full, &harsh),
            ("crash-at-operation", &full, &harsh),
            ("jump-clock", &harsh, &wild),
        ] {
            assert!(!milder.contains(kind) && from.contains(kind), "{kind}");
        }
        assert!(mild.contains("disk-latency"));
        let one = Chaos::level(5).schedule(1, &["alone"]).to_string();
        assert!(one.contains("partition alone scenario"), "{one}");
        let nobody = Chaos::level(5).hosts(Vec::<String>::new());
        assert!(nobody.schedule(1, &["alone"]).is_empty());
        assert_ne!(text(3, 1), text(3, 2));
    }
}

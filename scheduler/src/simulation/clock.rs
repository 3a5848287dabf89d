//! The clocks and the randomness of a simulated host.

use super::{is_on, with_me};
use crate::lock::lock;
use std::hash::{BuildHasher, DefaultHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// The virtual time that a reading of the clock takes. Code that reads it until it has advanced comes to an end.
const READING_NS: u64 = 20;

/// The wall clock at the begin of a simulation: 2001-09-09 01:46:40 UTC, a round number of seconds since 1970.
const WALL_CLOCK_SECONDS: u64 = 1_000_000_000;

/// A millionth: the unit of drift.
const MILLION: i128 = 1_000_000;

/// A host's clocks, as they differ from the simulation's time. Relaxed accesses: the baton orders them.
#[derive(Debug, Default)]
pub(super) struct HostClock {
    /// Nanoseconds that the monotonic clock gains in a millisecond.
    pub(super) drift_ppm: AtomicI64,
    /// Nanoseconds that the wall clock is ahead.
    pub(super) wall_offset_ns: AtomicI64,
}

impl HostClock {
    fn to_local(&self, ns: u64) -> u64 {
        let drift = i128::from(self.drift_ppm.load(Ordering::Relaxed));
        (i128::from(ns) * (MILLION + drift) / MILLION) as u64
    }

    /// Converts a time of this clock into the simulation's, rounded up so that a timer is never early.
    pub(super) fn to_simulation(&self, ns: u64) -> u64 {
        let drift = i128::from(self.drift_ppm.load(Ordering::Relaxed));
        if drift == 0 {
            return ns;
        }
        let rate = MILLION + drift;
        let exact = (i128::from(ns) * MILLION + rate - 1) / rate;
        u64::try_from(exact).unwrap_or(u64::MAX)
    }
}

/// The monotonic clock of the calling thread's host; `None` outside simulations.
#[inline]
pub(crate) fn monotonic_ns() -> Option<u64> {
    if !is_on() {
        return None;
    }
    Some(with_me(|me| {
        let now = me.room.now_ns.fetch_add(READING_NS, Ordering::Relaxed) + READING_NS;
        me.clock.to_local(now)
    }))
}

/// The wall clock: that of the calling thread's host in a simulation, the system's elsewhere. Code that a simulation
/// should control reads it instead of [`SystemTime::now`].
pub fn wall_clock() -> SystemTime {
    let Some(ns) = monotonic_ns() else {
        return SystemTime::now();
    };
    let offset = with_me(|me| me.clock.wall_offset_ns.load(Ordering::Relaxed));
    let begin = Duration::from_secs(WALL_CLOCK_SECONDS).as_nanos() as i128;
    let ns = begin + i128::from(ns) + i128::from(offset);
    // The clock may jump back to 1970, and no further.
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

/// Fills `bytes` with random ones: of the seed's sequence in a simulation, the system's elsewhere.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    if is_on() {
        with_me(|me| lock(&me.room.state).random.fill(bytes));
        return Ok(());
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: pointer and length describe a live, writable slice.
        let count = unsafe { libc::syscall(libc::SYS_getrandom, rest.as_mut_ptr(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => rest = &mut rest[count..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// A number that is random enough for a hash or an identifier, but not a secret: of the seed's sequence in a
/// simulation.
pub fn random_number() -> u64 {
    match is_on() {
        true => super::random(),
        false => RandomState::new().hash_one(0u8),
    }
}

/// Builds the hashers of maps, like [`RandomState`], which it uses outside simulations. In a simulation all maps hash
/// alike, so that a map is iterated in an order that depends on its history alone.
#[derive(Debug, Clone)]
pub struct Hashing(Option<RandomState>);

impl Default for Hashing {
    fn default() -> Self {
        Hashing((!is_on()).then(RandomState::new))
    }
}

impl BuildHasher for Hashing {
    type Hasher = DefaultHasher;

    #[inline]
    fn build_hasher(&self) -> DefaultHasher {
        match &self.0 {
            Some(random) => random.build_hasher(),
            None => DefaultHasher::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_converts_both_ways_and_is_never_early() {
        let clock = HostClock::default();
        for drift in [-500_000, -20, 0, 20, 500_000] {
            clock.drift_ppm.store(drift, Ordering::Relaxed);
            for local in [0, 1, 999, 1_000_000_007, u64::MAX / 4] {
                let at = clock.to_simulation(local);
                assert!(clock.to_local(at) >= local, "{drift} {local}");
            }
        }
    }

    #[test]
    fn outside_a_simulation_the_system_answers() {
        let before = SystemTime::now();
        assert!(wall_clock() >= before);
        let mut bytes = [0; 64];
        fill_random(&mut bytes).unwrap();
        assert_ne!(bytes, [0; 64]);
    }
}

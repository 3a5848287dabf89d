//! Hosts: a number for each, whether they run, and their clocks.

use super::baton::Condition;
use super::clock::HostClock;
use super::output::Output;
use super::per_host::Process;
use super::with_me;
use crate::lock::lock;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[derive(Default)]
pub(super) struct Host {
    pub(super) frozen: bool,
    pub(super) clock: Arc<HostClock>,
    /// The incarnation to which new threads belong.
    pub(super) process: Arc<Process>,
    pub(super) output: Option<Output>,
}

/// The number of the host to which the calling thread belongs. Host 0 is the scenario's own.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn host() -> u32 {
    with_me(|me| me.host)
}

/// Begins a new incarnation of a host: threads that are started from now on find new values of each
/// [`PerHost`](super::PerHost). Call it when none of the host's threads runs.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn begin_process(host: u32) {
    let before = with_me(|me| {
        let mut state = lock(&me.room.state);
        let process = &mut state.hosts.entry(host).or_default().process;
        std::mem::take(process)
    });
    // Dropped without the lock: values may have destructors.
    drop(before);
}

/// Whether a host that has crashed is being [drained](drain): what its threads do then is outside time, and must have
/// no effect on others.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn is_draining() -> bool {
    with_me(|me| lock(&me.room.state).draining.is_some())
}

/// Stops a host: none of its threads runs until [`thaw`]. Its timers pass meanwhile.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn freeze(host: u32) {
    with_me(|me| lock(&me.room.state).hosts.entry(host).or_default().frozen = true);
}

/// Lets a frozen host continue.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn thaw(host: u32) {
    with_me(|me| lock(&me.room.state).hosts.entry(host).or_default().frozen = false);
}

/// Sets the drift of a host's monotonic clock, in millionths: 20 makes it gain 20 us in a second. At most 500 000
/// either way.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn set_clock_drift(host: u32, ppm: i64) {
    let ppm = ppm.clamp(-500_000, 500_000);
    with_me(|me| {
        let mut state = lock(&me.room.state);
        let clock = &state.hosts.entry(host).or_default().clock;
        clock.drift_ppm.store(ppm, Ordering::Relaxed);
    });
}

/// Returns the drift of a host's monotonic clock, in millionths.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn clock_drift(host: u32) -> i64 {
    with_me(|me| {
        let mut state = lock(&me.room.state);
        let clock = &state.hosts.entry(host).or_default().clock;
        clock.drift_ppm.load(Ordering::Relaxed)
    })
}

/// Sets a host's wall clock ahead of the simulation's time, or behind it: it jumps.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn set_wall_clock(host: u32, ahead: Duration, behind: Duration) {
    let ns = |part: Duration| i64::try_from(part.as_nanos()).unwrap_or(i64::MAX / 2);
    with_me(|me| {
        let mut state = lock(&me.room.state);
        let clock = &state.hosts.entry(host).or_default().clock;
        clock
            .wall_offset_ns
            .store(ns(ahead) - ns(behind), Ordering::Relaxed);
    });
}

/// Lets a host's wall clock jump by that many nanoseconds, back if they are negative.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn jump_wall_clock(host: u32, by_ns: i64) {
    with_me(|me| {
        let mut state = lock(&me.room.state);
        let offset = &state.hosts.entry(host).or_default().clock.wall_offset_ns;
        let jumped = offset.load(Ordering::Relaxed).saturating_add(by_ns);
        offset.store(jumped, Ordering::Relaxed);
    });
}

/// Lets only the threads of a host run until they have ended, outside time: afterwards it is the same time as before.
/// For the end of a host that has crashed, whose calls have no effects any more.
///
/// # Errors
/// When the simulation has ended, or a thread does not end.
///
/// # Panics
/// On a thread that belongs to no simulation, or to that host; while another host is drained.
pub fn drain(host: u32) -> io::Result<()> {
    with_me(|me| {
        assert_ne!(me.host, host, "a host cannot drain itself");
        let room = me.room.clone();
        let before = room.now_ns.load(Ordering::Relaxed);
        {
            let mut state = lock(&room.state);
            assert!(state.draining.is_none(), "one host is drained at a time");
            state.hosts.entry(host).or_default().frozen = false;
            state.draining = Some((host, me.number));
        }
        let seen = Arc::downgrade(&room);
        let ended = move || {
            seen.upgrade().is_none_or(|room| {
                let state = lock(&room.state);
                state.members.values().all(|member| member.host != host)
            })
        };
        let result = match ended() {
            true => Ok(()),
            false => me.give_away(Condition::Until("the end of a host", Arc::new(ended))),
        };
        lock(&room.state).draining = None;
        room.now_ns.store(before, Ordering::Relaxed);
        result
    })
}

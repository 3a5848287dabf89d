//! Notifications to a group.
//!
//! The bytes are the same for every member, on every loop. Loops with members get them in one message each, which is
//! sent before this loop's own members are served, so that the loops work at the same time.

use super::MemberId;
use super::local::{self, LocalGroup};
use super::registry;
use crate::error::{Error, ErrorKind};
use crate::session::{EncodedCall, Session};
use std::time::Duration;
use yue_scheduler::Instant;

/// The outcome of one notification to many.
#[derive(Default)]
struct Tally {
    taken: usize,
    /// The first refusal that is the program's mistake.
    mistake: Option<Error>,
}

impl Tally {
    #[inline]
    fn count(&mut self, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.taken += 1,
            Err(error) => self.count_refusal(error),
        }
    }

    #[cold]
    fn count_refusal(&mut self, error: Error) {
        let kind = error.kind();
        // A member that does not keep up, or has just ended, is not the program's mistake.
        let is_fate = kind == ErrorKind::QueueFull || kind.is_a(ErrorKind::Transport);
        if !is_fate && self.mistake.is_none() {
            self.mistake = Some(error);
        }
    }

    fn finish(self) -> Result<usize, Error> {
        match self.mistake {
            Some(mistake) if self.taken == 0 => Err(mistake),
            _ => Ok(self.taken),
        }
    }
}

/// Notifies the members on all loops, or that member.
pub(super) fn notify(
    local: &LocalGroup,
    only: Option<MemberId>,
    deadline: Option<Instant>,
    call: &EncodedCall,
) -> Result<usize, Error> {
    let mut elsewhere = 0;
    if let Some(shared) = &local.shared {
        for (station, members) in shared.stations_elsewhere(local.station.loop_id(), only) {
            let call_there = call.clone();
            let passed = registry::send(shared, &station, call.bytes(), move |shared| {
                if let Some(local) = local::find(shared.name()) {
                    notify_here(&local, only, deadline, &call_there);
                }
            });
            elsewhere += if passed { members } else { 0 };
        }
    }
    let mut tally = notify_here(local, only, deadline, call);
    tally.taken += elsewhere;
    tally.finish()
}

fn notify_here(
    local: &LocalGroup,
    only: Option<MemberId>,
    deadline: Option<Instant>,
    call: &EncodedCall,
) -> Tally {
    let mut tally = Tally::default();
    local.each(only, |_, session| {
        tally.count(match deadline {
            None => session.notify_encoded(call),
            Some(deadline) => session.notify_encoded_until(deadline, call),
        });
    });
    tally
}

/// Notifies the members on this loop with arguments of their own.
pub(super) fn notify_each(
    local: &LocalGroup,
    name: &[u8],
    time: Option<Duration>,
    mut params: impl FnMut(&Session, &mut Vec<u8>) -> Result<u32, Error>,
) -> Result<usize, Error> {
    let mut tally = Tally::default();
    local.each(None, |_, session| {
        let encode = |out: &mut Vec<u8>| params(&session, out);
        tally.count(match time {
            None => session.notify(name, encode),
            Some(time) => session.notify_within(time, name, encode),
        });
    });
    tally.finish()
}

/// Closes that member's session.
pub(super) fn close(local: &LocalGroup, member: MemberId, reason: &str) -> bool {
    let mut found = close_here(local, member, reason);
    if let Some(shared) = &local.shared {
        for (station, _) in shared.stations_elsewhere(local.station.loop_id(), Some(member)) {
            let text = reason.to_owned();
            found |= registry::send(shared, &station, reason.len(), move |shared| {
                if let Some(local) = local::find(shared.name()) {
                    close_here(&local, member, &text);
                }
            });
        }
    }
    found
}

fn close_here(local: &LocalGroup, member: MemberId, reason: &str) -> bool {
    let mut found = false;
    local.each(Some(member), |_, session| {
        session.close_because(reason);
        found = true;
    });
    found
}

//! The table of functions that cross a connection: counts of crossings and the releases that are due.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use yue_scheduler::simulation::{self, Hashing};

/// One of this side's functions that the peer holds, or that a queued call will carry.
pub(crate) struct Export {
    token: u64,
    /// Crossings that the peer has not returned.
    crossings: u64,
    /// Crossings among them whose release has arrived but is not due yet.
    releasing: u64,
    /// The number of queued calls that will carry it.
    held: u64,
}

/// The exports of a message whose encoder queues another call.
pub(crate) struct SetAside {
    holding: bool,
    names_imports: bool,
    in_message: Vec<(u64, u64)>,
}

pub(crate) struct References {
    limit: usize,
    next_id: u64,
    pub(crate) exports: HashMap<u64, Export, Hashing>,
    by_token: HashMap<u64, u64, Hashing>,
    pub(crate) holding: bool,
    /// The queued call that is being encoded names functions of the peer.
    pub(crate) names_imports: bool,
    /// The exports of the message that is being encoded: (id, token).
    pub(crate) in_message: Vec<(u64, u64)>,
    /// The crossings to return to the peer: (id, crossings).
    pub(crate) releases: Vec<(u64, u64)>,
}

impl References {
    pub(crate) fn new(limit: usize) -> References {
        References {
            limit,
            next_id: first_id(),
            exports: HashMap::default(),
            by_token: HashMap::default(),
            holding: false,
            names_imports: false,
            in_message: Vec::new(),
            releases: Vec::new(),
        }
    }

    pub(crate) fn export(&mut self, token: u64) -> Option<u64> {
        let id = match self.by_token.entry(token) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) if self.exports.len() >= self.limit => return None,
            Entry::Vacant(entry) => {
                let id = self.next_id;
                self.next_id += 1;
                self.exports.insert(
                    id,
                    Export {
                        token,
                        crossings: 0,
                        releasing: 0,
                        held: 0,
                    },
                );
                *entry.insert(id)
            }
        };
        debug_assert_eq!(self.by_token.len(), self.exports.len());
        if let Some(export) = self.exports.get_mut(&id) {
            debug_assert_eq!(export.token, token);
            // A queued call counts apart: the peer does not hold its functions yet, and cannot release them.
            if self.holding {
                export.held += 1;
            } else {
                export.crossings += 1;
            }
        }
        self.in_message.push((id, token));
        Some(id)
    }

    /// The token of the function that the peer calls by `id`.
    pub(crate) fn token(&self, id: u64) -> Option<u64> {
        self.exports
            .get(&id)
            .filter(|export| export.crossings != 0)
            .map(|export| export.token)
    }

    /// The part of a release that the peer really holds; bounded by what this side sent.
    pub(crate) fn accept_releases(
        &mut self,
        given_back: impl Iterator<Item = (u64, u64)>,
    ) -> Vec<(u64, u64)> {
        let accept = |(id, crossings): (u64, u64)| {
            let export = self.exports.get_mut(&id)?;
            // A peer may claim more than it holds, or release the same crossing twice before the first release is due.
            let crossings = crossings.min(export.crossings.saturating_sub(export.releasing));
            export.releasing += crossings;
            debug_assert!(export.releasing <= export.crossings);
            (crossings != 0).then_some((id, crossings))
        };
        given_back.filter_map(accept).collect()
    }

    /// Takes crossings back; returns the token if they were the last.
    pub(crate) fn release(&mut self, id: u64, crossings: u64) -> Option<u64> {
        let export = self.exports.get_mut(&id)?;
        export.crossings = export.crossings.saturating_sub(crossings);
        // Zero for a crossing that this side takes back itself.
        export.releasing = export.releasing.saturating_sub(crossings);
        debug_assert!(export.releasing <= export.crossings);
        self.remove_unused(id)
    }

    /// Undoes one export of the message that is being encoded; returns the token if nothing needs it any more.
    pub(crate) fn take_back(&mut self, id: u64) -> Option<u64> {
        let holding = self.holding;
        let export = self.exports.get_mut(&id)?;
        let count = if holding {
            &mut export.held
        } else {
            &mut export.crossings
        };
        *count = count.saturating_sub(1);
        self.remove_unused(id)
    }

    fn remove_unused(&mut self, id: u64) -> Option<u64> {
        let unused = self
            .exports
            .get(&id)
            .filter(|export| export.crossings == 0 && export.held == 0)?;
        debug_assert_eq!(unused.releasing, 0, "a release is due that returns nothing");
        let token = unused.token;
        self.exports.remove(&id);
        let removed = self.by_token.remove(&token);
        debug_assert_eq!(removed, Some(id), "a token names another export");
        Some(token)
    }

    /// A call is encoded to be queued: its exports are for it. What another message that is being encoded, whose
    /// encoder queues this call, has exported so far is set aside.
    pub(crate) fn begin_queued(&mut self) -> SetAside {
        SetAside {
            holding: std::mem::replace(&mut self.holding, true),
            names_imports: std::mem::replace(&mut self.names_imports, false),
            in_message: std::mem::take(&mut self.in_message),
        }
    }

    /// The call is encoded: returns its exports, and continues with the message that was set aside.
    pub(crate) fn end_queued(&mut self, aside: SetAside) -> Vec<(u64, u64)> {
        debug_assert!(self.holding, "a queued call ends that has not begun");
        self.holding = aside.holding;
        self.names_imports = aside.names_imports;
        std::mem::replace(&mut self.in_message, aside.in_message)
    }

    /// Whether the queued call that was encoded names functions of the peer.
    pub(crate) fn names_imports(&self) -> bool {
        self.names_imports
    }

    pub(crate) fn take_held_exports(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.in_message)
    }

    /// A held call is written: its exports count from now on.
    pub(crate) fn export_held(&mut self, exports: &[(u64, u64)]) {
        for (id, _) in exports {
            let export = self.exports.get_mut(id);
            debug_assert!(export.as_ref().is_some_and(|export| export.held != 0));
            if let Some(export) = export {
                export.held = export.held.saturating_sub(1);
                export.crossings += 1;
            }
        }
    }

    /// A held call is dropped; returns the tokens that nothing needs any more.
    pub(crate) fn forget_held(&mut self, exports: &[(u64, u64)]) -> Vec<u64> {
        let mut unused = Vec::new();
        for (id, _) in exports {
            let export = self.exports.get_mut(id);
            debug_assert!(export.as_ref().is_some_and(|export| export.held != 0));
            if let Some(export) = export {
                export.held = export.held.saturating_sub(1);
            }
            unused.extend(self.remove_unused(*id));
        }
        unused
    }

    /// The peer holds nothing any more; returns the tokens that nothing needs. All at once: a peer may have held a
    /// million functions, and to look each up again would hold the loop for long.
    pub(crate) fn end_link(&mut self) -> Vec<u64> {
        self.releases.clear();
        self.next_id = first_id();
        let mut unused = Vec::with_capacity(self.exports.len());
        self.by_token = HashMap::default();
        for (id, export) in std::mem::take(&mut self.exports) {
            if export.held == 0 {
                unused.push(export.token);
                continue;
            }
            // It waits in queued calls, with the id that those calls have already.
            self.by_token.insert(export.token, id);
            let held = Export {
                crossings: 0,
                releasing: 0,
                ..export
            };
            self.exports.insert(id, held);
        }
        debug_assert_eq!(self.by_token.len(), self.exports.len());
        unused
    }
}

/// The first id of a link: a random number of 48 bits, which the numbers of every language can hold.
fn first_id() -> u64 {
    (simulation::random_number() >> 16).max(1)
}

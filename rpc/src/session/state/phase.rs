//! The phases of a session and their transitions: a pure state machine.
//!
//! ```text
//!   opened:    Idle ─call─▶ Connecting ─▶ Greeting ─granted─▶ Accepting ─▶ Up
//!                ▲               ▲            └──────┬───────────┴─────────┘
//!                └─ gave up ─────┴─── retry ── Ending (on_close runs)
//!   accepted:  Idle ─▶ Accepting ─granted─▶ Up ─▶ Ending ─▶ Closed     any ─close()─▶ Draining ─▶ Ending ─▶ Closed
//! ```
//!
//! [`next`] knows nothing of links, timers or hooks: it maps a phase and an event to the next phase and the one action
//! that the session must take. So tests can drive the machine alone, by any sequence of events.
//!
//! Invariants, for every sequence of events:
//! - `Closed` is final.
//! - A link exists exactly in `Greeting`, `Accepting`, `Up` and `Draining`.
//! - Each link that came up is ended once, by [`Action::EndLink`], and `on_close` runs once for it.
//! - `Idle` and `Closed` are entered with an action that fails the calls that wait for a link.

/// The side that made the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Opened,
    Accepted,
}

/// The phase of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no link, and none is being made.
    Idle,
    /// A fiber makes a link, or waits to retry.
    Connecting,
    /// The link is up; hello was sent, or the grant is awaited.
    Greeting,
    /// `on_accept` runs.
    Accepting,
    /// Calls go in both directions.
    Up,
    /// Only messages already written still leave: refused, or closed by this side.
    Draining,
    /// The link has ended and `on_close` runs.
    Ending,
    /// Ended for good.
    Closed,
}

impl Phase {
    /// Whether a link exists in this phase.
    pub(crate) fn has_link(self) -> bool {
        matches!(
            self,
            Phase::Greeting | Phase::Accepting | Phase::Up | Phase::Draining
        )
    }
}

/// Events of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The program makes a call.
    Called,
    /// The transport is up.
    LinkUp,
    /// No link could be made, and no further attempt follows.
    ConnectFailed,
    /// Opened sessions: the server grants the connection. `hook`: the local `on_accept` makes the final decision.
    Granted { hook: bool },
    /// `on_accept` grants the connection, or an accepting session has none.
    Accepted,
    /// The link must end when everything written has left.
    DrainRequested,
    /// The link has ended.
    LinkEnded,
    /// `on_close` has returned.
    CloseHandled(Afterwards),
    /// The program closes the session for good.
    CloseRequested,
}

/// The session's next step after a link has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It makes a new link now.
    Reconnect,
    /// It makes a new link at the next call.
    Rest,
    /// It ends for good.
    Finish,
}

/// The action that an event requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a fiber that makes a link.
    Connect,
    /// Fail the calls that wait for a link.
    FailQueued,
    /// Send hello and wait for the grant.
    Greet,
    /// Run the hooks that decide whether the link is granted.
    Admit,
    /// Run the local `on_accept`.
    AskHook,
    /// Let calls and requests through.
    OpenGates,
    /// Send what was written, then end the link.
    DrainLink,
    /// Make no new link after the one that drains.
    DrainForGood,
    /// Drop everything that belonged to the link, and run `on_close`.
    EndLink,
    /// Stop connecting, and do the same as `Finish`.
    FinishConnecting,
    /// Fail the waiting calls and notify everyone who waits for the end.
    Finish,
}

/// The next phase and the action, or `None` if the event has no meaning in this phase.
pub(crate) fn next(role: Role, phase: Phase, event: Event) -> Option<(Phase, Action)> {
    use Role::{Accepted, Opened};
    // Whatever is not listed has no meaning in that phase: a late event, or one that a peer caused out of turn.
    Some(match (phase, event, role) {
        (Phase::Idle, Event::Called, Opened) => (Phase::Connecting, Action::Connect),
        (Phase::Connecting, Event::LinkUp, Opened) => (Phase::Greeting, Action::Greet),
        (Phase::Idle, Event::LinkUp, Accepted) => (Phase::Accepting, Action::Admit),
        (Phase::Connecting, Event::ConnectFailed, _) => (Phase::Idle, Action::FailQueued),
        (Phase::Greeting, Event::Granted { hook: true }, Opened) => {
            (Phase::Accepting, Action::AskHook)
        }
        (Phase::Greeting, Event::Granted { hook: false }, Opened)
        | (Phase::Accepting, Event::Accepted, _) => (Phase::Up, Action::OpenGates),
        (
            Phase::Greeting | Phase::Accepting | Phase::Up,
            Event::DrainRequested | Event::CloseRequested,
            _,
        ) => (Phase::Draining, Action::DrainLink),
        // It drains already, perhaps to make a new link afterwards.
        (Phase::Draining, Event::CloseRequested, _) => (Phase::Draining, Action::DrainForGood),
        // While connecting: the transport broke before the connector had handed it over.
        (
            Phase::Connecting | Phase::Greeting | Phase::Accepting | Phase::Up | Phase::Draining,
            Event::LinkEnded,
            _,
        ) => (Phase::Ending, Action::EndLink),
        (Phase::Ending, Event::CloseHandled(Afterwards::Reconnect), Opened) => {
            (Phase::Connecting, Action::Connect)
        }
        (Phase::Ending, Event::CloseHandled(Afterwards::Rest), Opened) => {
            (Phase::Idle, Action::FailQueued)
        }
        // A close request ends the wait for `on_close`; the hook's own end then has no meaning.
        (Phase::Ending, Event::CloseHandled(_), _)
        | (Phase::Idle | Phase::Ending, Event::CloseRequested, _) => {
            (Phase::Closed, Action::Finish)
        }
        (Phase::Connecting, Event::CloseRequested, _) => (Phase::Closed, Action::FinishConnecting),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => Just(Event::Called),
            4 => Just(Event::LinkUp),
            1 => Just(Event::ConnectFailed),
            3 => any::<bool>().prop_map(|hook| Event::Granted { hook }),
            3 => Just(Event::Accepted),
            1 => Just(Event::DrainRequested),
            3 => Just(Event::LinkEnded),
            2 => Just(Event::CloseHandled(Afterwards::Reconnect)),
            2 => Just(Event::CloseHandled(Afterwards::Rest)),
            1 => Just(Event::CloseHandled(Afterwards::Finish)),
            1 => Just(Event::CloseRequested),
        ]
    }

    /// The state that a session would have after each action.
    #[derive(Default)]
    struct World {
        connecting: bool,
        link: bool,
        closing: bool,
        calls_waiting: bool,
        finished: u32,
    }

    impl World {
        fn perform(&mut self, action: Action, event: Event) {
            match action {
                Action::Connect => {
                    assert!(!self.connecting && !self.link);
                    self.connecting = true;
                    self.calls_waiting = true;
                    self.closing = false;
                }
                Action::Greet | Action::Admit => {
                    assert!(!self.link, "a link came up beside another");
                    self.connecting = false;
                    self.link = true;
                }
                Action::AskHook => assert!(self.link),
                Action::OpenGates => {
                    assert!(self.link);
                    self.calls_waiting = false;
                }
                Action::DrainLink | Action::DrainForGood => assert!(self.link),
                Action::EndLink => {
                    assert!(
                        (self.link || self.connecting) && !self.closing,
                        "{event:?} ended no link"
                    );
                    self.connecting = false;
                    self.link = false;
                    self.closing = true;
                }
                Action::FailQueued => {
                    self.connecting = false;
                    self.closing = false;
                    self.calls_waiting = false;
                }
                Action::FinishConnecting | Action::Finish => {
                    self.connecting = false;
                    self.closing = false;
                    self.calls_waiting = false;
                    self.finished += 1;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_sequence_of_events_keeps_the_invariants(
            opened in any::<bool>(),
            events in prop::collection::vec(event(), 0..200),
        ) {
            let role = if opened { Role::Opened } else { Role::Accepted };
            let (mut phase, mut world) = (Phase::Idle, World::default());
            for event in events {
                let Some((after, action)) = next(role, phase, event) else {
                    continue;
                };
                prop_assert_ne!(phase, Phase::Closed, "{:?} left the final phase", event);
                world.perform(action, event);
                phase = after;
                prop_assert_eq!(world.link, phase.has_link());
                prop_assert_eq!(world.connecting, phase == Phase::Connecting);
                prop_assert_eq!(world.closing, phase == Phase::Ending);
                prop_assert_eq!(world.finished, u32::from(phase == Phase::Closed));
                if matches!(phase, Phase::Idle | Phase::Up | Phase::Closed) {
                    prop_assert!(!world.calls_waiting, "calls were left behind in {phase:?}");
                }
            }
        }

        #[test]
        fn every_session_can_be_closed_from_anywhere(
            opened in any::<bool>(),
            events in prop::collection::vec(event(), 0..50),
        ) {
            let role = if opened { Role::Opened } else { Role::Accepted };
            let mut phase = Phase::Idle;
            for event in events {
                phase = next(role, phase, event).map_or(phase, |(after, _)| after);
            }
            if phase != Phase::Closed {
                prop_assert!(next(role, phase, Event::CloseRequested).is_some(), "it has no effect in {phase:?}");
            }
            let end = [Event::CloseRequested, Event::LinkEnded, Event::CloseHandled(Afterwards::Finish)];
            for event in end {
                phase = next(role, phase, event).map_or(phase, |(after, _)| after);
            }
            prop_assert_eq!(phase, Phase::Closed);
        }
    }

    #[test]
    fn an_accepted_session_never_connects() {
        for event in [
            Event::Called,
            Event::CloseHandled(Afterwards::Reconnect),
            Event::CloseHandled(Afterwards::Rest),
        ] {
            for phase in [Phase::Idle, Phase::Ending] {
                let after = next(Role::Accepted, phase, event);
                assert!(after.is_none_or(|(phase, _)| phase == Phase::Closed));
            }
        }
    }
}

//! Makes links: the first one when it is needed, and new ones after a loss.

use super::inner::Inner;
use super::state::phase::{Action, Event, Phase};
use crate::error::{Error, ErrorKind};
use yue_scheduler::{Builder, sleep};

impl Inner {
    /// A call needs a link: spawns a fiber that makes one.
    pub(super) fn start_connecting(&self) {
        if self.transition(Event::Called) == Some(Action::Connect) {
            self.connect_in_fiber();
        }
    }

    pub(super) fn connect_in_fiber(&self) {
        let Some(this) = self.strong() else { return };
        let spawned = Builder::new().name("rpc connect").spawn(move || {
            // The fiber works for the session, not for the request that happened to make the first call.
            yue_scheduler::set_context(None);
            this.connect();
        });
        match spawned {
            Ok(fiber) => self.connector.fiber.set(Some(fiber.id())),
            Err(error) => {
                let text = format!(
                    "cannot spawn a fiber to connect to {}: {error}",
                    self.address
                );
                self.give_up_connecting(&Error::retryable(ErrorKind::Transport, text));
            }
        }
    }

    fn connect(&self) {
        let connector = &self.connector;
        let Some(connect) = connector.connect.clone() else {
            return;
        };
        loop {
            if connector.attempts.get() != 0 && sleep(connector.backoff()).is_err() {
                return self.give_up_connecting(&self.closed_error());
            }
            if self.phase.get() != Phase::Connecting {
                return;
            }
            connector
                .attempts
                .set(connector.attempts.get().saturating_add(1));
            let epoch = self.link.epoch.get();
            let attempt = connect.connect(self.link_events());
            let wanted = self.phase.get() == Phase::Connecting && self.link.epoch.get() == epoch;
            match attempt {
                Ok(link) if wanted => return self.on_link_up(link),
                Ok(link) => return link.close(),
                Err(error) if wanted => {
                    let kind = error.kind();
                    let is_lost = connector.keep_trying.get();
                    // A certificate that is not trusted may be renewed one day: that helps a connection that was up
                    // before, but no call that waits now.
                    let refused = kind == ErrorKind::Tls;
                    let hopeless = matches!(kind, ErrorKind::Address | ErrorKind::Argument)
                        || refused && !is_lost;
                    if yue_scheduler::is_cancelled() || hopeless || !(is_lost || self.options.retry)
                    {
                        return self.give_up_connecting(&error);
                    }
                    if refused {
                        self.fail_queued(|| error.clone());
                    }
                    *connector.last_trouble.borrow_mut() = Some(error.message());
                }
                Err(_) => return,
            }
        }
    }

    fn give_up_connecting(&self, error: &Error) {
        self.connector.rest();
        self.transition(Event::ConnectFailed);
        self.fail_queued(|| error.clone());
    }

    /// Stops connecting because the session is closed.
    pub(super) fn stop_connecting(&self) {
        self.connector.cancel();
    }
}

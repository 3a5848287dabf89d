//! Idle connections, by origin.
//!
//! ```text
//!   Exchange ── take(key) ─▶ idle connection, or a connector for a new one
//!            ── put(key) ──▶ idle ──▶ first event of its link, its age, or too many: closed
//! ```
//!
//! The key of an origin holds all that tells one connection from another: scheme, host, port, socket, certificates. A
//! connection that was opened without verification is never used by a request that demands it.

use super::connection::Connection;
use super::{ClientOptions, Request};
use crate::address::Address;
use crate::error::Error;
use crate::transport::{Connect, SocketOptions, TlsOptions, try_connector};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use yue_scheduler::simulation::Hashing;
use yue_scheduler::{Instant, Timer, deadline_after, now};

/// Above this number of origins those without idle connections are forgotten.
const ORIGINS_MAX: usize = 256;

/// A connection that waits for the next request.
struct Idle {
    number: u64,
    since: Instant,
    connection: Connection,
}

/// One server, and how it is reached.
struct Origin {
    connector: Rc<dyn Connect>,
    /// The youngest last.
    idle: Vec<Idle>,
    used: Instant,
}

/// The idle connections of a client.
pub(super) struct Pool {
    options: ClientOptions,
    origins: RefCell<HashMap<String, Origin, Hashing>>,
    idle_count: Cell<usize>,
    last_number: Cell<u64>,
    /// Closes what has become too old. Armed while there are origins.
    timer: Timer,
    this: Weak<Pool>,
}

impl Pool {
    pub(super) fn new(options: ClientOptions) -> Rc<Pool> {
        Rc::new_cyclic(|this: &Weak<Pool>| {
            let late = this.clone();
            Pool {
                options,
                origins: RefCell::default(),
                idle_count: Cell::new(0),
                last_number: Cell::new(0),
                timer: Timer::new(move || {
                    if let Some(pool) = late.upgrade() {
                        pool.remove_old();
                    }
                }),
                this: this.clone(),
            }
        })
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle_count.get()
    }

    /// The youngest idle connection of the origin.
    pub(super) fn take(&self, key: &str) -> Option<Connection> {
        loop {
            let idle = {
                let mut origins = self.origins.borrow_mut();
                let origin = origins.get_mut(key)?;
                origin.used = now();
                origin.idle.pop()?
            };
            self.idle_count.set(self.idle_count.get() - 1);
            idle.connection.set_busy();
            if idle.connection.is_reusable() {
                return Some(idle.connection);
            }
        }
    }

    /// The connector for a request's origin.
    ///
    /// # Errors
    /// If its certificates cannot be used.
    pub(super) fn connector(&self, key: &str, request: &Request) -> Result<Rc<dyn Connect>, Error> {
        if let Some(origin) = self.origins.borrow_mut().get_mut(key) {
            origin.used = now();
            return Ok(origin.connector.clone());
        }
        let connector = try_connector(&address(request), &socket_options(request))?;
        let origin = Origin {
            connector: connector.clone(),
            idle: Vec::new(),
            used: now(),
        };
        let mut origins = self.origins.borrow_mut();
        if origins.len() >= ORIGINS_MAX {
            // Connections that are in use keep working.
            origins.retain(|_, origin| !origin.idle.is_empty());
        }
        origins.insert(key.to_owned(), origin);
        drop(origins);
        self.arm();
        Ok(connector)
    }

    /// Keeps a connection that has served its request.
    pub(super) fn put(&self, key: &str, connection: Connection) {
        if self.options.idle_max == 0 {
            return;
        }
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let (pool, name) = (self.this.clone(), key.to_owned());
        connection.set_idle(move || {
            if let Some(pool) = pool.upgrade() {
                pool.remove(&name, number);
            }
        });
        {
            let mut origins = self.origins.borrow_mut();
            // The origin was forgotten: the connection is closed at the end of this function.
            let Some(origin) = origins.get_mut(key) else {
                return;
            };
            origin.used = now();
            origin.idle.push(Idle {
                number,
                since: origin.used,
                connection,
            });
        }
        self.idle_count.set(self.idle_count.get() + 1);
        if self.idle_count.get() > self.options.idle_max {
            self.remove_oldest();
        }
        self.arm();
    }

    /// Closes all idle connections, and forgets the origins.
    pub(super) fn clear(&self) {
        self.timer.cancel();
        let origins = self.origins.take();
        self.idle_count.set(0);
        drop(origins);
    }

    fn remove(&self, key: &str, number: u64) {
        let removed = {
            let mut origins = self.origins.borrow_mut();
            let Some(origin) = origins.get_mut(key) else {
                return;
            };
            let at = origin.idle.iter().position(|idle| idle.number == number);
            at.map(|at| origin.idle.remove(at))
        };
        if removed.is_some() {
            self.idle_count.set(self.idle_count.get() - 1);
        }
        drop(removed);
    }

    fn remove_oldest(&self) {
        let oldest = {
            let origins = self.origins.borrow();
            let firsts = origins.iter().filter_map(|(key, origin)| {
                let first = origin.idle.first()?;
                Some((first.number, key.clone()))
            });
            // Numbers grow with time.
            firsts.min_by_key(|(number, _)| *number)
        };
        if let Some((number, key)) = oldest {
            self.remove(&key, number);
        }
    }

    fn arm(&self) {
        if !self.timer.is_armed() {
            self.timer.arm(deadline_after(self.options.idle_time));
        }
    }

    /// Closes the connections that have been idle for long, and forgets origins that nobody uses. Each lives for at
    /// most twice the time, since the timer does not follow each connection.
    fn remove_old(&self) {
        let (present, limit) = (now(), self.options.idle_time);
        let is_old = |since: Instant| present.saturating_since(since) >= limit;
        let mut removed = Vec::new();
        let is_empty = {
            let mut origins = self.origins.borrow_mut();
            for origin in origins.values_mut() {
                let old = origin.idle.partition_point(|idle| is_old(idle.since));
                removed.extend(origin.idle.drain(..old));
            }
            // The connector goes, too: it is made anew with the certificates of that time.
            origins.retain(|_, origin| !origin.idle.is_empty() || !is_old(origin.used));
            origins.is_empty()
        };
        self.idle_count.set(self.idle_count.get() - removed.len());
        drop(removed);
        if !is_empty {
            self.arm();
        }
    }
}

/// The key of a request's origin.
pub(super) fn key_of(request: &Request) -> String {
    let address = address(request);
    let tls = &request.sockets.tls;
    if !request.target.is_secure() || *tls == TlsOptions::default() {
        return address.to_string();
    }
    // No value has a zero byte: it is a path, PEM text, or a name.
    let parts = [
        &tls.cert,
        &tls.key,
        &tls.ca,
        &tls.client_ca,
        &tls.server_name,
    ];
    let mut key = format!("{address}\0{}", tls.insecure);
    for part in parts {
        key.push('\0');
        key.push_str(part.as_deref().unwrap_or_default());
    }
    key
}

fn address(request: &Request) -> Address {
    match &request.socket {
        Some(path) => Address::Unix { path: path.clone() },
        None => request.target.address(),
    }
}

/// Options for `https://` do no harm to an `http://` URL that leads to such a one.
fn socket_options(request: &Request) -> SocketOptions {
    let mut options = request.sockets.clone();
    if !matches!(address(request), Address::Tls { .. }) {
        options.tls = TlsOptions::default();
    }
    options
}

//! The methods of the endpoint, and the limits of its connections.

use super::endpoint::Options;
use super::{connections, fibers, loops, prometheus, waits};
use std::time::Duration;
use yue_rpc::session::Service;
use yue_rpc::typed::Server;
use yue_rpc::{ErrorKind, Failure, Limits};
use yue_scheduler::{LogLevel, StackClass, log_level, set_log_level};

/// The endpoint's tools are few, and ask one question at a time.
const CONNECTIONS_MAX: usize = 64;
const REQUESTS_MAX: usize = 64;

/// The memory that all connections may hold: a few of the largest answers.
const MEMORY_MAX: usize = 32 << 20;

/// A tool that does not read its answers is closed after this time.
const STALL: Duration = Duration::from_secs(10);

/// The options of the endpoint's connections.
pub(super) fn limits() -> yue_rpc::Options {
    yue_rpc::Options {
        limits: Limits {
            connections_max: CONNECTIONS_MAX,
            in_flight_max: REQUESTS_MAX,
            handlers_max: REQUESTS_MAX,
            memory_max: MEMORY_MAX,
            handshake: STALL,
            stall: STALL,
            ..Limits::default()
        },
        // A tool that has gone needs no more pages.
        cancel: true,
        // Looking up the names of native frames takes more than a small stack.
        stack: StackClass::Deep,
        ..yue_rpc::Options::default()
    }
}

/// Creates the service.
pub(super) fn new(options: &Options) -> Service {
    let options = options.clone();
    Server::new()
        .handler("info", move |()| Ok(loops::info(&options)))
        .handler("loops", |()| Ok(loops::loops()))
        .handler("fibers", |query: Option<fibers::Query>| {
            fibers::fibers(&query.unwrap_or_default())
        })
        .handler("waits", |query: Option<waits::Query>| {
            Ok(waits::waits(&query.unwrap_or_default()))
        })
        .handler("connections", |query: Option<connections::Query>| {
            connections::connections(&query.unwrap_or_default())
        })
        .handler("listeners", |()| Ok(connections::listeners()))
        .handler("metrics", |()| Ok(prometheus()))
        .handler("log_level", |level: Option<String>| change_log_level(level))
        .into_service()
}

/// The name of the present level; `off` if nothing is logged.
pub(super) fn log_level_name() -> &'static str {
    log_level().map_or("off", LogLevel::as_str)
}

/// Sets the level, if one is given; returns the previous one.
fn change_log_level(level: Option<String>) -> Result<&'static str, Failure> {
    let before = log_level_name();
    match level.as_deref() {
        None => {}
        Some("off") => set_log_level(None),
        Some(name) => match LogLevel::from_name(name) {
            Some(level) => set_log_level(Some(level)),
            None => {
                let text = "a level is needed: 'debug', 'info', 'warn', 'error' or 'off'";
                return Err(Failure::of_kind(ErrorKind::Argument, text));
            }
        },
    }
    Ok(before)
}

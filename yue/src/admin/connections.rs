//! The methods `connections` and `listeners`.

use super::ask::ask;
use super::fibers::{Offset, loops_from};
use super::{TEXT_MAX, cut};
use serde::{Deserialize, Serialize};
use yue_rpc::Failure;
use yue_rpc::inspect::{self, ConnectionInfo, ListenerInfo};
use yue_scheduler::LoopHandle;

/// Connections on a page, unless the request says otherwise, and at most.
const LIMIT: usize = 500;
const LIMIT_MAX: usize = 2000;

/// Connections that a loop lists at once: about 100 us.
const AT_ONCE: usize = 200;

/// Listeners in an answer.
const LISTENERS_MAX: usize = 2000;

/// The arguments of `connections`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Query {
    /// Only this loop.
    #[serde(rename = "loop")]
    number: Option<u32>,
    /// The `next` of the previous page.
    offset: Option<String>,
    limit: Option<usize>,
}

/// The answer of `connections`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Page {
    connections: Vec<Line>,
    /// The offset of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The loops that do not answer, whose connections are missing.
    blocked: Vec<u32>,
}

/// One connection.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(rename = "loop")]
    loop_id: u32,
    number: u64,
    /// The peer's address; for a Unix socket, the socket's.
    address: String,
    /// The name in the peer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_name: Option<String>,
    /// The listener that accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    /// Either `opened`, by this side, or `accepted`.
    role: &'static str,
    state: &'static str,
    age_seconds: f64,
    calls_in_flight: usize,
    requests_in_flight: usize,
    queued_bytes: usize,
    received_bytes: u64,
    sent_bytes: u64,
    calls: u64,
    call_errors: u64,
    call_timeouts: u64,
    requests: u64,
    request_errors: u64,
    notifications: u64,
    /// Links that came up since it was made.
    links: u64,
}

impl Line {
    fn of(loop_id: u32, info: &ConnectionInfo) -> Line {
        let stats = &info.stats;
        Line {
            loop_id,
            number: info.number,
            address: cut(&info.address, TEXT_MAX),
            peer_name: info.peer_name.as_deref().map(|name| cut(name, TEXT_MAX)),
            listener: info.listener.as_deref().map(|text| cut(text, TEXT_MAX)),
            role: if info.is_opened { "opened" } else { "accepted" },
            state: info.state,
            age_seconds: info.age.as_secs_f64(),
            calls_in_flight: info.calls_in_flight,
            requests_in_flight: info.requests_in_flight,
            queued_bytes: info.queued_bytes,
            received_bytes: stats.bytes_in,
            sent_bytes: stats.bytes_out,
            calls: stats.calls,
            call_errors: stats.calls_failed,
            call_timeouts: stats.timeouts,
            requests: stats.requests,
            request_errors: stats.requests_failed,
            notifications: stats.notifications,
            links: stats.links,
        }
    }
}

pub(super) fn connections(query: &Query) -> Result<Page, Failure> {
    let limit = query.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX);
    let offset = Offset::of(query.offset.as_deref())?;
    let (answering, silent) = loops_from(offset, query.number);
    let mut page = Page {
        blocked: silent.iter().map(|one| one.handle.id()).collect(),
        ..Page::default()
    };
    for one in &answering {
        let id = one.handle.id();
        match list(&one.handle, offset.position_in(id), limit, &mut page) {
            Ok(None) => {}
            Ok(next) => {
                page.next = next.map(|next| next.to_string());
                break;
            }
            Err(()) => page.blocked.push(id),
        }
    }
    Ok(page)
}

/// Adds the connections of a loop after that number. Returns the place at which the next page begins, if this one is
/// full.
fn list(
    handle: &LoopHandle,
    mut after: u64,
    limit: usize,
    page: &mut Page,
) -> Result<Option<Offset>, ()> {
    loop {
        let left = limit - page.connections.len();
        if left == 0 {
            return Ok(Some(Offset {
                loop_id: handle.id(),
                position: after,
            }));
        }
        let count = left.min(AT_ONCE);
        let some = ask(handle, move || inspect::connections(after, count)).map_err(drop)?;
        let lines = some.iter().map(|info| Line::of(handle.id(), info));
        page.connections.extend(lines);
        match some.last() {
            Some(last) if some.len() == count => after = last.number,
            _ => return Ok(None),
        }
    }
}

/// The answer of `listeners`.
#[derive(Debug, Serialize)]
pub(super) struct Listeners {
    listeners: Vec<ListenerLine>,
    /// The loops that do not answer, whose listeners are missing.
    blocked: Vec<u32>,
}

/// One listener.
#[derive(Debug, Serialize)]
struct ListenerLine {
    #[serde(rename = "loop")]
    loop_id: u32,
    number: u64,
    address: String,
    /// Whether it accepts connections: it was not closed.
    accepting: bool,
    connections: usize,
    connections_max: usize,
    requests_in_flight: usize,
    memory_bytes: usize,
    /// Links in the handshake of their transport, and such handshakes that have failed.
    handshakes: usize,
    handshakes_failed: u64,
}

impl ListenerLine {
    fn of(loop_id: u32, info: &ListenerInfo) -> ListenerLine {
        ListenerLine {
            loop_id,
            number: info.number,
            address: cut(&shown_address(info), TEXT_MAX),
            accepting: info.is_accepting,
            connections: info.usage.connections,
            connections_max: info.connections_max,
            requests_in_flight: info.usage.requests_in_flight,
            memory_bytes: info.usage.memory_bytes,
            handshakes: info.usage.handshakes,
            handshakes_failed: info.usage.handshakes_failed,
        }
    }
}

/// The address as its clients write it: that of an HTTP server begins with `http`.
fn shown_address(info: &ListenerInfo) -> String {
    let address = info.address.to_string();
    match address.split_once("://") {
        Some(("tcp", rest)) if info.serves_http => format!("http://{rest}"),
        Some(("tls", rest)) if info.serves_http => format!("https://{rest}"),
        _ if info.serves_http => format!("http+{address}"),
        _ => address,
    }
}

pub(super) fn listeners() -> Listeners {
    let (answering, silent) = loops_from(Offset::default(), None);
    let mut listeners = Vec::new();
    let mut blocked: Vec<u32> = silent.iter().map(|one| one.handle.id()).collect();
    for one in &answering {
        let id = one.handle.id();
        match ask(&one.handle, inspect::listeners) {
            Ok(own) => listeners.extend(own.iter().map(|info| ListenerLine::of(id, info))),
            Err(_) => blocked.push(id),
        }
    }
    listeners.truncate(LISTENERS_MAX);
    Listeners { listeners, blocked }
}

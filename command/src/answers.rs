//! The answers of admin endpoints, as the tools read them. Fields that a tool does not show are left out.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use yue_rpc::Timeout;
use yue_rpc::typed::Client;

/// A program that has a processor answers within this time.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Asks an endpoint. `arguments` is the table of the method's options.
///
/// # Errors
/// The endpoint's, or that it does not answer.
pub(crate) fn ask<T: DeserializeOwned>(
    admin: &Client,
    method: &str,
    arguments: impl serde::Serialize,
) -> Result<T, yue_rpc::Error> {
    admin.call_within(Timeout::After(ANSWER_MAX), method, arguments)
}

/// One loop in the answer of `loops`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Loop {
    #[serde(rename = "loop")]
    pub(crate) number: u32,
    pub(crate) thread: String,
    pub(crate) busy_seconds: f64,
    pub(crate) ticks: u64,
    pub(crate) fibers: usize,
    pub(crate) ready: usize,
    pub(crate) timers: usize,
    pub(crate) answers: bool,
    pub(crate) latency_seconds: Option<f64>,
    pub(crate) blocked_seconds: Option<f64>,
}

/// The answer of `waits`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Waits {
    pub(crate) groups: Vec<WaitGroup>,
    pub(crate) others: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WaitGroup {
    pub(crate) state: String,
    pub(crate) waits_for: Option<String>,
    pub(crate) spawned_at: String,
    pub(crate) origin: Option<String>,
    pub(crate) count: u64,
    pub(crate) longest_seconds: f64,
    pub(crate) name: Option<String>,
}

/// The answer of `connections`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Connections {
    pub(crate) connections: Vec<Connection>,
    pub(crate) next: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Connection {
    #[serde(rename = "loop")]
    pub(crate) loop_id: u32,
    pub(crate) address: String,
    pub(crate) role: String,
    pub(crate) state: String,
    pub(crate) age_seconds: f64,
    pub(crate) calls_in_flight: u64,
    pub(crate) requests_in_flight: u64,
    pub(crate) queued_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) calls: u64,
    pub(crate) requests: u64,
}

/// The answer of `calls`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Calls {
    pub(crate) watched_seconds: f64,
    pub(crate) methods: Vec<Method>,
    pub(crate) left_out: usize,
    pub(crate) slowest: Vec<Request>,
    pub(crate) running: Vec<Request>,
    pub(crate) running_count: usize,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Method {
    pub(crate) method: String,
    pub(crate) listener: Option<String>,
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) in_flight: u64,
    pub(crate) p50_seconds: f64,
    pub(crate) p99_seconds: f64,
    pub(crate) max_seconds: f64,
}

/// A request that has ended, or runs.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
pub(crate) struct Request {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_seconds: Option<f64>,
    #[serde(rename = "loop")]
    pub(crate) loop_id: u32,
    pub(crate) peer: String,
    pub(crate) method: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listener: Option<String>,
    pub(crate) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) notification: bool,
}

impl Request {
    /// The outcome in one word: `ok`, `sent` for a notification, or the type of the error.
    pub(crate) fn outcome(&self) -> &str {
        match &self.error {
            Some(error) => error,
            None if self.notification => "sent",
            None => "ok",
        }
    }
}

/// The answer of `trace`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Trace {
    pub(crate) token: u64,
    pub(crate) requests: Vec<Request>,
    pub(crate) dropped: u64,
}

/// Whether the process has ended. Its parent may not have noticed yet.
pub(crate) fn has_ended(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The name in parentheses may contain any character.
    let state = text.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    matches!(state, Some(b'Z' | b'X'))
}

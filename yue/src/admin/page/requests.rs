//! The requests of the page: the state of the program, and calls to its listeners.
//!
//! The state comes from the endpoint's own methods, called over its socket: the page shows what every tool sees. A call
//! is made over a new connection to a listener, so that its handshake and its limits apply as to every client. Only
//! addresses at which this program listens are called.

use super::super::graph::{Graph, Process, Waits};
use super::JSON;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::time::Duration;
use yue_rpc::http::{ResultStyle, results_to_text};
use yue_rpc::typed::Client;
use yue_rpc::{Error, ErrorKind, Timeout};

/// A program whose loops are held answers within this time.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The time limit of a call that sets none, and the longest.
const CALL_SECONDS: f64 = 10.0;
const CALL_SECONDS_MAX: f64 = 300.0;

/// Connections that the page shows, and methods.
const CONNECTIONS_MAX: usize = 200;
const METHODS_MAX: usize = 100;

/// An answer to the browser.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
    pub(super) closes: bool,
}

impl Reply {
    pub(super) fn new(status: u16, kind: &'static str, body: String) -> Reply {
        Reply {
            status,
            kind,
            headers: Vec::new(),
            body,
            closes: false,
        }
    }

    fn json(status: u16, value: &Value) -> Reply {
        Reply::new(status, JSON, value.to_string())
    }

    fn fault(status: u16, text: &str) -> Reply {
        Reply::json(status, &json!({ "error": text }))
    }
}

pub(super) struct Requests {
    /// The address of the endpoint's socket.
    endpoint: String,
}

/// The body of `describe`.
#[derive(Debug, Deserialize)]
struct Listing {
    address: String,
}

/// The body of `call`.
#[derive(Debug, Deserialize)]
struct Order {
    address: String,
    method: String,
    args: Vec<Value>,
    timeout_seconds: Option<f64>,
}

/// The arguments of a call.
struct Arguments(Vec<Value>);

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A tuple has an argument in each element; a list would be one argument.
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        for value in &self.0 {
            tuple.serialize_element(value)?;
        }
        tuple.end()
    }
}

fn error_of(error: &Error) -> Value {
    json!({ "type": error.kind().to_string(), "message": error.message() })
}

impl Requests {
    pub(super) fn new(endpoint: &str) -> Requests {
        Requests {
            endpoint: endpoint.to_owned(),
        }
    }

    /// Calls methods of the endpoint. One that fails, or that this version does not have, is null.
    pub(super) fn state(&self) -> Reply {
        let admin = match Client::open(&self.endpoint) {
            Ok(admin) => admin,
            Err(error) => return Reply::fault(500, &error.message()),
        };
        let get = |method: &str, query: Value| -> Value {
            let limit = Timeout::After(ANSWER_MAX);
            let called = match query {
                Value::Null => admin.call_within(limit, method, ()),
                query => admin.call_within(limit, method, (query,)),
            };
            called.unwrap_or(Value::Null)
        };
        let info = get("info", Value::Null);
        let state = json!({
            "loops": get("loops", Value::Null),
            "listeners": get("listeners", Value::Null),
            "connections": get("connections", json!({ "limit": CONNECTIONS_MAX })),
            "waits": get("waits", Value::Null),
            "calls": get("calls", json!({ "limit": METHODS_MAX })),
            "counters": counters(get("metrics", Value::Null).as_str().unwrap_or_default()),
            "graph": graph(&admin, &info),
            "info": info,
        });
        Reply::json(200, &state)
    }

    /// The functions of a listener.
    pub(super) fn describe(&self, body: &[u8]) -> Reply {
        let Ok(Listing { address }) = serde_json::from_slice(body) else {
            return Reply::fault(400, "The body is {\"address\": \"…\"}.");
        };
        let limit = Timeout::After(ANSWER_MAX);
        let described = self.connect(&address, |client| {
            client.call_within::<_, Value>(limit, "$yue/describe", ())
        });
        match described {
            Ok(Ok(functions)) => Reply::json(200, &functions),
            Ok(Err(error)) => Reply::json(200, &json!({ "error": error_of(&error) })),
            Err(reply) => reply,
        }
    }

    /// Calls a function of a listener. The answer has the results as `yue call` prints them.
    pub(super) fn call(&self, body: &[u8]) -> Reply {
        let order: Order = match serde_json::from_slice(body) {
            Ok(order) => order,
            Err(error) => {
                let text = format!(
                    "The body is {{\"address\": …, \"method\": …, \"args\": […]}}: {error}"
                );
                return Reply::fault(400, &text);
            }
        };
        let seconds = order.timeout_seconds.unwrap_or(CALL_SECONDS);
        if !(seconds > 0.0 && seconds <= CALL_SECONDS_MAX) {
            let text = format!("The time limit is more than 0 and at most {CALL_SECONDS_MAX} s.");
            return Reply::fault(400, &text);
        }
        let begin = yue_scheduler::now();
        let limit = Timeout::After(Duration::from_secs_f64(seconds));
        let called = self.connect(&order.address, |client| {
            let answer = client.call_raw_within(limit, &order.method, Arguments(order.args))?;
            let (values, count) = (answer.bytes(), answer.count());
            // The page shows it as a text, which nothing can act on.
            let text = results_to_text(values, count, ResultStyle::Pretty, |_| false);
            text.ok_or_else(|| {
                let text = "the answer is malformed, or nested too deeply to be shown";
                Error::new(ErrorKind::MessageRefused, text)
            })
        });
        let seconds = yue_scheduler::now().saturating_since(begin).as_secs_f64();
        match called {
            Ok(Ok(text)) => Reply::json(200, &json!({ "text": text, "seconds": seconds })),
            Ok(Err(error)) => Reply::json(
                200,
                &json!({ "error": error_of(&error), "seconds": seconds }),
            ),
            Err(reply) => reply,
        }
    }

    /// Runs `work` with a connection to one of this program's listeners, and closes it.
    fn connect<R>(
        &self,
        address: &str,
        work: impl FnOnce(&Client) -> Result<R, Error>,
    ) -> Result<Result<R, Error>, Reply> {
        let fault = |error: Error| Reply::fault(500, &error.message());
        let admin = Client::open(&self.endpoint).map_err(fault)?;
        let limit = Timeout::After(ANSWER_MAX);
        let answer: Value = admin.call_within(limit, "listeners", ()).map_err(fault)?;
        let listeners = answer["listeners"].as_array();
        let is_ours = |one: &Value| one["address"] == address && one["accepting"] == true;
        if !listeners.is_some_and(|all| all.iter().any(is_ours)) {
            return Err(Reply::fault(
                404,
                "This program does not listen at that address, or the loop that does is held.",
            ));
        }
        let client = match Client::open(&reachable(address)) {
            Ok(client) => client,
            Err(error) => return Ok(Err(error)),
        };
        let outcome = work(&client);
        client.session().close();
        Ok(outcome)
    }
}

/// The address by which this process reaches a listener.
fn reachable(address: &str) -> String {
    address
        .replacen("//0.0.0.0:", "//127.0.0.1:", 1)
        .replacen("//[::]:", "//[::1]:", 1)
}

/// The waits of this program, with its deadlocks.
fn graph(admin: &Client, info: &Value) -> Value {
    let begin = yue_scheduler::now();
    let limit = Timeout::After(ANSWER_MAX);
    let Ok(waits) = admin.call_within::<_, Waits>(limit, "wait_graph", ()) else {
        return Value::Null;
    };
    let processes = [Process {
        pid: info["pid"].as_u64().unwrap_or(0) as u32,
        name: info["name"].as_str().unwrap_or_default().to_owned(),
        asked_seconds: yue_scheduler::now().saturating_since(begin).as_secs_f64(),
        waits,
    }];
    let graph = Graph::new(&processes);
    let (fibers, waiting) = graph.counts();
    json!({
        "cycles": graph.cycles(),
        "chains": graph.chains(),
        "fibers": fibers,
        "waiting": waiting,
        "cut": processes[0].waits.cut,
    })
}

/// The sums of some counters in Prometheus' text.
fn counters(text: &str) -> Value {
    let sum = |name: &str| -> f64 {
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_it = rest.starts_with('{') || rest.starts_with(' ');
            is_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.sum()
    };
    json!({
        "requests": sum("yue_rpc_requests_total"),
        "calls": sum("yue_rpc_calls_total"),
        "errors": sum("yue_rpc_request_errors_total"),
        "received_bytes": sum("yue_rpc_received_bytes_total"),
        "sent_bytes": sum("yue_rpc_sent_bytes_total"),
        "memory_bytes": sum("process_resident_memory_bytes"),
        "cpu_seconds": sum("process_cpu_seconds_total"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_over_their_labels() {
        let text = "# HELP yue_rpc_requests_total x\nyue_rpc_requests_total{role=\"opened\"} 2\n\
                    yue_rpc_requests_total{role=\"accepted\"} 40\nyue_rpc_requests_total_more 100\n\
                    process_resident_memory_bytes 4096\n";
        let found = counters(text);
        assert_eq!(found["requests"], 42.0);
        assert_eq!(found["memory_bytes"], 4096.0);
        assert_eq!(found["calls"], 0.0);
    }

    #[test]
    fn a_listener_everywhere_is_reached_by_the_loopback_address() {
        assert_eq!(reachable("tcp://0.0.0.0:80"), "tcp://127.0.0.1:80");
        assert_eq!(reachable("ws://[::]:80/x"), "ws://[::1]:80/x");
        assert_eq!(reachable("unix:///tmp/0.0.0.0:1"), "unix:///tmp/0.0.0.0:1");
    }
}

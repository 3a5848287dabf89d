//! The methods of the endpoint, and the limits of its connections.

use super::endpoint::Options;
use super::evaluate::Evaluations;
use super::{calls, connections, fibers, loops, prometheus, traces, wait_graph, waits};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::{Call, Dispatch, Replied, Reply, Service};
use yue_rpc::typed::Server;
use yue_rpc::{ErrorKind, Failure, Limits};
use yue_scheduler::{StackClass, change_log_level, log_level_name};

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
    let evaluations = Evaluations::new(options.evaluator.clone());
    let [eval, output, interrupt, complete] = std::array::from_fn(|_| evaluations.clone());
    let service = Server::new()
        .handler("info", move |()| Ok(loops::info(&options)))
        .handler("loops", |()| Ok(loops::loops()))
        .handler("fibers", |query: Option<fibers::Query>| {
            fibers::fibers(&query.unwrap_or_default())
        })
        .handler("waits", |query: Option<waits::Query>| {
            Ok(waits::waits(&query.unwrap_or_default()))
        })
        .handler("wait_graph", |query: Option<wait_graph::Query>| {
            Ok(wait_graph::wait_graph(&query.unwrap_or_default()))
        })
        .handler("connections", |query: Option<connections::Query>| {
            connections::connections(&query.unwrap_or_default())
        })
        .handler("listeners", |()| Ok(connections::listeners()))
        .handler("calls", |query: Option<calls::Query>| {
            Ok(calls::calls(&query.unwrap_or_default()))
        })
        .handler("trace", |query: Option<traces::Query>| {
            traces::trace(&query.unwrap_or_default())
        })
        .handler("metrics", |()| Ok(prometheus()))
        .handler("log_level", |level: Option<String>| set_level(level))
        .handler("eval", move |request| eval.evaluate(&request))
        .handler("eval_output", move |request| output.output(&request))
        .handler("eval_interrupt", move |request| {
            interrupt.interrupt(&request)
        })
        .handler("eval_complete", move |request| complete.complete(&request))
        .hooks(evaluations)
        .into_service();
    Service {
        dispatch: Rc::new(Counting(service.dispatch)),
        hooks: service.hooks,
    }
}

thread_local! {
    /// The requests that the endpoint has served.
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the endpoint's own requests, which are not the program's.
struct Counting(Rc<dyn Dispatch>);

impl Dispatch for Counting {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        REQUESTS.set(REQUESTS.get() + 1);
        self.0.call(call, reply)
    }
}

/// The links and the requests among the process's totals that are the endpoint's own.
pub(super) fn own_links_and_requests() -> (u64, u64) {
    let own = yue_rpc::inspect::connections(0, CONNECTIONS_MAX);
    (own.len() as u64, REQUESTS.get())
}

/// Sets the level, if one is given; returns the previous one.
fn set_level(level: Option<String>) -> Result<&'static str, Failure> {
    match level {
        None => Ok(log_level_name()),
        Some(name) => {
            change_log_level(&name).map_err(|text| Failure::of_kind(ErrorKind::Argument, text))
        }
    }
}

//! Spans of the crate `tracing`: one for each call and each request, which follow their fibers (feature `tracing`).

mod common;

use common::*;
use std::cell::Cell;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber, info, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use yue_rpc::session::{Call, CallMethod, Reply, Service, Session, peer};
use yue_rpc::trace::{self, TraceParent};
use yue_rpc::{ErrorKind, Failure, Options, Timeout};
use yue_scheduler::{sleep, spawn};

/// A span with its fields, in the order in which they were recorded.
#[derive(Debug, Clone, Default)]
struct Seen {
    name: &'static str,
    parent: Option<&'static str>,
    fields: Vec<(&'static str, String)>,
    closed: bool,
}

impl Seen {
    fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().rfind(|(field, _)| *field == name);
        found.map_or("", |(_, value)| value)
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.push((field.name(), format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.push((field.name(), value.to_owned()));
    }
}

/// Collects the spans of this crate, and the names of the spans around each event.
#[derive(Clone, Default)]
struct Log {
    spans: Arc<Mutex<Vec<(u64, Seen)>>>,
    events: Arc<Mutex<Vec<String>>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        if span.metadata().target() == "yue_rpc" {
            let mut seen = Seen {
                name: span.name(),
                parent: span.parent().map(|parent| parent.name()),
                ..Seen::default()
            };
            attributes.record(&mut seen);
            self.spans.lock().unwrap().push((id.into_u64(), seen));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.with(id, |seen| values.record(seen));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.with(&id, |seen| seen.closed = true);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let names = context.event_scope(event).map(|scope| {
            let names: Vec<_> = scope.from_root().map(|span| span.name()).collect();
            names.join(" ")
        });
        self.events.lock().unwrap().push(names.unwrap_or_default());
    }
}

impl Log {
    fn with(&self, id: &Id, change: impl FnOnce(&mut Seen)) {
        let mut spans = self.spans.lock().unwrap();
        // The latest: ids are used again.
        let found = spans
            .iter_mut()
            .rfind(|(number, _)| *number == id.into_u64());
        if let Some((_, seen)) = found {
            change(seen);
        }
    }

    fn spans(&self, name: &str) -> Vec<Seen> {
        let spans = self.spans.lock().unwrap();
        let named = spans.iter().filter(|(_, seen)| seen.name == name);
        named.map(|(_, seen)| seen.clone()).collect()
    }
}

/// One test at a time: `tracing` remembers for the whole process which places have a subscriber.
static ALONE: Mutex<()> = Mutex::new(());

fn logged(test: impl FnOnce(Log) + 'static) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let log = Log::default();
    let subscriber = Registry::default().with(log.clone());
    tracing::subscriber::with_default(subscriber, || run_loop(move || test(log)));
}

fn service() -> Service {
    Service::new(Rc::new(|call: &mut Call, reply: Reply| {
        match call.method() {
            CallMethod::Name(b"relay") => {
                let fibers: Vec<_> = (0..2)
                    .map(|_| spawn(|| sleep(Duration::from_millis(1)).unwrap()))
                    .collect();
                info!("in the handler");
                fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
                self::call(&peer().unwrap(), "leaf", &[]).unwrap();
                info!("in the handler, after the wait");
                reply.results(ints(&[]))
            }
            CallMethod::Name(b"fail") => reply.fail(&Failure::of_kind(ErrorKind::Argument, "no")),
            CallMethod::Name(b"panic") => panic!("oh no"),
            _ => reply.results(ints(&[])),
        }
    }))
}

fn open() -> (Server, Session) {
    let server = serve(Kind::Tcp, service(), Options::default());
    let client = server.open(service(), Options::default());
    (server, client)
}

#[test]
fn each_call_and_each_request_has_a_span_that_its_fiber_runs_in() {
    logged(|log| {
        let (_server, client) = open();
        info_span!("outside")
            .in_scope(|| call(&client, "relay", &[]))
            .unwrap();
        info!("outside of all");
        let calls = log.spans("call");
        let methods: Vec<_> = calls
            .iter()
            .map(|span| span.field("method").to_owned())
            .collect();
        assert_eq!(methods, ["relay", "leaf"]);
        assert_eq!(calls[0].parent, Some("outside"));
        assert_eq!(calls[1].parent, Some("request"));
        let requests = log.spans("request");
        assert_eq!(requests.len(), 2);
        for (request, call) in requests.iter().zip(&calls) {
            assert_eq!(request.field("method"), call.field("method"));
            assert_eq!(request.field("msgid"), call.field("msgid"));
            assert_ne!(request.field("msgid"), "");
            assert_eq!(request.parent, None);
            assert!(request.field("peer").starts_with("tcp://127.0.0.1:"));
            for span in [request, call] {
                assert_eq!(span.field("outcome"), "ok");
                assert_eq!(span.field("traceparent"), "");
                assert!(span.closed);
            }
        }
        assert_eq!(*log.events.lock().unwrap(), ["request", "request", ""]);
        client.close();
    });
}

#[test]
fn outcomes_are_the_types_of_errors() {
    logged(|log| {
        let (_server, client) = open();
        let outcomes = |name: &str| -> Vec<String> {
            let spans = log.spans(name);
            spans
                .iter()
                .map(|span| span.field("outcome").to_owned())
                .collect()
        };
        for method in ["fail", "panic", "leaf"] {
            let _ = call(&client, method, &[]);
        }
        let expected = ["ArgumentError", "RuntimeError", "ok"];
        assert_eq!(outcomes("call"), expected);
        assert_eq!(outcomes("request"), expected);
        let done = Rc::new(Cell::new(false));
        let set = done.clone();
        let timeout = Timeout::Default;
        client
            .call_async("fail", timeout, ints(&[]), move |_| set.set(true))
            .unwrap();
        eventually("it is answered", || done.get());
        assert_eq!(
            outcomes("call").last().map(String::as_str),
            Some("ArgumentError")
        );
        assert!(log.spans("call").iter().all(|span| span.closed));
        client.close();
        assert!(call(&client, "leaf", &[]).is_err());
        assert_eq!(
            outcomes("call").last().map(String::as_str),
            Some("ConnectionLostError")
        );
    });
}

#[test]
fn in_a_trace_each_call_has_a_parent_id_that_its_request_has_too() {
    logged(|log| {
        let (_server, client) = open();
        let begun = TraceParent::begin();
        trace::with(begun, || call(&client, "relay", &[])).unwrap();
        let (calls, requests) = (log.spans("call"), log.spans("request"));
        let mut ids = vec![begun.to_string()];
        for (call, request) in calls.iter().zip(&requests) {
            let id = call.field("traceparent");
            assert_eq!(request.field("traceparent"), id);
            let id: TraceParent = id.parse().unwrap();
            assert_eq!(id.trace_id(), begun.trace_id());
            ids.push(id.to_string());
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "{ids:?}");
        client.close();
    });
}

#[test]
fn a_trace_whose_calls_nobody_records_passes_unchanged() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run_loop(|| {
        let checked = Rc::new(Cell::new(None));
        let note = checked.clone();
        let dispatch = move |_: &mut Call, reply: Reply| {
            note.set(trace::current());
            reply.results(ints(&[]))
        };
        let server = serve(
            Kind::Memory,
            Service::new(Rc::new(dispatch)),
            Options::default(),
        );
        let client = server.client();
        let begun = TraceParent::begin();
        trace::with(begun, || call(&client, "f", &[])).unwrap();
        assert_eq!(checked.get(), Some(begun));
        client.close();
    });
}

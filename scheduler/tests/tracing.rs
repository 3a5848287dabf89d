//! `tracing` spans follow the fiber that entered them.

mod common;

use common::run;
use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tracing::span::EnteredSpan;
use tracing::{Event, Id, Span, Subscriber, info, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};
use yue_scheduler::*;

/// Records the names of the spans around each event, outermost first, and which spans have been closed.
#[derive(Clone, Default)]
struct Log {
    events: Arc<Mutex<Vec<String>>>,
    closed: Arc<Mutex<Vec<&'static str>>>,
    /// Entries and exits, as `+a` and `-a`.
    moves: Arc<Mutex<Vec<String>>>,
}

impl Log {
    fn note(&self, sign: char, name: &str) {
        self.moves.lock().unwrap().push(format!("{sign}{name}"));
    }

    fn events(&self) -> Vec<String> {
        mem::take(&mut *self.events.lock().unwrap())
    }

    fn closed(&self) -> Vec<&'static str> {
        mem::take(&mut *self.closed.lock().unwrap())
    }

    fn moves(&self) -> String {
        mem::take(&mut *self.moves.lock().unwrap()).join(" ")
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let names = context.event_scope(event).map(|scope| {
            let names: Vec<_> = scope.from_root().map(|span| span.name()).collect();
            names.join(" ")
        });
        self.events.lock().unwrap().push(names.unwrap_or_default());
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.note('+', context.span(id).unwrap().name());
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.note('-', context.span(id).unwrap().name());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let name = context.span(&id).unwrap().name();
        self.closed.lock().unwrap().push(name);
    }
}

/// Runs `f` with a subscriber that writes to the log that `f` gets. The result of `f` must hold no span.
fn logged<T>(f: impl FnOnce(&Log) -> T) -> T {
    let log = Log::default();
    let subscriber = Registry::default().with(log.clone());
    tracing::subscriber::with_default(subscriber, || f(&log))
}

/// Returns the names of the spans that the calling code is in: the current span and its parents.
fn here(log: &Log) -> String {
    info!("here");
    log.events().pop().unwrap()
}

#[test]
fn spans_of_fibers_that_take_turns_do_not_mix() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let fibers = [info_span!("a"), info_span!("b"), info_span!("c")].map(|span| {
                let (seen, name) = (seen.clone(), span.metadata().unwrap().name());
                spawn(move || {
                    assert_eq!(here(&seen), "");
                    let guard = span.enter();
                    for _ in 0..5 {
                        yield_now().unwrap();
                        assert_eq!(here(&seen), name);
                    }
                    sleep(std::time::Duration::from_millis(1)).unwrap();
                    assert_eq!(here(&seen), name);
                    drop(guard);
                    assert_eq!(here(&seen), "");
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "");
                })
            });
            for _ in 0..10 {
                assert_eq!(here(&seen), "", "the main fiber is in no span");
                yield_now().unwrap();
            }
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        });
        let mut closed = log.closed();
        closed.sort_unstable();
        assert_eq!(closed, ["a", "b", "c"], "a switch keeps no span alive");
    });
}

#[test]
fn nested_spans_are_exited_and_entered_in_order() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let fiber = spawn({
                let seen = seen.clone();
                move || {
                    let _a = info_span!("a").entered();
                    let b = info_span!("b").entered();
                    let _c = info_span!("c").entered();
                    seen.moves();
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "a b c");
                    drop(b);
                    yield_now().unwrap();
                    // A span keeps the parent with which it was created.
                    assert_eq!(here(&seen), "a b c");
                    info_span!("d").in_scope(|| {
                        yield_now().unwrap();
                        assert_eq!(here(&seen), "a b c d");
                    });
                    seen.moves()
                }
            });
            let moves = fiber.join().unwrap();
            let first = "-c -b -a +a +b +c -b -c -a +a +c ";
            assert_eq!(moves, format!("{first}+d -d -c -a +a +c +d -d"));
        });
    });
}

#[test]
fn a_span_created_after_a_switch_has_the_right_parent() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let fibers = ["left", "right"].map(|side| {
                let seen = seen.clone();
                spawn(move || {
                    let outer = match side {
                        "left" => info_span!("left"),
                        _ => info_span!("right"),
                    };
                    let _outer = outer.entered();
                    yield_now().unwrap();
                    let _inner = info_span!("inner").entered();
                    yield_now().unwrap();
                    assert_eq!(here(&seen), format!("{side} inner"));
                })
            });
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        });
    });
}

#[test]
fn a_span_entered_twice_is_reentered_twice() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let span = info_span!("a");
            let first = span.enter();
            let second = span.enter();
            yield_now().unwrap();
            drop(second);
            assert_eq!(here(&seen), "a");
            yield_now().unwrap();
            assert_eq!(here(&seen), "a");
            drop(first);
            assert_eq!(here(&seen), "");
        });
    });
}

#[test]
fn a_span_left_open_by_an_ended_fiber_is_exited() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let forgetful = spawn(|| {
                let outer = info_span!("outer").entered();
                mem::forget((outer, info_span!("forgotten").entered()));
            });
            forgetful.join().unwrap();
            assert_eq!(here(&seen), "");
            let panicking = spawn(|| {
                let _span = info_span!("panicking").entered();
                yield_now().unwrap();
                panic!("as the test wants");
            });
            assert!(panicking.join().is_err());
            assert_eq!(here(&seen), "");
        });
        assert_eq!(log.closed(), ["panicking"]);
        assert_eq!(here(log), "");
    });
}

/// A guard that a fiber keeps when it ends is exited with the fiber; dropping it elsewhere later is harmless.
#[test]
fn a_guard_that_outlives_its_fiber_is_harmless() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let kept: Rc<RefCell<Option<EnteredSpan>>> = Rc::default();
            let keep = kept.clone();
            let fiber = spawn(move || keep.replace(Some(info_span!("kept").entered())).is_none());
            assert!(fiber.join().unwrap());
            let _mine = info_span!("mine").entered();
            assert_eq!(here(&seen), "mine");
            drop(kept.take());
            yield_now().unwrap();
            assert_eq!(here(&seen), "mine");
            assert_eq!(seen.closed(), ["kept"]);
        });
    });
}

#[test]
fn the_spans_around_the_loop_stay() {
    logged(|log| {
        let process = info_span!("process").entered();
        let service = info_span!("service").entered();
        log.moves();
        let seen = log.clone();
        run(move || {
            assert_eq!(here(&seen), "process service");
            let fiber = spawn({
                let seen = seen.clone();
                move || {
                    assert_eq!(here(&seen), "process service");
                    let request = info_span!("request").entered();
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "process service request");
                    drop(request);
                    assert_eq!(here(&seen), "process service");
                }
            });
            yield_now().unwrap();
            assert_eq!(here(&seen), "process service");
            fiber.join().unwrap();
        });
        assert_eq!(log.moves(), "+request -request +request -request");
        assert_eq!(here(log), "process service");
        drop(service);
        drop(process);
        assert_eq!(here(log), "");
        assert_eq!(log.closed(), ["request", "service", "process"]);
    });
}

#[test]
fn a_fiber_may_enter_the_span_around_the_loop() {
    logged(|log| {
        let service = info_span!("service").entered();
        let seen = log.clone();
        run(move || {
            let fibers = [0, 1].map(|_| {
                let seen = seen.clone();
                spawn(move || {
                    let again = Span::current().entered();
                    let request = info_span!("request").entered();
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "service request");
                    drop(request);
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "service");
                    drop(again);
                    assert_eq!(here(&seen), "service");
                })
            });
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        });
        assert_eq!(here(log), "service");
        drop(service);
        assert_eq!(here(log), "");
    });
}

/// An embedder may use different spans in each tick.
#[test]
fn each_tick_may_have_its_own_span() {
    logged(|log| {
        let embedded = Loop::new(Config::default()).unwrap();
        let seen = log.clone();
        let fiber = embedded.enter(|| {
            spawn(move || {
                let span = info_span!(parent: None, "fiber").entered();
                for _ in 0..3 {
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "fiber");
                }
                drop(span);
                assert_eq!(here(&seen), "tick");
            })
        });
        while !fiber.is_done() {
            info_span!("tick").in_scope(|| embedded.tick().unwrap());
            assert_eq!(log.closed().last(), Some(&"tick"), "no fiber keeps it open");
            assert_eq!(here(log), "");
        }
        fiber.join().unwrap();
    });
}

#[test]
fn a_fiber_may_enter_the_span_that_it_was_spawned_in() {
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let request = info_span!("request").entered();
            let current = Span::current();
            let fibers = [0, 1].map(|_| {
                let (seen, current) = (seen.clone(), current.clone());
                spawn(move || {
                    assert_eq!(here(&seen), "", "the span is not inherited");
                    let _guard = current.enter();
                    yield_now().unwrap();
                    assert_eq!(here(&seen), "request");
                })
            });
            yield_now().unwrap();
            drop(request);
            assert_eq!(here(&seen), "");
            fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
        });
    });
}

/// A refused switch leaves the fiber in its spans.
#[test]
fn a_refused_switch_changes_nothing() {
    struct Stubborn;
    impl SwitchHook for Stubborn {
        fn leave(&self) -> Result<(), &'static str> {
            Err("not now")
        }
        fn enter(&self) {}
    }
    logged(|log| {
        let seen = log.clone();
        run(move || {
            let fiber = spawn(move || {
                let _span = info_span!("a").entered();
                let refused =
                    std::panic::catch_unwind(|| with_switch_hook(&Stubborn, |_| yield_now()));
                assert!(refused.is_err());
                assert_eq!(here(&seen), "a");
                yield_now().unwrap();
                assert_eq!(here(&seen), "a");
            });
            fiber.join().unwrap();
        });
    });
}

#[test]
fn without_a_subscriber_nothing_happens() {
    run(|| {
        let _span = info_span!("a").entered();
        yield_now().unwrap();
        assert!(Span::current().is_none());
    });
}

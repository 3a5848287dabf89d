//! The list of fibers, and the counters.

use std::time::Duration;
use yue_scheduler::inspect::{FiberState, metrics_text, set_timing};
use yue_scheduler::*;

fn named(name: &str) -> FiberInfo {
    let mut all = this_loop::fibers();
    all.retain(|fiber| fiber.name.as_deref() == Some(name));
    assert_eq!(all.len(), 1, "one fiber is named {name}");
    all.remove(0)
}

use yue_scheduler::inspect::FiberInfo;

fn spawn_named(name: &str, f: impl FnOnce() + 'static) -> JoinHandle<()> {
    Builder::new().name(name).spawn(f).unwrap()
}

#[test]
fn each_fiber_is_listed_with_what_it_waits_for() {
    Loop::new(Config::default()).unwrap().run(|| {
        let sleeper = spawn_named("sleeper", || {
            let _ = sleep(Duration::from_secs(60));
        });
        let parked = spawn_named("parked", || {
            prepare_park();
            let _ = park("a long word for a wait");
        });
        let fresh = spawn_named("fresh", || {});
        assert_eq!(named("fresh").state, FiberState::New);
        assert_eq!(named("sleeper").switches, 0);
        yield_now().unwrap();

        let found = named("sleeper");
        assert_eq!(found.id, sleeper.id());
        assert_eq!(found.state, FiberState::Parked);
        assert_eq!(found.reason, "sleep");
        assert_eq!(found.switches, 1);
        assert_eq!(found.priority, Priority::Normal);
        assert!(found.location.file().ends_with("listing.rs"));
        assert!(!found.cancelled);
        assert_eq!(named("parked").reason, "a long word for a wait");
        assert_eq!(
            this_loop::fiber(current_id()).unwrap().state,
            FiberState::Running
        );
        assert!(
            this_loop::fiber(fresh.id()).is_none(),
            "the fiber has ended"
        );

        sleeper.cancel();
        let found = named("sleeper");
        assert_eq!(found.state, FiberState::Ready);
        assert!(found.cancelled);
        parked.cancel();
    });
}

#[test]
fn the_waiting_time_of_a_fiber_grows_and_restarts_with_each_wait() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fiber = spawn_named("waits", || {
            prepare_park();
            let _ = park("first");
            let _ = shield(|| {
                prepare_park();
                park_until(
                    "second",
                    Some(now().saturating_add(Duration::from_secs(60))),
                )
            });
        });
        sleep(Duration::from_millis(30)).unwrap();
        let first = named("waits");
        assert_eq!(first.reason, "first");
        assert!(first.duration >= Duration::from_millis(20), "{first}");
        fiber.cancel();
        yield_now().unwrap();
        let second = named("waits");
        assert_eq!(second.reason, "second");
        assert!(second.duration < first.duration, "{first}; {second}");
        assert!(second.cancelled && second.shielded);
    });
}

#[test]
fn a_fiber_under_a_deadline_shows_it() {
    Loop::new(Config::default()).unwrap().run(|| {
        let at = now().saturating_add(Duration::from_secs(50));
        let fiber = spawn_named("hurried", move || {
            with_deadline(at, || {
                prepare_park();
                let _ = park("nothing");
            });
        });
        yield_now().unwrap();
        assert_eq!(named("hurried").deadline, Some(at));
        fiber.cancel();
    });
}

#[test]
fn another_thread_gets_the_list_while_the_loop_continues() {
    let l = Loop::new(Config::default()).unwrap();
    let handle = l.handle();
    l.run(move || {
        let fibers: Vec<_> = (0..20_000)
            .map(|_| {
                spawn(|| {
                    prepare_park();
                    let _ = park("the end");
                })
            })
            .collect();
        yield_now().unwrap();
        let thread = std::thread::spawn(move || handle.fibers().unwrap());
        while !thread.is_finished() {
            sleep(Duration::from_millis(1)).unwrap();
        }
        let list = thread.join().unwrap();
        assert_eq!(list.len(), 20_001, "the parked ones and the main one");
        let parked =
            |fiber: &&FiberInfo| fiber.state == FiberState::Parked && fiber.reason == "the end";
        assert_eq!(list.iter().filter(parked).count(), 20_000);
        for fiber in fibers {
            fiber.cancel();
            fiber.join().unwrap();
        }
    });
}

/// Returns the value of a counter of this loop.
fn metric(name: &str, labels: &str) -> u64 {
    let text = metrics_text();
    let start = format!("{name}{{loop=\"{}\"{labels}}} ", this_loop::id());
    let line = text.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("no {start} in {text}"));
    line[start.len()..].parse().unwrap()
}

#[test]
fn the_metrics_of_a_loop_follow_what_it_does() {
    Loop::new(Config::default()).unwrap().run(|| {
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                spawn(|| {
                    let _ = sleep(Duration::from_secs(60));
                })
            })
            .collect();
        sleep(Duration::from_millis(1)).unwrap();
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(metric("yue_fibers", ""), 6);
        assert_eq!(
            metric("yue_fibers_parked", ""),
            6,
            "all slept when the tick ended"
        );
        assert_eq!(metric("yue_fibers_ready", ""), 0);
        assert_eq!(metric("yue_timers", ""), 6);
        assert_eq!(metric("yue_fibers_spawned_total", ""), 6);
        assert_eq!(metric("yue_stacks_used", ",class=\"small\""), 6);
        let messages = metric("yue_messages_total", "");
        let elsewhere = metric("yue_wakes_total", ",from=\"elsewhere\"");
        let waker = prepare_park().remote();
        std::thread::spawn(move || waker.wake());
        park("another thread").unwrap();
        sleep(Duration::from_millis(1)).unwrap();
        assert_eq!(metric("yue_messages_total", ""), messages + 1);
        assert_eq!(
            metric("yue_wakes_total", ",from=\"elsewhere\""),
            elsewhere + 1
        );
        for fiber in waiting {
            fiber.cancel();
            fiber.join().unwrap();
        }
    });
}

#[test]
fn run_times_and_histograms_fill_while_timing_is_on() {
    Loop::new(Config::default()).unwrap().run(|| {
        let turns = spawn_named("turns", || while yield_now().is_ok() {});
        assert_eq!(named("turns").run_time, None);
        set_timing(true);
        while named("turns")
            .run_time
            .is_none_or(|ran| ran < Duration::from_micros(10))
        {
            sleep(Duration::from_millis(1)).unwrap();
        }
        set_timing(false);
        for name in [
            "yue_tick_seconds",
            "yue_run_latency_seconds",
            "yue_timer_lateness_seconds",
        ] {
            assert!(metric(&format!("{name}_count"), "") > 0, "{name}");
        }
        turns.cancel();
    });
}

#[test]
fn an_ended_loop_leaves_the_metrics() {
    let id = Loop::new(Config::default()).unwrap().run(this_loop::id);
    assert!(!metrics_text().contains(&format!("loop=\"{id}\"")));
}

#[test]
fn the_list_shows_priorities() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fibers = [Priority::High, Priority::Normal, Priority::Low].map(|priority| {
            let wait = || assert!(sleep(Duration::from_secs(60)).is_err(), "cancelled");
            let fiber = Builder::new().priority(priority).spawn(wait).unwrap();
            let found = this_loop::fiber(fiber.id()).unwrap();
            assert_eq!(found.priority, priority);
            (fiber, found.to_string())
        });
        let shown = fibers
            .each_ref()
            .map(|(_, line)| [" high priority", " low priority"].map(|words| line.contains(words)));
        assert_eq!(shown, [[true, false], [false, false], [false, true]]);
        set_priority(Priority::Low);
        let mine = this_loop::fiber(current_id()).unwrap();
        assert_eq!(mine.priority, Priority::Low);
        for (fiber, _) in fibers {
            fiber.cancel_and_join().unwrap();
        }
    });
}

/// A hook that knows its fiber's origin, or not.
struct Knows(Option<&'static str>);

impl SwitchHook for Knows {
    fn leave(&self) -> Result<(), &'static str> {
        Ok(())
    }

    fn enter(&self) {}

    fn origin(&self) -> Option<Box<str>> {
        self.0.map(Into::into)
    }
}

#[test]
fn a_fibers_origin_comes_from_the_outermost_hook_that_knows_it() {
    Loop::new(Config::default()).unwrap().run(|| {
        let fiber = spawn_named("foreign", || {
            let wait = || sleep(Duration::from_secs(60));
            let inner = || with_switch_hook(Knows(Some("inner.script:2")), |_| wait());
            let middle = || with_switch_hook(Knows(Some("outer.script:1")), |_| inner());
            let _ = with_switch_hook(Knows(None), |_| middle());
            assert_eq!(
                named("foreign").origin,
                None,
                "the hook of the running fiber is not called"
            );
            let _ = shield(wait);
        });
        assert_eq!(named("foreign").origin, None);
        yield_now().unwrap();
        let found = named("foreign");
        assert_eq!(found.origin.as_deref(), Some("outer.script:1"));
        assert!(
            found.to_string().contains(" to run outer.script:1, "),
            "{found}"
        );
        fiber.cancel();
        yield_now().unwrap();
        yield_now().unwrap();
        // The fiber continues to wait, but outside the hooks.
        assert_eq!(named("foreign").state, FiberState::Parked);
        assert_eq!(named("foreign").origin, None);
    });
}

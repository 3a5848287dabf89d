//! The counters of all loops of the process, in Prometheus' text format.
//!
//! Reading needs no loop to answer: what a loop counted lies in its [`Vitals`](super::vitals::Vitals), as of its last
//! tick. Other layers add their own lines with [`add_metrics`].

use super::vitals::{Counted, StackCounted, Vitals};
use crate::event_loop::registry;
use crate::fiber::{OnDrop, drop_payload, no_suspend};
use std::cell::Cell;
use std::fmt::{Display, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

type More = Arc<dyn Fn(&mut String) + Send + Sync>;

static MORE: Mutex<Vec<More>> = Mutex::new(Vec::new());

/// Has `write` add lines of its own to each [`metrics_text`], for as long as the process lives.
///
/// It is called by whoever asks for the text, several threads at once perhaps, and must not suspend. If it panics, the
/// text is without its lines, and standard error says so. Called inside it, `metrics_text` gives only the lines of the
/// loops.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use yue_scheduler::inspect;
///
/// static LOGINS: AtomicU64 = AtomicU64::new(3);
/// inspect::add_metrics(|text| {
///     text.push_str("# TYPE game_logins_total counter\n");
///     text.push_str(&format!("game_logins_total {}\n", LOGINS.load(Ordering::Relaxed)));
/// });
/// assert!(inspect::metrics_text().contains("game_logins_total 3\n"));
/// ```
pub fn add_metrics(write: impl Fn(&mut String) + Send + Sync + 'static) {
    MORE.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Arc::new(write));
}

/// What all loops of the process have and have done, in Prometheus' text format; the label `loop` is the loop's number.
///
/// From any thread, at any time. It asks no loop, so that a loop that is stuck is seen, too; the values are those of
/// each loop's last tick. The histograms fill while [`set_timing`](super::set_timing) is on.
///
/// ```
/// use yue_scheduler::{Config, Loop, inspect, yield_now};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     yield_now().unwrap();
///     println!("{}", inspect::metrics_text()); // yue_fibers{loop="1"} 1 …
/// });
/// ```
pub fn metrics_text() -> String {
    let loops = registry::all();
    let loops: Vec<_> = loops
        .iter()
        .map(|shared| {
            let vitals = shared.vitals();
            (
                format!("loop=\"{}\"", shared.id()),
                vitals,
                vitals.counted(),
            )
        })
        .collect();
    let mut text = Text {
        out: String::with_capacity(4096),
        loops: &loops,
    };
    text.loops();
    text.stacks();
    text.histograms();
    let mut out = text.out;
    if !ADDING.replace(true) {
        let _done = OnDrop(|| ADDING.set(false));
        // Without the lock: they are code of the program's, which may add others.
        let more = MORE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for write in more {
            let mut lines = String::new();
            match catch_unwind(AssertUnwindSafe(|| no_suspend(|| write(&mut lines)))) {
                Ok(()) => out.push_str(&lines),
                Err(payload) => {
                    crate::say(format_args!(
                        "a closure of add_metrics panicked; its lines are missing"
                    ));
                    drop_payload(payload);
                }
            }
        }
    }
    out
}

thread_local! {
    /// Whether this thread is in the closures of [`add_metrics`]: one that asks for the text again would never end.
    static ADDING: Cell<bool> = const { Cell::new(false) };
}

struct Text<'a> {
    out: String,
    loops: &'a [(String, &'a Vitals, Counted)],
}

impl Text<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: impl Display, value: u64) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }

    /// One line a loop.
    fn family(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Counted) -> u64) {
        self.head(name, kind, help);
        for (labels, _, counted) in self.loops {
            self.line(name, labels, value(counted));
        }
    }

    fn loops(&mut self) {
        self.head(
            "yue_loop_info",
            "gauge",
            "Which driver and which thread a loop has.",
        );
        for (labels, vitals, _) in self.loops {
            let (driver, thread) = (vitals.driver, escape(&vitals.thread.name));
            let number = vitals.thread.number;
            self.line(
                "yue_loop_info",
                format_args!("{labels},driver=\"{driver}\",thread=\"{thread}\",tid=\"{number}\""),
                1,
            );
        }
        self.gauges();
        self.counters();
        let (name, help) = (
            "yue_loop_held_total",
            "Times that the watchdog found the loop held.",
        );
        self.head(name, "counter", help);
        for (labels, vitals, _) in self.loops {
            self.line(name, labels, vitals.held.load(Ordering::Relaxed));
        }
    }

    fn gauges(&mut self) {
        let gauge = "gauge";
        let help = "Whether the loop is in a tick, and not waiting for the kernel.";
        self.head("yue_loop_working", gauge, help);
        for (labels, vitals, _) in self.loops {
            let working = vitals.working_on().is_some();
            self.line("yue_loop_working", labels, working.into());
        }
        self.family("yue_fibers", gauge, "Fibers that are not over.", |c| c.live);
        let help = "Fibers that wait.";
        self.family("yue_fibers_parked", gauge, help, |c| c.parked);
        let help = "Fibers in the run queue at the end of the tick.";
        self.family("yue_fibers_ready", gauge, help, |c| {
            c.live.saturating_sub(c.parked)
        });
        let help = "Timers that are armed, those of waiting fibers included.";
        self.family("yue_timers", gauge, help, |c| c.timers);
        let help = "Operations that the kernel works on.";
        self.family("yue_operations", gauge, help, |c| c.operations);
    }

    fn counters(&mut self) {
        let counter = "counter";
        let help = "Fibers that were started.";
        self.family("yue_fibers_spawned_total", counter, help, |c| c.spawned);
        let help = "Fibers and callbacks that ended by a panic.";
        self.family("yue_panics_total", counter, help, |c| c.panics);
        self.family("yue_ticks_total", counter, "Turns of the loop.", |c| {
            c.ticks
        });
        let help = "Switches from the loop to a fiber.";
        self.family("yue_switches_total", counter, help, |c| c.switches);
        self.head(
            "yue_wakes_total",
            counter,
            "Waits that were ended, by the thread that did it.",
        );
        for (labels, _, counted) in self.loops {
            let name = "yue_wakes_total";
            self.line(
                name,
                format_args!("{labels},from=\"loop\""),
                counted.wakes_local,
            );
            self.line(
                name,
                format_args!("{labels},from=\"elsewhere\""),
                counted.wakes_remote,
            );
        }
        let help = "Messages from other threads.";
        self.family("yue_messages_total", counter, help, |c| c.messages);
    }

    fn stacks(&mut self) {
        let gauge = "gauge";
        let help = "Stacks that are in use.";
        self.stack_family("yue_stacks_used", gauge, help, |s| s.used);
        let help = "Stacks that wait for a fiber.";
        self.stack_family("yue_stacks_idle", gauge, help, |s| s.idle);
        let help = "Address space of all stacks.";
        self.stack_family("yue_stack_mapped_bytes", gauge, help, |s| s.mapped_bytes);
        let help = "The deepest use of a stack that was seen in samples.";
        self.stack_family("yue_stack_high_water_bytes", gauge, help, |s| {
            s.high_water_bytes
        });
        let help = "Stacks whose depth was looked at.";
        self.stack_family("yue_stack_samples_total", "counter", help, |s| s.samples);
        let help = "Memory of stacks that was given back to the system.";
        self.stack_family("yue_stack_trimmed_bytes_total", "counter", help, |s| {
            s.trimmed_bytes
        });
    }

    fn stack_family(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&StackCounted) -> u64,
    ) {
        self.head(name, kind, help);
        for (labels, _, counted) in self.loops {
            let classes = [
                ("native", &counted.stacks_native),
                ("lua", &counted.stacks_lua),
            ];
            for (class, stacks) in classes {
                self.line(
                    name,
                    format_args!("{labels},class=\"{class}\""),
                    value(stacks),
                );
            }
        }
    }

    fn histograms(&mut self) {
        type Which = fn(&Vitals) -> &super::histogram::Histogram;
        let families: [(&str, &str, Which); 3] = [
            (
                "yue_tick_seconds",
                "How long a tick took, waiting not counted.",
                |vitals| &vitals.tick_duration,
            ),
            (
                "yue_run_latency_seconds",
                "From when a fiber could run to when it did.",
                |vitals| &vitals.run_latency,
            ),
            (
                "yue_timer_lateness_seconds",
                "From when a timer was due to when it fired.",
                |vitals| &vitals.timer_lateness,
            ),
        ];
        for (name, help, which) in families {
            self.head(name, "histogram", help);
            for (labels, vitals, _) in self.loops {
                which(vitals).write(&mut self.out, name, labels);
            }
        }
    }
}

/// A label's value may be any text but for these.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_with_quotes_stays_one_label() {
        assert_eq!(escape("a \"b\" \\ \n"), "a \\\"b\\\" \\\\ \\n");
    }
}

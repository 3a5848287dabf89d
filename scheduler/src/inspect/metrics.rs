//! The counters of all loops of the process, in Prometheus' text format.
//!
//! Reading involves no loop: each loop's counters lie in its [`Vitals`], as of its last tick.
//! Other layers add their own lines with [`add_metrics`].

use super::loops::busy;
use crate::event_loop::{Counted, Histogram, Vitals, registry};
use crate::fiber::{OnDrop, no_suspend};
use crate::lock::lock;
use crate::panics::drop_payload;
use crate::stack::StackCounted;
use std::cell::Cell;
use std::fmt::{Display, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A loop's labels, its vitals, the counters in them, and the processor time of its thread.
type Line<'a> = (String, &'a Vitals, Counted, Duration);

type More = Arc<dyn Fn(&mut String) + Send + Sync>;

static MORE: Mutex<Vec<More>> = Mutex::new(Vec::new());

/// Registers `write`, which adds lines to each [`metrics_text`] for the lifetime of the process.
///
/// The thread that requests the text calls `write`, several threads perhaps at once, and it must not suspend. If it
/// panics, its lines are missing from the text, and a log line says so. If it calls `metrics_text`, that returns
/// only the lines of the loops.
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
    lock(&MORE).push(Arc::new(write));
}

/// Returns the counters of all loops of the process in Prometheus' text format. The label `loop` is the loop's number.
///
/// It may be called on any thread at any time. It needs no reply from a loop, so a stuck loop is included. The values
/// are those of each loop's last tick. The histograms fill while [`set_timing`](super::set_timing) is on.
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
                busy(shared),
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
        // Outside the lock: the closures are the program's code, and may add others.
        let more = lock(&MORE).clone();
        for write in more {
            let mut lines = String::new();
            match catch_unwind(AssertUnwindSafe(|| no_suspend(|| write(&mut lines)))) {
                Ok(()) => out.push_str(&lines),
                Err(payload) => {
                    crate::log(
                        crate::LogLevel::Error,
                        format_args!("a closure of add_metrics panicked; its lines are missing"),
                    );
                    drop_payload(payload);
                }
            }
        }
    }
    out
}

thread_local! {
    /// Whether this thread is running the closures of [`add_metrics`]; a closure that requests the text would recurse
    /// forever.
    static ADDING: Cell<bool> = const { Cell::new(false) };
}

struct Text<'a> {
    out: String,
    loops: &'a [Line<'a>],
}

impl Text<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: impl Display, value: impl Display) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value}");
    }

    /// Writes one line per loop.
    fn family(&mut self, name: &str, kind: &str, help: &str, value: impl Fn(&Counted) -> u64) {
        self.head(name, kind, help);
        for (labels, _, counted, _) in self.loops {
            self.line(name, labels, value(counted));
        }
    }

    fn loops(&mut self) {
        self.head("yue_loop_info", "gauge", "The loop's driver and thread.");
        for (labels, vitals, _, _) in self.loops {
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
        let name = "yue_loop_cpu_seconds_total";
        let help = "Processor time of the loop's thread since the loop was created.";
        self.head(name, "counter", help);
        for (labels, _, _, busy) in self.loops {
            self.line(name, labels, busy.as_secs_f64());
        }
        let (name, help) = (
            "yue_loop_held_total",
            "Times that the watchdog found the loop held.",
        );
        self.head(name, "counter", help);
        for (labels, vitals, _, _) in self.loops {
            self.line(name, labels, vitals.held.load(Ordering::Relaxed));
        }
    }

    fn gauges(&mut self) {
        let gauge = "gauge";
        let help = "1 while the loop is in a tick and does not wait for the kernel.";
        self.head("yue_loop_working", gauge, help);
        for (labels, vitals, _, _) in self.loops {
            let working = vitals.working_on().is_some();
            self.line("yue_loop_working", labels, u64::from(working));
        }
        self.family("yue_fibers", gauge, "Fibers that have not ended.", |c| {
            c.live
        });
        let help = "Waiting fibers.";
        self.family("yue_fibers_parked", gauge, help, |c| c.parked);
        let help = "Fibers in the run queue at the end of the tick.";
        self.family("yue_fibers_ready", gauge, help, |c| {
            c.live.saturating_sub(c.parked)
        });
        let help = "Armed timers, including those of waiting fibers.";
        self.family("yue_timers", gauge, help, |c| c.timers);
        let help = "Operations in progress in the kernel.";
        self.family("yue_operations", gauge, help, |c| c.operations);
    }

    fn counters(&mut self) {
        let counter = "counter";
        let help = "Fibers started.";
        self.family("yue_fibers_spawned_total", counter, help, |c| c.spawned);
        let help = "Fibers and callbacks that ended with a panic.";
        self.family("yue_panics_total", counter, help, |c| c.panics);
        self.family("yue_ticks_total", counter, "Ticks of the loop.", |c| {
            c.ticks
        });
        let help = "Switches from the loop to a fiber.";
        self.family("yue_switches_total", counter, help, |c| c.switches);
        self.head(
            "yue_wakes_total",
            counter,
            "Wake-ups, by the thread that caused them.",
        );
        for (labels, _, counted, _) in self.loops {
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
        let help = "Stacks in use.";
        self.stack_family("yue_stacks_used", gauge, help, |s| s.used);
        let help = "Free stacks.";
        self.stack_family("yue_stacks_idle", gauge, help, |s| s.idle);
        let help = "Address space of all stacks.";
        self.stack_family("yue_stack_mapped_bytes", gauge, help, |s| s.mapped_bytes);
        let help = "The deepest stack use seen in samples.";
        self.stack_family("yue_stack_high_water_bytes", gauge, help, |s| {
            s.high_water_bytes
        });
        let help = "Samples of the depth of a stack.";
        self.stack_family("yue_stack_samples_total", "counter", help, |s| s.samples);
        let help = "Stack memory returned to the system.";
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
        for (labels, _, counted, _) in self.loops {
            let classes = [
                ("small", &counted.stacks_small),
                ("deep", &counted.stacks_deep),
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
        type Which = fn(&Vitals) -> &Histogram;
        let families: [(&str, &str, Which); 3] = [
            (
                "yue_tick_seconds",
                "Duration of a tick, without waiting.",
                |vitals| &vitals.tick_duration,
            ),
            (
                "yue_run_latency_seconds",
                "Time from when a fiber became runnable until it ran.",
                |vitals| &vitals.run_latency,
            ),
            (
                "yue_timer_lateness_seconds",
                "Time from when a timer was due until it fired.",
                |vitals| &vitals.timer_lateness,
            ),
        ];
        for (name, help, which) in families {
            self.head(name, "histogram", help);
            for (labels, vitals, _, _) in self.loops {
                which(vitals).write(&mut self.out, name, labels);
            }
        }
    }
}

/// Escapes the characters that a label's value may not contain.
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

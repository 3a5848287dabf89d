//! The Rust runtime: several loops, their settings, and their end.

use std::cell::Cell;
use std::collections::HashSet;
use std::env;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use yue::net::{TcpListener, TcpStream};
use yue::scheduler::{blocking_counters, now, this_loop};
use yue::{Runtime, RuntimeReport, Stopped, sleep, spawn, spawn_any};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

fn three() -> Runtime {
    Runtime::builder().loops(3).name("three").build().unwrap()
}

/// That a runtime left nothing of its own behind. The pool for blocking calls is the process's: what is left there may
/// be of a test that runs beside this one.
#[track_caller]
fn assert_nothing_left(mut report: RuntimeReport) {
    report.blocking_left = 0;
    assert_eq!(report, RuntimeReport::default());
}

#[test]
fn fibers_start_here_there_and_anywhere_and_do_io_on_each_loop() {
    let runtime = three();
    let whole = runtime.whole();
    assert_eq!(whole.loops().len(), 3);
    let (served, report) = runtime.run_reported(move || {
        let mut names = HashSet::new();
        for one in whole.loops() {
            let about = || (this_loop::id(), thread::current().name().map(str::to_owned));
            let (id, name) = one.spawn(about).join().unwrap();
            assert_eq!(id, one.id());
            names.insert(name);
        }
        for name in ["three-2", "three-3"] {
            assert!(names.contains(&Some(name.to_owned())), "{names:?}");
        }
        // Each connection is served by whichever loop takes it.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = spawn(move || {
            for _ in 0..30 {
                let (mut stream, _) = listener.accept().unwrap();
                drop(spawn_any(move || {
                    let mut word = [0; 4];
                    stream.read_exact(&mut word).unwrap();
                    stream.write_all(&word).unwrap();
                }));
            }
        });
        let client = move |n: u32| {
            spawn_any(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.write_all(&n.to_le_bytes()).unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).unwrap();
                u32::from_le_bytes(word)
            })
        };
        let clients: Vec<_> = (0..30).map(client).collect();
        server.join().unwrap();
        clients.into_iter().map(|c| c.join().unwrap()).sum::<u32>()
    });
    assert_eq!(served, 435);
    assert_nothing_left(report);
}

#[test]
fn what_is_left_on_any_loop_is_cancelled_when_main_returns() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let runtime = three();
    let (whole, counter) = (runtime.whole(), cancelled.clone());
    let ((), report) = runtime.run_reported(move || {
        for one in whole.loops() {
            let counter = counter.clone();
            let started = one.spawn(move || {
                drop(spawn(move || {
                    assert_eq!(sleep(LONG), Err(Stopped::Cancelled));
                    counter.fetch_add(1, Ordering::SeqCst);
                }));
            });
            started.join().unwrap();
        }
    });
    assert_nothing_left(report);
    assert_eq!(cancelled.load(Ordering::SeqCst), 3);
}

#[test]
fn a_panic_of_main_ends_the_other_loops_too_and_so_does_a_runtime_that_never_runs() {
    let runtime = three();
    let whole = runtime.whole();
    let panicked = catch_unwind(AssertUnwindSafe(|| runtime.run(|| panic!("on purpose"))));
    assert!(panicked.is_err());
    for one in whole.loops() {
        assert!(one.spawn(|| ()).join().is_err());
    }
    assert!(whole.spawn(|| ()).join().is_err());
    let runtime = three();
    let whole = runtime.whole();
    let early = whole.loops()[1].spawn(|| 5);
    assert_eq!(early.join().unwrap(), 5);
    drop(runtime);
    assert!(whole.loops()[1].spawn(|| ()).join().is_err());
}

#[test]
fn a_shutdown_gives_main_its_grace_and_then_cancels_everything() {
    let runtime = Runtime::builder().loops(2).grace(SHORT).build().unwrap();
    let whole = runtime.whole();
    let (told, report) = runtime.run_reported(move || {
        let worker = whole.loops()[1].spawn(|| yue::wait_for_shutdown().is_ok());
        whole.shutdown();
        (worker.join().ok(), sleep(LONG))
    });
    // On a busy machine the grace may be over before the worker's answer is here.
    assert!(told.0.is_none_or(|told| told), "{told:?}");
    assert_eq!(told.1, Err(Stopped::Cancelled));
    assert_nothing_left(report);
}

#[test]
fn what_had_to_be_left_is_counted() {
    let runtime = Runtime::builder()
        .loops(2)
        .stop_grace(Duration::from_millis(20))
        .build()
        .unwrap();
    let (whole, gate) = (runtime.whole(), Arc::new(AtomicBool::new(false)));
    let copy = gate.clone();
    let ((), report) = runtime.run_reported(move || {
        let started = whole.loops()[1].spawn(|| {
            drop(spawn(|| {
                loop {
                    let _ = sleep(LONG);
                }
            }));
        });
        started.join().unwrap();
        let begun = Arc::new(AtomicBool::new(false));
        let told = begun.clone();
        let caller = spawn(move || {
            yue::blocking(move || {
                told.store(true, Ordering::SeqCst);
                while !copy.load(Ordering::SeqCst) {
                    thread::sleep(SHORT);
                }
            })
        });
        while !begun.load(Ordering::SeqCst) {
            sleep(SHORT).unwrap();
        }
        assert!(caller.cancel_and_join().unwrap().is_err());
    });
    assert_eq!((report.fibers_abandoned, report.blocking_left), (1, 1));
    gate.store(true, Ordering::SeqCst);
    while blocking_counters().left > 0 {
        thread::sleep(SHORT);
    }
}

fn processors_of_this_thread() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

#[test]
fn pinned_loops_keep_to_one_processor_each_and_nobody_else_does() {
    let before = processors_of_this_thread();
    let runtime = Runtime::builder().loops(2).pinned(true).build().unwrap();
    let whole = runtime.whole();
    let all = before.clone();
    let pinned = runtime.run(move || {
        assert_eq!(yue::blocking(processors_of_this_thread).unwrap(), all);
        let there = whole.loops()[1].spawn(processors_of_this_thread);
        [processors_of_this_thread(), there.join().unwrap()]
    });
    let single = |list: &String| list.parse::<u32>().is_ok();
    assert!(pinned.iter().all(single), "{pinned:?}");
    if before.contains(['-', ',']) {
        assert_ne!(pinned[0], pinned[1]);
    }
    assert_eq!(processors_of_this_thread(), before);
}

#[test]
fn a_runtime_has_a_loop_for_each_processor_if_asked() {
    let runtime = Runtime::builder().loops(0).build().unwrap();
    let count = thread::available_parallelism().unwrap().get();
    assert!(runtime.whole().loops().len() >= count);
    runtime.run(|| assert_eq!(spawn_any(|| 1).join().unwrap(), 1));
}

/// The program has a loop of its own (a game's, a window's) and ticks ours in it.
#[test]
fn settings_that_no_system_could_fulfil_are_refused() {
    let too_many = Runtime::builder().loops(usize::MAX).build().unwrap_err();
    assert_eq!(
        too_many.to_string(),
        format!("a runtime has at most 4096 loops, not {}", usize::MAX)
    );
    let named = Runtime::builder().loops(2).name("a\0b").build();
    assert_eq!(named.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_loop_is_ticked_by_the_thread_that_owns_it() {
    let one = Runtime::builder().loops(2).build().unwrap();
    let answer = Rc::new(Cell::new(None));
    let place = answer.clone();
    one.enter(|| {
        drop(spawn(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let client = spawn(move || TcpStream::connect(address).unwrap().write_all(b"hi"));
            let mut text = String::new();
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_to_string(&mut text).unwrap();
            client.join().unwrap().unwrap();
            sleep(SHORT).unwrap();
            place.set(Some((text, now())));
        }));
    });
    let mut frames = 0_u64;
    while one.tick().unwrap() != yue::Tick::Done {
        // Where the program draws a frame.
        frames += 1;
        thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(answer.take().unwrap().0, "hi");
    assert!(frames > 1);
}

const CASE: &str = "YUE_RUNTIME_CASE";

/// In the parent: this test in a child, once it has said that it is ready. In the child: runs `case`, and ends.
fn child_of(test: &str, case: impl FnOnce()) -> Child {
    // A shell may have had it ignored for the tests, in the background.
    child_with(libc::SIG_DFL, test, case)
}

/// Like [`child_of`]; the child begins with that action for SIGINT.
fn child_with(action: libc::sighandler_t, test: &str, case: impl FnOnce()) -> Child {
    if env::var(CASE).is_ok_and(|name| name == test) {
        case();
        std::process::exit(0);
    }
    let mut command = Command::new(env::current_exe().unwrap());
    let set_action = move || {
        // SAFETY: async-signal-safe.
        unsafe { libc::signal(libc::SIGINT, action) };
        Ok(())
    };
    // SAFETY: between fork and exec only an async-signal-safe call is made.
    unsafe { command.pre_exec(set_action) };
    let mut child = command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, test)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    hear(&mut child, "ready\n");
    child
}

/// Reads what the child says up to these words.
fn hear(child: &mut Child, words: &str) {
    let mut heard = String::new();
    let out = child.stdout.as_mut().unwrap();
    while !heard.contains(words) {
        let mut byte = [0];
        out.read_exact(&mut byte).expect("the child ended early");
        heard.push(char::from(byte[0]));
    }
}

fn send(child: &Child, signal: i32) {
    // SAFETY: a signal to a process that was not waited for yet.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

fn listening() -> Runtime {
    Runtime::builder()
        .loops(2)
        .shutdown_on_signals(true)
        .grace(LONG)
        .build()
        .unwrap()
}

#[test]
fn the_first_signal_shuts_the_runtime_down_in_an_orderly_way() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let name = "the_first_signal_shuts_the_runtime_down_in_an_orderly_way";
        let child = child_of(name, || {
            let ((), report) = listening().run_reported(|| {
                let other = spawn_any(|| yue::wait_for_shutdown().unwrap());
                println!("ready");
                yue::wait_for_shutdown().unwrap();
                other.join().unwrap();
                sleep(SHORT).unwrap();
            });
            println!("over: {}", report == RuntimeReport::default());
        });
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(words.contains("over: true"), "{words}");
    }
}

#[test]
fn a_signal_right_behind_the_first_is_the_same_request() {
    let name = "a_signal_right_behind_the_first_is_the_same_request";
    let child = child_of(name, || {
        listening().run(|| {
            println!("ready");
            yue::wait_for_shutdown().unwrap();
            sleep(Duration::from_millis(50)).unwrap();
            println!("over");
        });
    });
    // As GNU timeout does it: the process, and at once its group.
    send(&child, libc::SIGTERM);
    send(&child, libc::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("over"));
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let name = "a_signal_that_is_ignored_at_the_start_stays_ignored";
    let mut child = child_with(libc::SIG_IGN, name, || {
        listening().run(|| {
            let wanted = [yue::signal::Signal::USR1];
            let told = |_| println!("still here");
            let _subscription = yue::signal::subscribe(&wanted, told).unwrap();
            println!("ready");
            yue::wait_for_shutdown().unwrap();
        });
    });
    send(&child, libc::SIGINT);
    send(&child, libc::SIGUSR1);
    hear(&mut child, "still here\n");
    send(&child, libc::SIGTERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_signal_ends_the_process_also_while_all_loops_are_held_up() {
    let name = "a_second_signal_ends_the_process_also_while_all_loops_are_held_up";
    let mut child = child_of(name, || {
        listening().run(|| {
            println!("ready");
            loop {
                thread::sleep(LONG);
            }
        });
    });
    // Those that come within half a second are one.
    while child.try_wait().unwrap().is_none() {
        send(&child, libc::SIGTERM);
        thread::sleep(SHORT);
    }
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn signals_are_the_programs_own_unless_it_asks() {
    let name = "signals_are_the_programs_own_unless_it_asks";
    let mut child = child_of(name, || {
        Runtime::builder().loops(2).build().unwrap().run(|| {
            println!("ready");
            let _ = yue::wait_for_shutdown();
        });
    });
    send(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    // Afterwards, in a process that continues, they are as before.
    let action = || {
        // SAFETY: asks only; zeros are a valid action.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGTERM, std::ptr::null(), &mut now);
            now.sa_sigaction
        }
    };
    let before = action();
    let runtime = listening();
    assert_ne!(action(), before);
    runtime.run(|| ());
    assert_eq!(action(), before);
    drop(listening());
    assert_eq!(action(), before);
}

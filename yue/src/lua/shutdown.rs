//! SIGINT and SIGTERM: the first ends the program gracefully, the second at once.
//!
//! They are heard on a loop and a thread of their own. The program's loops may be busy with a script that never waits,
//! or blocked in a write that nobody reads: the one who presses Ctrl-C then is the one who must be heard.

use super::program::Program;
use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use yue_io::{Choice, signal};
use yue_scheduler::{Config, Loop, LoopHandle, say, this_loop};

/// What ends a program from outside.
const SIGNALS: [signal::Signal; 2] = [signal::Signal::INT, signal::Signal::TERM];

/// Listens for as long as it lives.
pub(crate) struct EndSignals {
    listening: Option<(LoopHandle, JoinHandle<()>)>,
}

impl EndSignals {
    /// Listens. What cannot be had is said: the program runs all the same.
    pub(crate) fn listen(program: &Arc<Program>) -> EndSignals {
        let listening = start(program.clone()).inspect_err(|error| {
            say(format_args!("no graceful shutdown by signals: {error}"));
        });
        EndSignals {
            listening: listening.ok(),
        }
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        if let Some((handle, thread)) = self.listening.take() {
            handle.shutdown();
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}

fn start(program: Arc<Program>) -> io::Result<(LoopHandle, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("yue signals".to_owned())
        .spawn(move || listen(&program, &sender))?;
    match receiver.recv() {
        Ok(Ok(handle)) => Ok((handle, thread)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("its thread ended")),
    }
}

/// The life of the thread.
fn listen(program: &Arc<Program>, started: &mpsc::SyncSender<io::Result<LoopHandle>>) {
    // epoll: two descriptors where io_uring maps rings, and it has next to nothing to do.
    let l = yue_io::driver(Choice::Mio).and_then(|driver| {
        Loop::new(Config {
            driver,
            ..Config::default()
        })
    });
    let l = match l {
        Ok(l) => l,
        Err(error) => return drop(started.send(Err(error))),
    };
    let (program, started) = (program.clone(), started.clone());
    l.run(move || {
        let subscribed = subscribe(&program);
        let told = match &subscribed {
            Ok(_) => Ok(this_loop::handle()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let _ = started.send(told);
        if subscribed.is_ok() {
            let _ = this_loop::wait_for_shutdown();
        }
    });
}

fn subscribe(program: &Arc<Program>) -> io::Result<signal::Subscription> {
    let program = program.clone();
    let seen = Cell::new(false);
    signal::subscribe(&SIGNALS, move |signal| {
        // A program that binds the signal itself decides for itself.
        if super::signals::is_bound(signal.number()) {
            return;
        }
        if seen.replace(true) {
            // Not `exit`, which would wait for the outputs that the program may be blocked in.
            // SAFETY: ends the process, and runs no code of it.
            unsafe { libc::_exit(128 + signal.number()) };
        }
        program.shut_down();
    })
}

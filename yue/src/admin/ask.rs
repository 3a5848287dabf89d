//! Questions to the program's loops, with a time limit.
//!
//! ```text
//!   a handler ── a closure ──▶ the loop's inbox ── between two fibers ──▶ runs ── a oneshot ──▶ the handler
//! ```
//!
//! Invariant: a loop that has left a question unanswered for [`PATIENCE`] is asked nothing more until it has answered.
//! So questions to a loop that is held do not pile up, and only the first one waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use yue_scheduler::inspect::{self, LoopInfo};
use yue_scheduler::sync::{OneshotReceiver, oneshot};
use yue_scheduler::{Instant, LoopHandle, deadline_after, is_past, now, this_loop, with_deadline};

/// The time that a loop has for an answer. A tick takes a millisecond, but on a machine that is busy with other work a
/// loop may wait long for a processor, and is not held. A person who looks at a list waits that long, once.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The loop did not answer in time, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Silent;

thread_local! {
    /// For each loop that did not answer in time: whether it has by now.
    static UNANSWERED: RefCell<HashMap<u32, Arc<AtomicBool>>> = RefCell::default();
}

/// Returns the loops of the process except the calling one: those of the program.
pub(super) fn loops() -> Vec<LoopInfo> {
    let own = this_loop::id();
    let mut all = inspect::loops();
    all.retain(|one| one.handle.id() != own);
    all
}

/// A question that is on its way.
pub(super) struct Question<T> {
    loop_id: u32,
    is_over: Arc<AtomicBool>,
    answer: OneshotReceiver<T>,
}

/// Set when the question was answered, or dropped with its loop.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        // Relaxed: the answer itself travels by the oneshot.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends a question, which `work` answers on the loop, outside fibers.
///
/// # Errors
/// If an earlier question to that loop is unanswered.
pub(super) fn send<T: Send + 'static>(
    target: &LoopHandle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Question<T>, Silent> {
    let loop_id = target.id();
    UNANSWERED.with_borrow_mut(|unanswered| {
        unanswered.retain(|_, is_over| !is_over.load(Ordering::Relaxed));
        match unanswered.contains_key(&loop_id) {
            true => Err(Silent),
            false => Ok(()),
        }
    })?;
    let (sender, answer) = oneshot();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Over(is_over.clone());
    target.run(move || {
        // Nobody may wait for it any more.
        let _ = sender.send(work());
        drop(over);
    });
    Ok(Question {
        loop_id,
        is_over,
        answer,
    })
}

impl<T> Question<T> {
    /// Waits for the answer, until `until` at the latest.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn wait(self, until: Instant) -> Result<T, Silent> {
        // An answer that has come while others were waited for counts, though the time may have passed by now.
        if let Ok(answer) = self.answer.try_recv() {
            return Ok(answer);
        }
        let answer = with_deadline(until, || self.answer.recv());
        // Not if the asking fiber was cancelled before.
        if answer.is_err() && is_past(until) && !self.is_over.load(Ordering::Relaxed) {
            UNANSWERED.with_borrow_mut(|unanswered| unanswered.insert(self.loop_id, self.is_over));
        }
        answer.map_err(|_| Silent)
    }
}

/// Asks one loop, and waits for its answer.
///
/// # Errors
/// If it does not answer in time.
pub(super) fn ask<T: Send + 'static>(
    target: &LoopHandle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Silent> {
    send(target, work)?.wait(deadline_after(PATIENCE))
}

/// Finds out which of the loops answer, all at once, and after what time.
pub(super) fn latencies(loops: &[LoopInfo]) -> HashMap<u32, Duration> {
    let (begin, until) = (now(), deadline_after(PATIENCE));
    // Each answers with the time on its own thread: this one may look at the answer late.
    let questions: Vec<_> = loops
        .iter()
        .filter_map(|one| send(&one.handle, Instant::system).ok())
        .collect();
    let answers = questions.into_iter().filter_map(|question| {
        let loop_id = question.loop_id;
        let at = question.wait(until).ok()?;
        Some((loop_id, at.saturating_since(begin)))
    });
    answers.collect()
}

/// Returns the loops that answer, and the others.
pub(super) fn by_answer(loops: Vec<LoopInfo>) -> (Vec<LoopInfo>, Vec<LoopInfo>) {
    let answering = latencies(&loops);
    loops
        .into_iter()
        .partition(|one| answering.contains_key(&one.handle.id()))
}

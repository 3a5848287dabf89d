//! The report of what the end of a runtime left behind.

use yue_scheduler::StopReport;

/// The fibers and operations that the end of a runtime left behind; all zero for a program that co-operates. Each fiber
/// that is given up is also named on standard error, with the location of its spawn and its wait.
///
/// ```
/// let (answer, report) = yue::Runtime::new().unwrap().run_reported(|| 6 * 7);
/// assert_eq!(answer, 42);
/// assert_eq!(report, yue::RuntimeReport::default()); // Nothing was left behind.
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RuntimeReport {
    /// Fibers that ignored the hard stop; their stacks are leaked.
    pub fibers_abandoned: usize,
    /// Operations that the kernel had not finished.
    pub operations_left: usize,
    /// Closures of [`blocking`](crate::blocking) that still run although nobody waits for them, in the whole process.
    pub blocking_left: usize,
    /// Loops that ended early, because their driver failed.
    pub loops_failed: usize,
}

impl RuntimeReport {
    pub(super) fn add(&mut self, of_loop: StopReport) {
        self.fibers_abandoned += of_loop.fibers_abandoned;
        self.operations_left += of_loop.operations_left;
    }
}

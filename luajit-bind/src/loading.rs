//! The modules of a VM that are being loaded, by which fibers, and the fibers that wait for them.

use std::collections::HashMap;
use yue_scheduler::LocalWaker;

/// Identifies a fiber by the address of its state: unique among live fibers.
pub(crate) type FiberKey = usize;

/// The fibers that load modules, and those that wait.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    pub(crate) modules: HashMap<Vec<u8>, Load>,
    /// The module that each fiber waits for.
    pub(crate) waiting: HashMap<FiberKey, Vec<u8>>,
}

/// A module that is being loaded.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) by: FiberKey,
    pub(crate) waiters: Vec<LocalWaker>,
}

impl Loading {
    /// Whether `fiber`, if it waited for `name`, would wait for itself.
    pub(crate) fn is_loop(&self, fiber: FiberKey, name: &[u8]) -> bool {
        let mut name = name;
        while let Some(load) = self.modules.get(name) {
            if load.by == fiber {
                return true;
            }
            match self.waiting.get(&load.by) {
                Some(next) => name = next,
                None => return false,
            }
        }
        false
    }
}

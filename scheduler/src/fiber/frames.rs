//! Frames of scopes and deadlines: records on a fiber's own stack, to which its header points.

use super::id::FiberId;
use std::cell::Cell;

/// The state of a cancel scope, which its clones share.
#[derive(Default)]
pub(super) struct ScopeState {
    pub(super) cancelled: Cell<bool>,
    /// The fiber that is in the scope.
    pub(super) fiber: Cell<Option<FiberId>>,
}

/// A scope that the fiber is in.
pub(crate) struct ScopeFrame {
    pub(super) scope: *const ScopeState,
    pub(super) outer: *const ScopeFrame,
}

/// A deadline that the fiber is under.
pub(crate) struct DeadlineFrame {
    /// Set if a call was refused because this deadline had passed while it was the earliest.
    pub(super) refused: Cell<bool>,
}

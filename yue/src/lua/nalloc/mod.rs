//! `yue.nalloc` for Lua programs: the natives of owners, and those of nodes.

mod agent;
mod files;
mod node;
mod owner;

use yue_luajit::Stack;

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    owner::clear();
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    owner::register_all(stack);
    node::register_all(stack);
    files::register_all(stack);
    agent::register_all(stack);
}

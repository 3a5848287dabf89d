//! The prelude's functions and tables that Rust uses, as registry references in the calling thread's VM.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use yue_luajit::{Stack, ffi};

/// A function or a table of the prelude.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry {
    /// Makes an error object of its parts.
    MakeError,
    /// The error handler of every protected call.
    Wrap,
    /// Splits an error object into its parts.
    DescribeFailure,
    /// Runs the callback of an event in a connection's life.
    ConnectionEvent,
    /// Describes the functions of a namespace.
    Describe,
    /// Decides whether a request by HTTP may call.
    GrantHttp,
    /// Serves the requests of an HTTP connection.
    ServeHttp,
    /// The connection objects, by their numbers.
    Connections,
    /// Adds the symbols that a worker thread was started with.
    ImportSymbols,
    /// Called at the program's end.
    AtEnd,
    /// Ends the record of a fiber.
    EndRecord,
    /// The interactive mode.
    Repl,
    /// Evaluates for a console.
    Console,
    /// Runs a step of a reload.
    ReloadStep,
    /// Makes the report of a loop.
    MakeReport,
    /// Describes what some fibers wait for.
    DescribeWaits,
    /// Checks the invariants of a scenario.
    CheckInvariants,
    /// Chooses the carrier of a node.
    PrepareNode,
    /// Passes lines of a node's output to the program.
    PassNodeLines,
    /// The table that programs see as `yue`.
    Yue,
}

/// The entries that are fields of the prelude's table `internal`.
const FIELDS: [(Entry, &CStr); 19] = [
    (Entry::MakeError, c"make_error"),
    (Entry::Wrap, c"wrap"),
    (Entry::DescribeFailure, c"describe_failure"),
    (Entry::ConnectionEvent, c"connection_event"),
    (Entry::Describe, c"describe"),
    (Entry::GrantHttp, c"grant_http"),
    (Entry::ServeHttp, c"serve_http"),
    (Entry::Connections, c"connections"),
    (Entry::ImportSymbols, c"import_symbols"),
    (Entry::AtEnd, c"at_end"),
    (Entry::EndRecord, c"end_record"),
    (Entry::Repl, c"repl"),
    (Entry::Console, c"console"),
    (Entry::ReloadStep, c"reload_step"),
    (Entry::MakeReport, c"make_report"),
    (Entry::DescribeWaits, c"describe_waits"),
    (Entry::CheckInvariants, c"check_invariants"),
    (Entry::PrepareNode, c"prepare_node"),
    (Entry::PassNodeLines, c"pass_node_lines"),
];

thread_local! {
    /// By the number of the entry; `None` while there is no prelude.
    static REFERENCES: [Cell<Option<c_int>>; Entry::Yue as usize + 1] =
        const { [const { Cell::new(None) }; Entry::Yue as usize + 1] };
}

impl Entry {
    /// The registry reference; `None` before the prelude has run, and when the program has ended.
    #[inline]
    pub(crate) fn reference(self) -> Option<c_int> {
        REFERENCES.with(|all| all[self as usize].get())
    }

    pub(crate) fn set(self, reference: c_int) {
        REFERENCES.with(|all| all[self as usize].set(Some(reference)));
    }

    /// Pushes the function or table, or nil if there is none. Raises nothing.
    ///
    /// # Safety
    /// `state` is a state of the calling thread's VM with room for one value.
    #[inline]
    pub(crate) unsafe fn push(self, state: *mut ffi::lua_State) {
        // SAFETY: the caller's promise; a reference is never freed while the VM lives.
        unsafe {
            match self.reference() {
                Some(reference) => drop(ffi::lua_rawgeti(
                    state,
                    ffi::LUA_REGISTRYINDEX,
                    reference.into(),
                )),
                None => ffi::lua_pushnil(state),
            }
        }
    }
}

/// Takes the entries from the table `internal` on top of the stack. May raise.
pub(crate) fn take_from(stack: Stack<'_>) {
    for (entry, field) in FIELDS {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_getfield(stack.raw(), -1, field.as_ptr());
            entry.set(ffi::luaL_ref(stack.raw(), ffi::LUA_REGISTRYINDEX));
        }
    }
}

/// Forgets the references, whose VM is about to be closed.
pub(crate) fn clear() {
    REFERENCES.with(|all| all.iter().for_each(|reference| reference.set(None)));
}

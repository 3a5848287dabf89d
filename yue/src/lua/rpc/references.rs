//! Functions as values: this side's functions that the peer holds, and the peer's that this side holds.
//!
//! This side's functions are anchored in the connection's [`Exports`](yue_luajit::Exports). The RPC layer counts and
//! limits crossings, and reports when the last one is returned. A *token* names an export to the RPC layer: the
//! connection's number in the upper half, the anchor's slot in the lower half.
//!
//! The peer's functions arrive in Lua as a callable userdata that holds a slot in the connection's
//! [`Imports`](super::imports::Imports). `remote_functions.rs` has its metamethods.

use crate::lua::host::entries::Entry;
use crate::lua::native::register_raw;
use crate::lua::rpc::connections::{Connection, find};
use crate::lua::rpc::imports::RemoteFunction;
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use yue_luajit::codec::{NotGiven, Object, ObjectKind, Owner, Reference};
use yue_luajit::{ReferenceTable, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::session::LinkNumber;

impl Connection {
    /// The RPC layer's name for one of this side's functions.
    fn token(&self, slot: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(slot)
    }
}

/// The slot of a token's anchor: its lower half.
fn slot_of(token: u64) -> u32 {
    token as u32
}

/// Releases the functions that the peer no longer holds.
pub(crate) fn release_tokens(tokens: &[u64]) {
    for token in tokens {
        // A connection that was removed has dropped its anchors.
        if let Some(connection) = find((token >> 32) as u32) {
            connection.exports.borrow_mut().release(slot_of(*token));
        }
    }
}

/// A connection's references, in the codec's interface.
pub(crate) struct Refs<'a> {
    connection: &'a Rc<Connection>,
    /// The link of the message that is being decoded.
    link: LinkNumber,
}

/// Error message for a function whose userdata was finalized.
pub(crate) const GONE: &str = "the function was collected; keep a reference to it while you use it";
const STALE: &str =
    "the function belonged to a connection that was lost; ask the peer for it again";

thread_local! {
    /// The registry reference and the address of the metatable of callable userdata, in this thread's VM.
    static MARK: Cell<(c_int, *const c_void)> = const { Cell::new((0, std::ptr::null())) };
}

/// Objects of the prelude that cannot be sent. They are tables, and for most the encoder would only report that they
/// contain themselves.
#[derive(Clone, Copy)]
enum Class {
    Procedures,
    Other,
}

impl Class {
    fn advice(self) -> &'static str {
        match self {
            Class::Procedures => {
                "these are procedures of a peer. Call c.name(…) with a dot: c:name(…) passes c itself as the first \
                 argument"
            }
            Class::Other => {
                "an object of yue's (a connection, listener, thread, fiber, future, timer) works only in its own \
                 program; pass the data that the peer needs, or a function that uses the object"
            }
        }
    }
}

thread_local! {
    /// The metatables of such objects, in this thread's VM, whose prelude keeps them.
    static CLASSES: RefCell<Vec<(*const c_void, Class)>> = const { RefCell::new(Vec::new()) };
}

fn class_of(metatable: *const c_void) -> Option<Class> {
    CLASSES.with_borrow(|classes| {
        let found = classes.iter().find(|(known, _)| *known == metatable);
        found.map(|(_, class)| *class)
    })
}

/// Whether tables with this metatable are objects of the prelude.
pub(crate) fn is_own_class(metatable: *const c_void) -> bool {
    class_of(metatable).is_some()
}

/// `name_class(metatable, is_procedures)`: tables with this metatable cannot be sent.
unsafe extern "C-unwind" fn name_class_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        let class = match ffi::lua_toboolean(state, 2) != 0 {
            true => Class::Procedures,
            false => Class::Other,
        };
        let metatable = ffi::lua_topointer(state, 1);
        CLASSES.with_borrow_mut(|classes| classes.push((metatable, class)));
        0
    }
}

impl<'a> Refs<'a> {
    #[inline]
    pub(crate) fn new(connection: &'a Rc<Connection>, link: LinkNumber) -> Refs<'a> {
        Refs { connection, link }
    }

    /// Pushes this side's function that a token names, if it still exists. Raises nothing.
    pub(crate) fn push_export(&self, stack: Stack<'_>, token: u64) -> bool {
        self.connection.exports.borrow().push(stack, slot_of(token))
    }

    fn give_back_home(&self, object: Object) -> Result<Reference, NotGiven> {
        if object.metatable != MARK.get().1 || object.metatable.is_null() {
            return Err(NotGiven::Unknown);
        }
        // SAFETY: only `push_remote` makes userdata with this metatable, which programs cannot reach.
        let function = unsafe { *object.pointer.cast::<RemoteFunction>() };
        if function.connection != self.connection.id {
            return Err(NotGiven::Because(
                "this function belongs to another connection; pass one of your own that calls it",
            ));
        }
        match self.connection.imports.borrow().get(function.slot) {
            // The id of a function of an earlier link belongs to another function on this link.
            Some(import) => match self.connection.session.return_reference(&import) {
                Ok(id) => Ok(Reference {
                    owner: Owner::Receiver,
                    id,
                }),
                Err(_) => Err(NotGiven::Because(STALE)),
            },
            None => Err(NotGiven::Because(GONE)),
        }
    }

    /// Exports one of this side's functions.
    fn give_ours(&self, object: Object) -> Result<Reference, NotGiven> {
        let connection = self.connection;
        // The anchor first: the RPC layer needs its slot as the token, and the function must not be collected while the
        // peer may hold it.
        let anchored = connection.exports.borrow_mut().anchor(object);
        let (slot, fresh) = anchored.ok_or(NotGiven::NoRoom)?;
        let exported = connection.session.export_reference(connection.token(slot));
        let refused = match exported {
            Ok(id) => {
                return Ok(Reference {
                    owner: Owner::Sender,
                    id,
                });
            }
            Err(refused) => refused,
        };
        // An anchor that was there before belongs to an earlier crossing.
        if fresh {
            connection.exports.borrow_mut().release(slot);
        }
        Err(match refused.kind() {
            ErrorKind::MessageRefused => {
                NotGiven::TooMany(connection.service.settings.references_max)
            }
            _ => NotGiven::Unknown,
        })
    }
}

impl ReferenceTable for Refs<'_> {
    fn give(&self, object: Object) -> Result<Reference, NotGiven> {
        match object.kind {
            ObjectKind::Userdata => self.give_back_home(object),
            ObjectKind::Table => Err(refusal_of_table(object)),
            ObjectKind::Function => self.give_ours(object),
        }
    }

    fn take_back(&self, reference: Reference) {
        if reference.owner == Owner::Sender {
            self.connection.session.take_back_reference(reference.id);
        }
    }

    fn arrive(&self, stack: Stack<'_>, reference: Reference) -> bool {
        match reference.owner {
            Owner::Receiver => {
                let token = self.connection.session.exported_token(reference.id);
                token.is_some_and(|token| self.push_export(stack, token))
            }
            Owner::Sender => {
                let imported = self
                    .connection
                    .session
                    .import_reference(reference.id, self.link);
                let slot = self.connection.imports.borrow_mut().insert(imported);
                push_remote(stack, self.connection, slot);
                true
            }
        }
    }
}

/// The references of a message that is encoded once for several connections: it has none. Each connection counts the
/// functions that cross it, so a message with a function is encoded for each.
#[derive(Default)]
pub(crate) struct NoFunctions(Cell<bool>);

impl NoFunctions {
    /// Whether the encoder found a function.
    pub(crate) fn found_one(&self) -> bool {
        self.0.get()
    }
}

impl ReferenceTable for NoFunctions {
    fn give(&self, object: Object) -> Result<Reference, NotGiven> {
        match object.kind {
            ObjectKind::Function => {
                self.0.set(true);
                Err(NotGiven::Unknown)
            }
            ObjectKind::Userdata
                if object.metatable == MARK.get().1 && !object.metatable.is_null() =>
            {
                Err(NotGiven::Because(
                    "this function belongs to one connection; pass one of your own that calls it",
                ))
            }
            ObjectKind::Userdata => Err(NotGiven::Unknown),
            ObjectKind::Table => Err(refusal_of_table(object)),
        }
    }

    fn take_back(&self, _reference: Reference) {}

    fn arrive(&self, _stack: Stack<'_>, _reference: Reference) -> bool {
        false
    }
}

/// The refusal of a table with a metatable: a table of the program is sent as plain data.
fn refusal_of_table(object: Object) -> NotGiven {
    match class_of(object.metatable) {
        Some(class) => NotGiven::Because(class.advice()),
        None => NotGiven::Unknown,
    }
}

/// Pushes a callable userdata. Raises when out of memory (the reference is then released with the connection).
fn push_remote(stack: Stack<'_>, connection: &Connection, slot: u32) {
    let state = stack.raw();
    let function = RemoteFunction {
        connection: connection.id,
        slot,
    };
    stack.reserve(4);
    // SAFETY: the userdata has room for the value; the metatable is in the registry.
    unsafe {
        let payload: *mut RemoteFunction =
            ffi::lua_newuserdata(state, size_of::<RemoteFunction>()).cast();
        payload.write(function);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, MARK.get().0.into());
        ffi::lua_setmetatable(state, -2);
        if connection.service.opened {
            keep_object(state, connection);
        }
    }
}

/// Makes the userdata on top hold the object of its connection, which is closed when nothing can reach it any more.
///
/// # Safety
/// `state` is where Lua errors may be raised, with room for two values.
unsafe fn keep_object(state: *mut ffi::lua_State, connection: &Connection) {
    // SAFETY: the caller's promise. The environment of a userdata is a table that it holds.
    unsafe {
        Entry::Connections.push(state);
        ffi::lua_rawgeti(state, -1, connection.id.into());
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_setfenv(state, -3);
            ffi::lua_settop(state, -2);
        } else {
            ffi::lua_settop(state, -3);
        }
    }
}

/// Takes the metatable of callable userdata from the top of the stack. May raise.
pub(crate) fn set_metatable(stack: Stack<'_>) {
    // SAFETY: `Stack` promises a valid state where errors may be raised.
    unsafe {
        let address = ffi::lua_topointer(stack.raw(), -1);
        MARK.set((ffi::luaL_ref(stack.raw(), ffi::LUA_REGISTRYINDEX), address));
    }
}

/// Whether the value at the index is the metatable of callable userdata.
///
/// # Safety
/// A valid state and index.
pub(crate) unsafe fn is_metatable(state: *mut ffi::lua_State, index: c_int) -> bool {
    // SAFETY: the caller's promise.
    unsafe { ffi::lua_topointer(state, index) == MARK.get().1 }
}

/// Adds the native to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    // Those of this thread's previous VM.
    CLASSES.take();
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "name_class", name_class_raw) };
}

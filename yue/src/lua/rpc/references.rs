//! Functions as values: this side's functions that the peer holds, and the peer's that this side holds.
//!
//! This side's functions are anchored in the connection's [`Exports`](yue_luajit::Exports). The RPC layer counts and
//! limits crossings, and reports when the last one is returned. A *token* names an export to the RPC layer: the
//! connection's number in the upper half, the anchor's slot in the lower half.
//!
//! The peer's functions arrive in Lua as a callable userdata that holds a slot in the connection's [`Imports`]. Its
//! finalizer only records its death; the loop processes the record in its next idle phase.

use crate::lua::host::errors::{call_error, error};
use crate::lua::host::{self, with_host};
use crate::lua::native::register_raw;
use crate::lua::rpc::calls::{encode_arguments, finish_call};
use crate::lua::rpc::connections::{Connection, connection};
use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use yue_luajit::codec::{NotGiven, Object, ObjectKind, Owner, Reference};
use yue_luajit::{ReferenceTable, Stack, ffi, may_suspend, suspending};
use yue_rpc::session::{ImportedReference, LinkNumber, Target};
use yue_rpc::{ErrorKind, Timeout};

/// The contents of a callable userdata. Plain data: the GC frees it without running a destructor.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct RemoteFunction {
    pub(crate) connection: u32,
    pub(crate) place: u32,
}

/// The slot of a function whose finalizer has run. A finalizer of the program may still have kept the function.
const FINALIZED: u32 = u32::MAX;

/// The functions of the peer that Lua holds, by slot.
#[derive(Default)]
pub(crate) struct Imports {
    places: Vec<Option<ImportedReference>>,
    free: Vec<u32>,
}

impl Imports {
    fn insert(&mut self, reference: ImportedReference) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(reference);
                place
            }
            None => {
                self.places.push(Some(reference));
                self.places.len() as u32 - 1
            }
        }
    }

    fn get(&self, place: u32) -> Option<ImportedReference> {
        self.places.get(place as usize)?.clone()
    }

    fn take(&mut self, place: u32) -> Option<ImportedReference> {
        let reference = self.places.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(reference)
    }
}

impl Connection {
    /// Lua has collected its proxy for a remote function.
    pub(crate) fn release_import(&self, place: u32) {
        let reference = self.imports.borrow_mut().take(place);
        if let Some(reference) = reference {
            self.session.release_reference(&reference, 1);
        }
    }

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
        let found = with_host(|host| host.connections.get((token >> 32) as u32))
            .ok()
            .flatten();
        if let Some(connection) = found {
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

const GONE: &str = "the function is not there any more";
const STALE: &str = "the function belonged to a connection that is lost; ask the peer for it again";

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
                "these are procedures of another side. Call c.name(…) with a dot: c:name(…) passes c itself as the \
                 first argument"
            }
            Class::Other => {
                "this object of yue's (a connection, listener, thread, fiber, future, timer) is of use in its own \
                 program only; pass what it stands for, or a function that uses it"
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
        match self.connection.imports.borrow().get(function.place) {
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
            ObjectKind::Table => Err(match class_of(object.metatable) {
                Some(class) => NotGiven::Because(class.advice()),
                None => NotGiven::Unknown,
            }),
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
                let place = self.connection.imports.borrow_mut().insert(imported);
                push_remote(stack, self.connection, place);
                true
            }
        }
    }
}

/// Pushes a callable userdata. Raises when out of memory (the reference is then released with the connection).
fn push_remote(stack: Stack<'_>, connection: &Connection, place: u32) {
    let state = stack.raw();
    let function = RemoteFunction {
        connection: connection.id,
        place,
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
    let Ok(objects) = with_host(|host| host.connections.objects.get()) else {
        return;
    };
    // SAFETY: the caller's promise. The environment of a userdata is a table that it holds.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, objects.into());
        ffi::lua_rawgeti(state, -1, connection.id.into());
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_setfenv(state, -3);
            ffi::lua_settop(state, -2);
        } else {
            ffi::lua_settop(state, -3);
        }
    }
}

/// The function behind the userdata at index 1, as a metamethod receives it.
///
/// # Safety
/// Lua runs the calling metamethod on `state`.
unsafe fn argument(state: *mut ffi::lua_State) -> Option<RemoteFunction> {
    // SAFETY: the caller's promise; a userdata with this metatable holds a RemoteFunction.
    unsafe {
        let payload = ffi::lua_touserdata(state, 1);
        if payload.is_null() || ffi::lua_getmetatable(state, 1) == 0 {
            return None;
        }
        let ours = ffi::lua_topointer(state, -1) == MARK.get().1;
        ffi::lua_settop(state, -2);
        ours.then(|| *payload.cast::<RemoteFunction>())
    }
}

/// `f(...)`: calls a function of the peer.
unsafe extern "C-unwind" fn call_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; `finish_call` takes over what has a destructor.
    unsafe {
        let function = argument(state);
        let outcome = suspending(state, "a remote function", || {
            may_suspend()?;
            let function =
                function.ok_or_else(|| error(ErrorKind::Argument, "this is no remote function"))?;
            let (host, connection) = connection(f64::from(function.connection))?;
            let reference = connection.imports.borrow().get(function.place);
            let reference = reference.ok_or_else(|| error(ErrorKind::NoMethod, GONE))?;
            let timeout = Timeout::After(connection.timeout(&host));
            let response = connection
                .session
                .call(Target::Reference(&reference), timeout, |out| {
                    // SAFETY: Lua runs this very function on the state.
                    encode_arguments(&connection, state, 2, "args", out)
                });
            response
                .map(|response| (response, connection.clone()))
                .map_err(|failure| call_error(&failure, connection.codec().limits()))
        });
        finish_call(state, outcome)
    }
}

unsafe extern "C-unwind" fn collect_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this finalizer; it only records a number.
    unsafe {
        if let Some(function) = argument(state)
            && let Some(host) = host::current()
        {
            host.connections.note_dead(function);
            // Its slot will be reused, so it must not be found there if somebody still holds this userdata.
            let payload: *mut RemoteFunction = ffi::lua_touserdata(state, 1).cast();
            (*payload).place = FINALIZED;
        }
    }
    0
}

unsafe extern "C-unwind" fn describe_remote(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::lua_pushstring(state, c"remote function".as_ptr());
        1
    }
}

/// Creates the metatable of callable userdata. May raise. The natives are for the `core` table on top of the stack.
pub(crate) fn register_all(stack: Stack<'_>) {
    let state = stack.raw();
    // Those of this thread's previous VM.
    CLASSES.take();
    // SAFETY: `Stack` promises a valid state where errors may be raised.
    unsafe {
        register_raw(stack, "name_class", name_class_raw);
        ffi::lua_createtable(state, 0, 4);
        register_raw(stack, "__call", call_remote);
        register_raw(stack, "__gc", collect_remote);
        register_raw(stack, "__tostring", describe_remote);
        stack.push_bytes(b"__metatable");
        stack.push_bytes(b"remote function");
        ffi::lua_rawset(state, -3);
        let address = ffi::lua_topointer(state, -1);
        MARK.set((ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX), address));
    }
}

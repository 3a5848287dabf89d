//! The prelude: the part of the API that is written in Lua, embedded, and run once per VM.
//!
//! Each file is called with `core` (the natives), `yue` (what programs see) and `internal` (what the files share).

use crate::lua::host::errors::ErrorObject;
use crate::lua::host::{self, Host, Role};
use std::path::Path;
use std::rc::Rc;
use yue_luajit::{LuaState, Stack, VmError, ffi};
use yue_rpc::ErrorKind;

/// The files, in the order in which they run.
const FILES: &[(&str, &str)] = &[
    ("environment", include_str!("../../../lua/environment.lua")),
    ("packages", include_str!("../../../lua/packages.lua")),
    ("errors", include_str!("../../../lua/errors.lua")),
    ("fibers", include_str!("../../../lua/fibers.lua")),
    ("emitters", include_str!("../../../lua/emitters.lua")),
    ("namespace", include_str!("../../../lua/namespace.lua")),
    ("proxy", include_str!("../../../lua/proxy.lua")),
    ("rpc", include_str!("../../../lua/rpc.lua")),
    ("latest", include_str!("../../../lua/latest.lua")),
    ("program", include_str!("../../../lua/program.lua")),
    ("threads", include_str!("../../../lua/threads.lua")),
    ("repl", include_str!("../../../lua/repl.lua")),
    ("report", include_str!("../../../lua/report.lua")),
];

/// Installs `yue` in the host's VM. In a fiber that runs no Lua yet.
pub(crate) fn install(host: &Rc<Host>) -> Result<(), VmError> {
    let facts = Facts::of(host);
    let facts_at: *const Facts = &facts;
    // SAFETY: the facts outlive the protected call, which has ended when it returns.
    let shared = host
        .vm
        .protect(|stack| unsafe { make_tables(stack, &*facts_at) })?;
    for (name, source) in FILES {
        run_file(host, name, source, shared)?;
    }
    host.vm.protect(|stack| finish(stack, shared))
}

/// The facts about the program in `core`.
struct Facts {
    args: Vec<Vec<u8>>,
    /// The words of the command line before the script's name.
    command: Vec<Vec<u8>>,
    /// The script's name; `None` if it has none.
    script: Option<Vec<u8>>,
    /// The script's folder, without the last `/`; empty for the current folder.
    script_folder: String,
    role: &'static str,
    name: String,
    index: usize,
    /// A thread's option.
    cancel: bool,
    loops: usize,
    driver: &'static str,
}

impl Facts {
    fn of(host: &Host) -> Facts {
        let (role, name, index, cancel) = match &host.role {
            Role::Main(index) => ("main", format!("main{index}"), *index, false),
            Role::Worker { name, cancel } => ("thread", name.clone(), 1, *cancel),
        };
        let script = &host.program.script;
        let folder = script.name.as_deref().and_then(Path::parent);
        Facts {
            args: script.args.clone(),
            command: script.command.clone(),
            script: script
                .name
                .as_ref()
                .map(|name| name.as_os_str().as_encoded_bytes().to_vec()),
            script_folder: folder.map_or_else(String::new, |path| path.to_string_lossy().into()),
            role,
            name,
            index,
            cancel,
            loops: script.loops,
            driver: yue_scheduler::this_loop::with_driver(|driver| driver.name()),
        }
    }
}

/// The tables that the files receive, as registry references: `core`, `yue`, `internal`.
#[derive(Clone, Copy)]
struct Shared {
    core: i32,
    yue: i32,
    internal: i32,
}

/// # Safety
/// `facts` has no destructor that runs here: it is borrowed.
unsafe fn make_tables(stack: Stack<'_>, facts: &Facts) -> Shared {
    let state = stack.raw();
    // SAFETY: protected, on the main state.
    unsafe {
        ffi::lua_createtable(state, 0, 64);
        host::register_natives(stack);
        crate::lua::fibers::signals::push_constants(stack);
        ffi::lua_setfield(state, -2, c"signals".as_ptr());
        push_error_kinds(stack);
        ffi::lua_setfield(state, -2, c"error_kinds".as_ptr());
        for (key, words) in [(c"args", &facts.args), (c"command", &facts.command)] {
            ffi::lua_createtable(state, words.len() as i32, 0);
            for (index, word) in words.iter().enumerate() {
                stack.push_bytes(word);
                ffi::lua_rawseti(state, -2, index as i64 + 1);
            }
            ffi::lua_setfield(state, -2, key.as_ptr());
        }
        if let Some(script) = &facts.script {
            stack.push_bytes(script);
            ffi::lua_setfield(state, -2, c"script".as_ptr());
        }
        for (key, text) in [
            (c"script_folder", &*facts.script_folder),
            (c"role", facts.role),
            (c"name", &facts.name),
            (c"driver", facts.driver),
            (c"version", env!("CARGO_PKG_VERSION")),
        ] {
            stack.push_bytes(text.as_bytes());
            ffi::lua_setfield(state, -2, key.as_ptr());
        }
        ffi::lua_pushlightuserdata(state, std::ptr::null_mut());
        ffi::lua_setfield(state, -2, c"null".as_ptr());
        stack.push_number(facts.index as f64);
        ffi::lua_setfield(state, -2, c"index".as_ptr());
        stack.push_number(facts.loops as f64);
        ffi::lua_setfield(state, -2, c"loops".as_ptr());
        stack.push_boolean(facts.cancel);
        ffi::lua_setfield(state, -2, c"cancel_handlers".as_ptr());
        let core = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        ffi::lua_createtable(state, 0, 64);
        // `yue` is a global, and `require 'yue'` returns the same table.
        ffi::lua_getglobal(state, c"package".as_ptr());
        ffi::lua_getfield(state, -1, c"loaded".as_ptr());
        ffi::lua_pushvalue(state, -3);
        ffi::lua_setfield(state, -2, c"yue".as_ptr());
        ffi::lua_settop(state, -3);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setglobal(state, c"yue".as_ptr());
        let yue = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        ffi::lua_createtable(state, 0, 32);
        let internal = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        Shared {
            core,
            yue,
            internal,
        }
    }
}

/// Pushes the list of `{name, code, parent}` of the RPC layer's error kinds.
unsafe fn push_error_kinds(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: the caller is protected.
    unsafe {
        ffi::lua_createtable(state, ErrorKind::ALL.len() as i32, 0);
        for (index, kind) in ErrorKind::ALL.iter().enumerate() {
            ffi::lua_createtable(state, 0, 3);
            stack.push_bytes(kind.name().as_bytes());
            ffi::lua_setfield(state, -2, c"name".as_ptr());
            stack.push_number(kind.code() as f64);
            ffi::lua_setfield(state, -2, c"code".as_ptr());
            if let Some(parent) = kind.parent() {
                stack.push_bytes(parent.name().as_bytes());
                ffi::lua_setfield(state, -2, c"parent".as_ptr());
            }
            ffi::lua_rawseti(state, -2, index as i64 + 1);
        }
    }
}

fn run_file(host: &Rc<Host>, name: &str, source: &str, shared: Shared) -> Result<(), VmError> {
    let mut thread: LuaState = host.vm.borrow_state()?;
    let chunk = std::ffi::CString::new(format!("=[yue]/{name}.lua")).unwrap_or_default();
    thread.load(source.as_bytes(), &chunk)?;
    let state = thread.raw();
    // SAFETY: an idle state owned here, with a function on it and room for three values; reading the registry, and a
    // field of a table that has no metatable, raises nothing: the name is a string already.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, shared.internal.into());
        ffi::lua_getfield(state, -1, c"environment".as_ptr());
        // The first file has no environment yet: it creates it.
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_setfenv(state, -3);
            ffi::lua_settop(state, -2);
        } else {
            ffi::lua_settop(state, -3);
        }
        for reference in [shared.core, shared.yue, shared.internal] {
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, reference.into());
        }
    }
    let outcome = std::cell::Cell::new(None);
    let outcome = Rc::new(outcome);
    let told = outcome.clone();
    let spawned = thread.spawn(Some("prelude"), move |mut ended| {
        told.set(Some(if ended.ok {
            Ok(())
        } else {
            Err(VmError::Lua(ended.error_text()))
        }));
    });
    let joined = spawned
        .map_err(|error| VmError::Lua(error.to_string()))?
        .join();
    match outcome.take() {
        Some(outcome) => outcome,
        None => Err(VmError::Lua(format!(
            "the prelude's {name} did not run: {joined:?}"
        ))),
    }
}

/// Takes the functions that Rust calls from `internal`.
fn finish(stack: Stack<'_>, shared: Shared) {
    let state = stack.raw();
    // SAFETY: protected, on the main state.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, shared.internal.into());
        let take = |name: &std::ffi::CStr| {
            ffi::lua_getfield(state, -1, name.as_ptr());
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX)
        };
        let (make, wrap) = (take(c"make_error"), take(c"wrap"));
        let callback = take(c"connection_event");
        let describe = take(c"describe_failure");
        let import_symbols = take(c"import_symbols");
        let (at_end, fiber_over) = (take(c"at_end"), take(c"fiber_over"));
        let objects = take(c"connections");
        let (repl, report) = (take(c"repl"), take(c"make_report"));
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, wrap.into());
        let _ = host::with_host(|host| {
            host.make_error.set(Some(make));
            host.error_handler.set(Some(wrap));
            host.connections.callback.set(callback);
            host.describe_failure.set(Some(describe));
            host.import_symbols.set(Some(import_symbols));
            host.at_end.set(Some(at_end));
            host.fiber_over.set(Some(fiber_over));
            host.connections.objects.set(objects);
            host.repl.set(Some(repl));
            host.report.set(Some(report));
            host.yue.set(Some(shared.yue));
            // The root of every fiber from now on.
            host.vm.set_error_handler(stack);
        });
    }
}

/// Errors of the prelude itself are internal; this converts them to the form that programs see.
impl From<VmError> for ErrorObject {
    fn from(error: VmError) -> ErrorObject {
        ErrorObject::of_kind(ErrorKind::Runtime, error.to_string())
    }
}

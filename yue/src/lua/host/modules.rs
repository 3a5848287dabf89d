//! The prelude: the part of the API that is written in Lua, embedded, and run once per VM.
//!
//! Each file is called with `core` (the natives), `yue` (what programs see) and `internal` (what the files share).

use crate::lua::development;
use crate::lua::fibers::end_record;
use crate::lua::host::entries::{self, Entry};
use crate::lua::host::errors::{ErrorObject, describe_failure};
use crate::lua::host::values::push_decoded;
use crate::lua::host::{Host, Role};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use yue_luajit::{LuaState, Stack, Vm, VmError, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::{Builder, StackClass, simulation};

/// The files, in the order in which they run.
const FILES: &[&str] = &[
    "environment",
    "packages",
    "errors",
    "fibers",
    "emitters",
    "locks",
    "channels",
    "tasks",
    "shared",
    "json",
    "crypto",
    "readers",
    "fs",
    "process",
    "net",
    #[cfg(feature = "http")]
    "http",
    "standard",
    "namespace",
    "proxy",
    "rpc",
    "traces",
    "latest",
    "ports",
    "describe",
    "members",
    "groups",
    "log",
    "metrics",
    "state",
    "reload",
    "folders",
    "development",
    "watch",
    // After those that read the program's own files, which are the machine's.
    "simulated_files",
    #[cfg(feature = "http")]
    "http_routes",
    #[cfg(feature = "http")]
    "http_requests",
    #[cfg(feature = "http")]
    "http_server",
    #[cfg(feature = "http")]
    "http_files",
    "program",
    "threads",
    "pretty",
    "console",
    "completion",
    "repl",
    "report",
    "wait_graph",
    "node",
    "carriers",
    "hosts",
    "containers",
    "nalloc",
    "sim",
];

/// The file that a simulated host runs before the others: clocks and random numbers.
const VIRTUAL_TIME: &str = "virtual_time";

/// The file that a simulated host runs after the others: what the simulation does not contain.
const OUTSIDE: &str = "outside";

/// The code of each file by its name, sorted: bytecode that the build script has made, or source.
const CODE: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/prelude.rs"));

/// Installs `yue` in the host's VM. In a fiber that runs no Lua yet.
pub(crate) fn install(host: &Rc<Host>) -> Result<(), VmError> {
    let facts = Facts::of(host);
    let facts_at: *const Facts = &facts;
    // SAFETY: the facts outlive the protected call, which has ended when it returns.
    let tables = host
        .vm
        .protect(|stack| unsafe { make_tables(stack, &*facts_at) })?;
    let if_simulated = |file| simulation::is_on().then_some(file);
    let before = if_simulated(VIRTUAL_TIME);
    let files = before.iter().chain(FILES);
    // Most of what is made here stays.
    host.vm.set_collecting(false);
    for name in files.chain(&if_simulated(OUTSIDE)) {
        run_file(host, name, tables)?;
    }
    host.vm.set_collecting(true);
    let vm = &raw const host.vm;
    // SAFETY: the host outlives the protected call.
    host.vm
        .protect(|stack| unsafe { finish(stack, &*vm, tables) })
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
    /// Whether it runs the library of an owner.
    is_node: bool,
    loops: usize,
    watch: bool,
    driver: &'static str,
    natives: fn(Stack<'_>),
    /// The calls out of the simulation that it lets through.
    allowed: Vec<String>,
}

impl Facts {
    fn of(host: &Host) -> Facts {
        let script = &host.program.script;
        let main = if script.node.is_some() {
            "node"
        } else {
            "main"
        };
        let (role, name, index, cancel, is_node) = match &host.role {
            Role::Main(index) => (main, format!("main{index}"), *index, false, main == "node"),
            Role::Worker {
                name,
                cancel,
                is_node,
            } => ("thread", name.clone(), 1, *cancel, *is_node),
        };
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
            is_node,
            loops: script.loops,
            watch: script.watch,
            driver: yue_scheduler::this_loop::with_driver(|driver| driver.name()),
            natives: host.program.natives,
            allowed: host.program.allowed.clone(),
        }
    }
}

/// The tables that the files receive, as registry references: `core`, `yue`, `internal`.
#[derive(Clone, Copy)]
struct Tables {
    core: i32,
    yue: i32,
    internal: i32,
}

/// # Safety
/// `facts` has no destructor that runs here: it is borrowed.
unsafe fn make_tables(stack: Stack<'_>, facts: &Facts) -> Tables {
    let state = stack.raw();
    // SAFETY: protected, on the main state.
    unsafe {
        ffi::lua_createtable(state, 0, 64);
        (facts.natives)(stack);
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
        ffi::lua_createtable(state, facts.allowed.len() as i32, 0);
        for (index, name) in facts.allowed.iter().enumerate() {
            stack.push_bytes(name.as_bytes());
            ffi::lua_rawseti(state, -2, index as i64 + 1);
        }
        ffi::lua_setfield(state, -2, c"allowed".as_ptr());
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
        stack.push_boolean(facts.watch);
        ffi::lua_setfield(state, -2, c"watches_files".as_ptr());
        if development::is_on() {
            stack.push_bytes(development::PAGE_SCRIPT.as_bytes());
            ffi::lua_setfield(state, -2, c"development_script".as_ptr());
        }
        stack.push_boolean(facts.cancel);
        ffi::lua_setfield(state, -2, c"cancel_handlers".as_ptr());
        stack.push_boolean(facts.is_node);
        ffi::lua_setfield(state, -2, c"is_node".as_ptr());
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
        Tables {
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

fn run_file(host: &Rc<Host>, name: &str, tables: Tables) -> Result<(), VmError> {
    let mut thread: LuaState = host.vm.borrow_state()?;
    let chunk = std::ffi::CString::new(format!("=[yue]/{name}.lua")).unwrap_or_default();
    let place = CODE.binary_search_by_key(&name, |(name, _)| *name);
    let code = place.map(|place| CODE[place].1);
    let code = code.map_err(|_| VmError::Lua(format!("the prelude has no file {name}.lua")))?;
    // SAFETY: the build script has made it, with the command of the LuaJIT that is linked.
    unsafe { thread.load_trusted(code, &chunk) }?;
    let state = thread.raw();
    // SAFETY: an idle state owned here, with a function on it and room for three values; reading the registry, and a
    // field of a table that has no metatable, raises nothing: the name is a string already.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, tables.internal.into());
        ffi::lua_getfield(state, -1, c"environment".as_ptr());
        // The first file has no environment yet: it creates it.
        if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
            ffi::lua_setfenv(state, -3);
            ffi::lua_settop(state, -2);
        } else {
            ffi::lua_settop(state, -3);
        }
        for reference in [tables.core, tables.yue, tables.internal] {
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, reference.into());
        }
    }
    let outcome = Rc::new(Cell::new(None));
    let result = outcome.clone();
    let spawned = thread.spawn(Some("prelude"), move |mut ended| {
        result.set(Some(if ended.ok {
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

/// Takes the functions that Rust calls from `internal`, and makes `wrap` the error handler of every fiber from now on.
///
/// # Safety
/// Protected, on the main state of `vm`.
unsafe fn finish(stack: Stack<'_>, vm: &Vm, tables: Tables) {
    let state = stack.raw();
    // SAFETY: the caller's promise.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, tables.internal.into());
        entries::take_from(stack);
        Entry::Yue.set(tables.yue);
        Entry::Wrap.push(state);
    }
    vm.set_error_handler(stack);
}

/// Calls a function of the prelude with one msgpack value, in a new fiber, and waits for it.
pub(crate) fn call_prelude(vm: &Vm, function: Entry, argument: Vec<u8>) -> Result<(), ErrorObject> {
    let mut thread = vm.borrow_state()?;
    let work = move || {
        thread.attach(|running| {
            let argument_at: *const [u8] = &raw const *argument;
            let outcome = running.enter(move |stack| {
                // SAFETY: protected by `enter`, which the bytes outlive.
                unsafe {
                    function.push(stack.raw());
                    if !push_decoded(stack, Some(&*argument_at)) {
                        stack.push_nil();
                    }
                }
                true
            });
            let outcome = outcome
                .map(drop)
                .map_err(|_| describe_failure(running.state().raw()));
            end_record(running);
            outcome
        })
    };
    let spawned = Builder::new()
        .stack(StackClass::Deep)
        .name("prelude")
        .spawn(work);
    let runtime = |error: String| ErrorObject::runtime(error);
    match spawned.map_err(|error| runtime(error.to_string()))?.join() {
        Ok(outcome) => outcome,
        Err(error) => Err(runtime(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_of_the_prelude_is_bytecode() {
        assert!(CODE.is_sorted_by_key(|(name, _)| *name));
        for name in FILES.iter().chain([&VIRTUAL_TIME, &OUTSIDE]) {
            let place = CODE.binary_search_by_key(name, |(name, _)| *name);
            let (_, code) = CODE[place.unwrap_or_else(|_| panic!("{name} is missing"))];
            assert!(code.starts_with(b"\x1bLJ"), "{name} is source");
        }
    }
}

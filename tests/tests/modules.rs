//! Lua modules of all kinds: beside the script, in C, LuaJIT's own, and what the environment says of where they are.

mod common;

use common::{Outcome, drivers, run, yue};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A folder with files, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Folder {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("modules-{name}-{}", std::process::id()));
        for (file, text) in files {
            let file = path.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Folder(path)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the folder's `main.lua` from elsewhere.
fn run_main(folder: &Folder, environment: &[(&str, &str)]) -> Outcome {
    let mut command = yue();
    command
        .env_remove("LUA_PATH")
        .env_remove("LUA_CPATH")
        .envs(environment.iter().copied())
        .arg(folder.path("main.lua"));
    run(&mut command)
}

#[test]
fn modules_beside_the_script_and_in_luarocks_tree_are_found() {
    let folder = Folder::new(
        "beside",
        &[
            (
                "main.lua",
                "print(require 'one', require 'two', require 'three')",
            ),
            ("one.lua", "return 'a file'"),
            ("two/init.lua", "return 'a folder'"),
            (
                "home/.luarocks/share/lua/5.1/three.lua",
                "return 'luarocks'",
            ),
        ],
    );
    let home = folder.path("home");
    let outcome = run_main(&folder, &[("HOME", &home)]);
    assert_eq!(outcome.lines(), ["a file\ta folder\tluarocks"]);
}

#[test]
fn a_c_module_uses_the_commands_lua() {
    let source = "
        extern void lua_pushnumber(void *, double);
        extern void lua_pushvalue(void *, int);
        extern void lua_call(void *, int, int);
        extern void lua_pushcclosure(void *, int (*)(void *), int);
        static int twice(void *L) { lua_pushvalue(L, 1); lua_call(L, 0, 0); lua_call(L, 0, 1); return 1; }
        int luaopen_probe(void *L) { lua_pushcclosure(L, twice, 0); return 1; }";
    let main = "local yue = require 'yue'
        local twice, calls = require 'probe', 0
        print(twice(function() yue.sleep(0.001) calls = calls + 1 return calls end))";
    let folder = Folder::new("c", &[("main.lua", main), ("probe.c", source)]);
    compile(&folder, "probe");
    assert_eq!(run_main(&folder, &[]).lines(), ["2"]);
}

/// Compiles `NAME.c` of the folder to a module.
fn compile(folder: &Folder, name: &str) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([
            folder.path(&format!("{name}.so")),
            folder.path(&format!("{name}.c")),
        ])
        .status()
        .unwrap();
    assert!(compiled.success());
}

#[test]
fn a_c_module_that_calls_back_on_the_state_of_another_fiber_harms_nobody() {
    // As luv and lgi do, it keeps the state that it was loaded on.
    let source = "
        typedef struct lua_State lua_State;
        extern void lua_xmove(lua_State *, lua_State *, int);
        extern int lua_pcall(lua_State *, int, int, int);
        extern void lua_pushboolean(lua_State *, int);
        extern void lua_pushcclosure(lua_State *, int (*)(lua_State *), int);
        static lua_State *kept;
        static int call_back(lua_State *L)
        {
          int status;
          lua_xmove(L, kept, 1);
          status = lua_pcall(kept, 0, 0, 0);
          lua_pushboolean(L, status == 0);
          if (status == 0) return 1;
          lua_xmove(kept, L, 1);
          return 2;
        }
        int luaopen_keeper(lua_State *L) { kept = L; lua_pushcclosure(L, call_back, 0); return 1; }";
    let main = "local waits = yue.spawn(function()
          call_back = require 'keeper'
          local before = { 'mine' }
          yue.sleep(0.05)
          return before[1]
        end)
        yue.yield()
        local refused, ran = 0, 0
        for i = 1, 20 do
          yue.spawn(function()
            local ok, e = call_back(function() ran = ran + 1 yue.sleep(0.001) end)
            if not ok and e:is_a 'RuntimeError' and e.msg:find('of another fiber', 1, true) then
              refused = refused + 1
            end
            assert(call_back(function() ran = ran + 1 end))
          end)
        end
        print(waits:get(), refused, ran)
        -- Its own fiber is over, and its state in the pool.
        local ok, e = call_back(function()
          for i = 1, 20 do yue.spawn(function() ran = ran + 1 yue.sleep(0.001) ran = ran + 1 end) end
          yue.sleep(0.01)
        end)
        yue.sleep(0.05)
        print(ok, e and e.type, ran)
        collectgarbage()";
    let folder = Folder::new("keeper", &[("main.lua", main), ("keeper.c", source)]);
    compile(&folder, "keeper");
    for driver in drivers() {
        let outcome = run_main(&folder, &[("YUE_IO", driver)]);
        assert_eq!(outcome.lines()[0], "mine\t20\t40", "{outcome:#?}");
        let last = outcome.lines()[1];
        assert!(
            ["false\tRuntimeError\t80", "true\tnil\t80"].contains(&last),
            "{outcome:#?}"
        );
    }
}

#[test]
fn the_environment_says_where_modules_are() {
    let folder = Folder::new(
        "environment",
        &[
            (
                "main.lua",
                "print(package.path, package.cpath, (pcall(require, 'beside')))",
            ),
            ("beside.lua", "return true"),
        ],
    );
    let outcome = run_main(
        &folder,
        &[("LUA_PATH", "/a/?.lua"), ("LUA_CPATH", "/b/?.so")],
    );
    assert_eq!(outcome.lines(), ["/a/?.lua\t/b/?.so\tfalse"]);
    let outcome = run_main(&folder, &[("LUA_PATH", "/a/?.lua;;")]);
    let line = outcome.lines()[0].to_owned();
    // `;;` stands for the defaults, where it is.
    assert!(
        line.starts_with("/a/?.lua;./?.lua;") && line.ends_with("true"),
        "{line}"
    );
    let outcome = run_main(&folder, &[("LUA_PATH", ";;/a/?.lua")]);
    let line = outcome.lines()[0].to_owned();
    let path = line.split('\t').next().unwrap_or_default();
    assert!(
        path.starts_with("./?.lua;") && path.ends_with(";/a/?.lua") && !path.contains(";;"),
        "{line}"
    );
}

#[test]
fn luajits_own_modules_are_there() {
    let main = "require('jit.v').start('/dev/null') require('jit.v').off()
        assert(require('jit.vmdef').bcnames and require('jit.bc').dump)
        assert(require('jit.dump').on and require('jit.p').start and require('jit.zone'))
        local lines = {}
        require('jit.bc').dump(function() return 42 end, { write = function(_, text) lines[#lines + 1] = text end,
          flush = function() end, close = function() end })
        print(table.concat(lines):match('KSHORT') or table.concat(lines))
        print((pcall(require, 'jit.nothing')))";
    let folder = Folder::new("jit", &[("main.lua", main)]);
    assert_eq!(run_main(&folder, &[]).lines(), ["KSHORT", "false"]);
}

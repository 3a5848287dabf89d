//! `yue types`: declarations of a running server, which Lua, Python and TypeScript can read.
//!
//! Python must be on the machine, or its part is skipped. `ci/types` installs TypeScript and names its compiler in
//! `YUE_TYPES_TSC`; without that, its part is skipped.

mod common;

use common::run_to_end;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SERVER: &str = r#"
local yue = require 'yue'
local world = { chat = {} }

---@class Player
---@field name string The name.
---@field hp? integer
---@field ['a-b'] Mood

---@alias Mood 'happy'|'sad'

--- Joins the world. */ """ ]] end
---@param name string Who joins.
---@param mood? Mood
---@return Player
function world.join(name, mood) return { name = name, ['a-b'] = mood or 'happy' } end

---@param path { x: number, y: number }[]
---@param on_step? fun(step: integer): boolean
---@return number distance
---@return string? warning
function world.walk(path, on_step) return #path end

---@param player Player
---@param ... string
function world.chat.say(player, ...) return ... end

function world.chat.plain(text) return text end
world.chat['a-b'] = function() end
world['end'] = function() end
world[ [[']*/"""${evil()}\]] .. '\n"""\nevil()'] = function() end
world['a-b'] = { ['c"d'] = function() end }
print(yue.listen('tcp://127.0.0.1:0', world):addr())
io.stdout:flush()
"#;

struct Server {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("world.lua");
        std::fs::write(&script, SERVER).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_yue"))
            .arg("--no-admin")
            .arg(&script)
            .env("YUE_WATCHDOG", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
        stdout.read_line(&mut address).unwrap();
        Server {
            address: address.trim().to_owned(),
            child,
            folder,
        }
    }

    /// Writes the declarations to a file of that name; returns its path.
    #[track_caller]
    fn types(&self, file: &str, arguments: &[&str]) -> PathBuf {
        let path = self.folder.path().join(file);
        let ended = run_to_end(
            Command::new(env!("CARGO_BIN_EXE_yue"))
                .args(["types", &self.address, "-o"])
                .arg(&path)
                .args(arguments),
        );
        assert_eq!((ended.stderr.as_str(), ended.code), ("", Some(0)));
        path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn lua_compiles_the_stubs() {
    let server = Server::start();
    let path = server.types("stubs.lua", &[]);
    let text = std::fs::read_to_string(&path).unwrap();
    for line in [
        "---Joins the world. */ \"\"\" ]] end",
        "---@param name string Who joins.",
        "---@param mood? Mood",
        "---@return Player",
        "function procs.join(name, mood) end",
        "procs['end'] = function() end",
        "---@field timed_join fun(seconds: number, name: string, mood?: Mood): Player",
        "---@field notify_join fun(name: string, mood?: Mood): boolean",
    ] {
        assert!(text.lines().any(|each| each == line), "{line}\n{text}");
    }
    let ended = run_to_end(Command::new(env!("CARGO_BIN_EXE_yue")).arg(&path));
    assert_eq!((ended.stderr.as_str(), ended.code), ("", Some(0)));
}

#[test]
fn python_imports_the_stubs() {
    let server = Server::start();
    let path = server.types("stubs.py", &["--name", "Game"]);
    let check = "
import ast, sys, typing
ast.parse(open('stubs.py').read())
if sys.version_info >= (3, 11):
    import stubs
    hints = typing.get_type_hints(stubs.Game.join)
    assert hints['name'] is str and hints['return'] is stubs.Player, hints
    assert stubs.Player.__optional_keys__ == {'hp'}, stubs.Player.__optional_keys__
    assert stubs.Game.join.__doc__.startswith('Joins the world. */ \"\"\" ]] end'), stubs.Game.join.__doc__
print('fine')";
    let folder = path.parent().unwrap();
    let python = Command::new("python3")
        .args(["-B", "-c", check])
        .current_dir(folder)
        .output();
    let Ok(output) = python else {
        eprintln!("skipped: there is no python3");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "fine\n", "{text}");
}

#[test]
fn the_output_depends_on_the_functions_alone() {
    let (one, two) = (Server::start(), Server::start());
    for file in ["w.ts", "w.pyi", "w.lua"] {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&one.types(file, &[])), read(&two.types(file, &[])));
    }
}

#[test]
fn wrong_usage_and_servers_without_a_description_are_refused() {
    let run = |arguments: &[&str]| {
        run_to_end(
            Command::new(env!("CARGO_BIN_EXE_yue"))
                .arg("types")
                .args(arguments),
        )
    };
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(word), "{}", ended.stderr);
    };
    refused(&["tcp://127.0.0.1:1"], 1, "ConnectionRefusedError");
    refused(&["tcp://127.0.0.1:1", "-o", "x.rb"], 2, "--lang");
    refused(&["tcp://127.0.0.1:1", "-n", "a b"], 2, "letters");
    refused(&["tcp://127.0.0.1:1", "-l", "ruby"], 2, "ruby");
    let server = Server::start();
    refused(
        &[&server.address, "-o", "/nowhere/x.ts"],
        1,
        "cannot write to /nowhere/x.ts",
    );
}

/// The types of the JavaScript client: `open<World>()` returns `Procedures<World>`.
const CLIENT: &str = "../clients/js/dist/types/types.d.ts";

/// A program in TypeScript.
const GOOD: &str = r#"
import type { Procedures } from './procedures';
import type { Mood, Player, World } from './world';
declare const c: Procedures<World>;
async function play(): Promise<void> {
  const player: Player = await c.join('ada');
  const mood: Mood = player['a-b'];
  await c.join(player.name, mood);
  const hp: number = player.hp ?? 100;
  const answer = await c.walk([{ x: 1, y: hp }], (step) => step < 3);
  const distance: number = Array.isArray(answer) ? answer[0] : answer;
  await c.walk([], async () => distance > 1);
  const said: unknown = await c.chat.say(player, 'a', 'b');
  await c.chat.plain(said);
  await c.chat['a-b']();
  await c.end();
  const other: Player = await c.timed_join(5, 'bob');
  const taken: boolean = c.chat.notify_say(other);
  if (taken) await c.async_join('eve');
}
void play;
"#;

const BAD: [&str; 8] = [
    "await c.join(5);",
    "await c.join('ada', 'angry');",
    "const n: number = await c.join('ada');",
    "await c.chat.say({ name: 'x' });",
    "await c.walk([{ x: 1 }]);",
    "await c.leave();",
    "await c.timed_join('ada', 'ada');",
    "const taken: string = c.notify_join('ada');",
];

#[test]
fn typescript_accepts_good_programs_and_refuses_bad_ones() {
    let Some(tsc) = std::env::var_os("YUE_TYPES_TSC") else {
        eprintln!("skipped: YUE_TYPES_TSC names no compiler; ci/types installs one");
        return;
    };
    let server = Server::start();
    let folder = server.types("world.ts", &[]);
    let folder = folder.parent().unwrap();
    // One run of the compiler for all programs: it takes a second.
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join(CLIENT);
    std::fs::copy(client, folder.join("procedures.d.ts")).unwrap();
    std::fs::write(folder.join("good.ts"), GOOD).unwrap();
    let lines: Vec<String> = BAD
        .iter()
        .map(|line| format!("async function f() {{ {line} }} void f;"))
        .collect();
    for (at, line) in lines.iter().enumerate() {
        let head = "import type { Procedures } from './procedures'; \
                    import type { World } from './world'; declare const c: Procedures<World>;";
        std::fs::write(
            folder.join(format!("bad{at}.ts")),
            format!("{head}\n{line}\n"),
        )
        .unwrap();
    }
    let files: Vec<String> = (0..BAD.len()).map(|at| format!("bad{at}.ts")).collect();
    let output = Command::new(tsc)
        .args([
            "--strict",
            "--noEmit",
            "--pretty",
            "false",
            "--target",
            "es2022",
            "--skipLibCheck",
        ])
        .arg("good.ts")
        .args(&files)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("good.ts") && !text.contains("world.ts"),
        "{text}"
    );
    for (file, line) in files.iter().zip(BAD) {
        assert!(
            text.contains(&format!("{file}(2,")),
            "{line} is accepted: {text}"
        );
    }
}

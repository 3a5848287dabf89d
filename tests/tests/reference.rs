//! The reference of the Lua API (`docs/src/lua-api/`) has every name of the editor stubs, and no other. That the stubs
//! have every name of the API is a test of the API's own (`yue/tests/lua/stubs.lua`).

mod common;

use common::{Program, root, run};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The folder of the stubs of the API.
const STUBS: &str = "yue/lua/meta";

/// How the reference writes an object of each class. Classes that stand for a table of the API have its path.
const WRITTEN: &[(&str, &str)] = &[
    ("Answers", "a"),
    ("Channel", "ch"),
    ("Client", "client"),
    ("Config", "yue.config"),
    ("Connection", "conn"),
    ("Counter", "counter"),
    ("Current", "yue.thread.current"),
    ("Datagrams", "udp"),
    ("Emitter", "e"),
    ("Error", "e"),
    ("Event", "ev"),
    ("Feature", "yue.feature"),
    ("Fiber", "f"),
    ("Future", "f"),
    ("Gauge", "gauge"),
    ("Group", "g"),
    ("Histogram", "h"),
    ("HttpServer", "server"),
    ("HttpWriter", "writer"),
    ("HttpClient", "api"),
    ("HttpResponse", "res"),
    ("Listener", "l"),
    ("Logger", "logger"),
    ("Mutex", "m"),
    ("Process", "p"),
    ("Reader", "r"),
    ("Semaphore", "s"),
    ("ServerRequest", "req"),
    ("Stream", "stream"),
    ("StreamListener", "acceptor"),
    ("TaskGroup", "tasks"),
    ("Thread", "t"),
    ("ThreadApi", "yue.thread"),
];

/// The object whose fields, other than methods, are procedures of its members, of any name.
const GROUP: &str = "g";

/// Classes of plain tables: each field is a code span of its own on that page.
const TABLES: &[(&str, &str)] = &[
    ("ConnectOptions", "sockets.md"),
    ("ChaosOptions", "sim.md"),
    ("CurrentThread", "threads.md"),
    ("DatagramSocketOptions", "sockets.md"),
    ("Description", "connections.md"),
    ("DiskFaults", "sim.md"),
    ("DiskLatency", "sim.md"),
    ("TypeDescription", "connections.md"),
    ("ErrorClass", "errors.md"),
    ("ExitStatus", "processes.md"),
    ("FileFacts", "files.md"),
    ("HttpFilesOptions", "http-server.md"),
    ("HttpOptions", "servers.md"),
    ("HttpRequest", "servers.md"),
    ("HttpServeOptions", "http-server.md"),
    ("HttpClientOptions", "http-client.md"),
    ("HttpOptions", "servers.md"),
    ("HttpRequest", "servers.md"),
    ("HttpRequestOptions", "http-client.md"),
    ("HttpRequestTable", "http-client.md"),
    ("JsonOptions", "json.md"),
    ("Link", "sim.md"),
    ("ListenerStats", "servers.md"),
    ("MethodStats", "servers.md"),
    ("NetworkFaults", "sim.md"),
    ("MetricOptions", "metrics.md"),
    ("NallocOptions", "nalloc.md"),
    ("NallocRequest", "nalloc.md"),
    ("Node", "nalloc.md"),
    ("Options", "options.md"),
    ("ReloadReport", "reload.md"),
    ("RunCommand", "processes.md"),
    ("RunResult", "processes.md"),
    ("SimulatedHost", "sim.md"),
    ("SpawnCommand", "processes.md"),
    ("StateOptions", "reload.md"),
    ("StreamListenOptions", "sockets.md"),
    ("ThreadOptions", "threads.md"),
    ("VersionFibers", "reload.md"),
];

/// Tables whose keys the stubs leave open.
const OPEN: [&str; 5] = [
    "yue.args",
    "yue.const",
    "yue.errors",
    "yue.shared",
    "yue.thread.current",
];

/// The names that the stubs declare.
#[derive(Default)]
struct Stubs {
    /// `yue.open`, `yue.fiber.list`, …
    names: BTreeSet<String>,
    /// Fields and methods by class.
    members: BTreeMap<String, BTreeSet<String>>,
}

impl Stubs {
    fn read() -> Stubs {
        let mut stubs = Stubs::default();
        for file in fs::read_dir(root().join(STUBS)).unwrap() {
            stubs.read_file(&fs::read_to_string(file.unwrap().path()).unwrap());
        }
        assert!(stubs.names.len() > 30 && stubs.members.len() > 10);
        stubs
    }

    fn read_file(&mut self, text: &str) {
        let stubs = self;
        let mut class = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("---@class yue.") {
                class = first_word(rest).to_owned();
            } else if let Some(rest) = line.strip_prefix("---@field ") {
                let field = first_word(rest);
                if !field.is_empty() {
                    stubs.add(&class, field);
                }
            } else if let Some(rest) = line.strip_prefix("function ") {
                let path = rest.split('(').next().unwrap();
                match path.split_once(':') {
                    Some((class, method)) => stubs.add(class, method),
                    None => _ = stubs.names.insert(path.to_owned()),
                }
            } else if line.starts_with("yue.") {
                let path = line.split(' ').next().unwrap();
                stubs.names.insert(path.to_owned());
            }
        }
    }

    fn add(&mut self, class: &str, member: &str) {
        let members = self.members.entry(class.to_owned()).or_default();
        members.insert(member.to_owned());
    }

    /// Whether the reference may write `member` after `object`.
    fn has_member(&self, object: &str, member: &str) -> bool {
        let is_emitter = ["conn", "l", "t"].contains(&object);
        let classes = WRITTEN.iter().filter(|(_, written)| *written == object);
        let classes = classes.map(|(class, _)| *class);
        classes
            .chain(is_emitter.then_some("Emitter"))
            .any(|class| self.members[class].contains(member))
    }

    /// Whether `path` is a name of the API, a table that contains one, or a key of an open table.
    fn has_name(&self, path: &str) -> bool {
        let inside = |table: &str| path.starts_with(table) && path[table.len()..].starts_with('.');
        self.names.contains(path)
            || self
                .names
                .iter()
                .any(|name| name.starts_with(&format!("{path}.")))
            || OPEN.iter().any(|table| *table == path || inside(table))
            || path
                .rsplit_once('.')
                .is_some_and(|(table, key)| self.has_member(table, key))
    }
}

/// The leading letters, digits and underscores.
fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The pages of the reference: name and text.
fn pages() -> Vec<(String, String)> {
    let folder = root().join("docs/src/lua-api");
    let mut pages: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    pages.sort();
    assert!(pages.len() > 8, "the reference was not found");
    pages
}

/// The code spans of a page, without its blocks.
fn spans(text: &str) -> Vec<String> {
    let mut prose = String::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 0 {
            prose.push_str(part);
        }
    }
    let parts = prose.split('`').enumerate();
    parts
        .filter(|(i, _)| i % 2 == 1)
        .map(|(_, span)| span.replace('\n', " "))
        .collect()
}

/// Every `object.member` and `object:member` in a piece of code, with paths such as `yue.fiber.list` whole.
fn paths(code: &str) -> Vec<String> {
    let is_path = |c: char| is_word(c) || c == '.' || c == ':';
    code.split(|c| !is_path(c))
        .map(|path| path.trim_matches(['.', ':']).to_owned())
        .filter(|path| path.contains(['.', ':']))
        .collect()
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_reference_has_every_name_of_the_stubs() {
    let stubs = Stubs::read();
    let pages = pages();
    let mut written = BTreeSet::new();
    let mut words: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (page, text) in &pages {
        for span in spans(text) {
            written.extend(paths(&span).into_iter().map(|path| path.replace(':', ".")));
            words.entry(page).or_default().insert(span);
        }
    }
    // A name is there, too, if something in it is: `yue.util` by `yue.util.time.now`.
    let is_written = |name: &str| {
        let inside = format!("{name}.");
        written.contains(name) || written.iter().any(|path| path.starts_with(&inside))
    };
    let mut missing: Vec<String> = Vec::new();
    missing.extend(stubs.names.iter().filter(|name| !is_written(name)).cloned());
    for (class, members) in &stubs.members {
        for member in members {
            let object = WRITTEN.iter().find(|(name, _)| name == class);
            let page = TABLES.iter().find(|(name, _)| name == class);
            let is_there = match (object, page) {
                (Some((_, object)), _) => {
                    is_written(&format!("{object}.{member}"))
                        || object.starts_with("yue.")
                            && words.values().any(|all| all.contains(member))
                }
                (None, Some((_, page))) => words[page].contains(member),
                (None, None) => panic!("the class {class} is new: add it to this test"),
            };
            if !is_there {
                missing.push(format!("{class}: {member}"));
            }
        }
    }
    assert_none(missing);
}

#[test]
fn the_reference_has_no_name_that_the_stubs_do_not_have() {
    let stubs = Stubs::read();
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        // Blocks of Lua are run by another test; a name of `yue` that does not exist may hide in a branch not taken.
        for path in paths(&text).iter().filter(|path| path.starts_with("yue.")) {
            let path = path.split(':').next().unwrap();
            if !stubs.has_name(path) {
                wrong.push(format!("{page}: {path}"));
            }
        }
        for path in spans(&text).iter().flat_map(|span| paths(span)) {
            let (object, rest) = path.split_once(['.', ':']).unwrap();
            let is_object = WRITTEN.iter().any(|(_, written)| *written == object);
            let is_procedure = object == GROUP && path.starts_with("g.");
            if is_object && !is_procedure && !stubs.has_member(object, first_word(rest)) {
                wrong.push(format!("{page}: {path}"));
            }
        }
        if let Some((class, rows)) = option_rows(&page, &text) {
            let unknown = rows
                .iter()
                .filter(|row| !stubs.members[class].contains(*row));
            wrong.extend(unknown.map(|row| format!("{page}: option {row}")));
        }
    }
    assert_none(wrong);
}

/// The first column of the tables of options, with their class.
fn option_rows(page: &str, text: &str) -> Option<(&'static str, Vec<String>)> {
    let class = match page {
        "options.md" => "Options",
        "threads.md" => "ThreadOptions",
        _ => return None,
    };
    Some((class, first_column(text, "| option |")))
}

/// The code spans in the first column of the table whose head begins with `head`.
fn first_column(text: &str, head: &str) -> Vec<String> {
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2);
    let rows: Vec<String> = table
        .take_while(|line| line.starts_with('|'))
        .flat_map(|line| spans(line.split('|').nth(1).unwrap()))
        .collect();
    assert!(!rows.is_empty(), "no table begins with {head}");
    rows
}

/// Runs a program, in a file of this name, that prints names, one a line.
fn names_printed_by(file: &str, code: &str) -> BTreeSet<String> {
    let outcome = run(&mut Program::new(file, code).command());
    outcome.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn the_counts_of_a_connection_are_those_of_its_table() {
    let real = names_printed_by(
        "reference-counts",
        "local listener = yue.listen('tcp://127.0.0.1:0', {})\n\
         for name in pairs(yue.socket(listener:addr()):stats()) do print(name) end\n\
         listener:close()",
    );
    let text = fs::read_to_string(root().join("docs/src/lua-api/connections.md")).unwrap();
    let rows = first_column(&text, "| `conn:stats()` returns |");
    assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), real);
}

#[test]
fn the_tree_of_errors_has_every_type() {
    let real = names_printed_by(
        "reference-errors",
        "for name in pairs(yue.errors) do print(name) end",
    );
    let text = fs::read_to_string(root().join("docs/src/lua-api/errors.md")).unwrap();
    let tree = text
        .split("```text")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let words = tree.split(|c| !is_word(c));
    let shown: BTreeSet<String> = words
        .filter(|word| word.ends_with("Error"))
        .map(str::to_owned)
        .collect();
    assert_eq!(shown, real);
}

#[test]
fn the_index_has_every_name_of_the_api() {
    let index = fs::read_to_string(root().join("docs/src/lua-api.md")).unwrap();
    let spans = spans(&index);
    let stubs = Stubs::read();
    // `yue.util` is a table that only holds another.
    let names = stubs.names.iter().filter(|name| *name != "yue.util");
    let missing = names.filter(|name| !spans.contains(name));
    assert_none(missing.cloned().collect());
}

//! `yue dev`: changes of modules, of the script and of pages are live; errors are shown; nothing is left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing takes a fraction of this.
const DEADLINE: Duration = Duration::from_secs(60);

const SERVER: &str = r#"local yue = require 'yue'
local folder = arg[0]:match '.*/' or ''
local text = require 'text'
yue.http.serve('tcp://127.0.0.1:PORT', {
  ['GET /text'] = function() return require 'text' end,
  ['GET /pid'] = function() return yue.fs.read '/proc/self/stat':match '%d+' end,
  ['GET /script'] = 'first',
  ['GET /part'] = function() return '<p>part', { ['Content-Type'] = 'text/html' } end,
  ['GET /hang'] = function() while true do end end,
  ['GET /end'] = function() os.exit(3) end,
  ['GET /fail'] = function() error 'no luck today' end,
  ['GET /timer'] = function()
    yue.timer(0, 0.005):bind('tick', function() error 'the tick is broken' end)
    return 'started'
  end,
  ['GET /fiber'] = function()
    yue.spawn(function() error 'the fiber is broken' end)
    return 'started'
  end,
  ['GET /mode'] = function() return tostring(yue.feature.development) .. tostring(os.getenv 'YUE_DEV') end,
  ['GET /*'] = yue.http.files(folder .. 'page'),
})
print('served', text)
"#;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// A port that nobody uses.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A project, and `yue dev` for it.
struct Dev {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
    output: Arc<Mutex<String>>,
}

impl Dev {
    fn start() -> Dev {
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let write = |name: &str, text: &str| write(&folder.path().join(name), text);
        write("text.lua", "return 'one'");
        write("page/index.html", "<title>page</title>");
        write("page/style.css", "body {}");
        write("server.lua", &SERVER.replace("PORT", &port.to_string()));
        let mut dev = Dev {
            process: Dev::spawn(&folder),
            folder,
            port,
            output: Arc::default(),
        };
        dev.collect();
        dev.wait_for_output("served\tone\n");
        dev
    }

    fn spawn(folder: &tempfile::TempDir) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command.arg("dev").arg(folder.path()).stdin(Stdio::null());
        command.env_remove("YUE_LOG").env("YUE_WATCHDOG", "0");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the yue command runs")
    }

    /// Collects what the process and its child write.
    fn collect(&mut self) {
        let stdout = self.process.stdout.take().expect("a pipe");
        let stderr = self.process.stderr.take().expect("a pipe");
        for mut pipe in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
            let output = self.output.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]);
                    output.lock().expect("no panic").push_str(&text);
                }
            });
        }
    }

    fn server(&self) -> String {
        SERVER.replace("PORT", &self.port.to_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    /// Replaces a file by another one, as many editors do.
    fn replace(&self, name: &str, text: &str) {
        self.write("new~", text);
        fs::rename(self.path("new~"), self.path(name)).expect("a rename");
    }

    fn output(&self) -> String {
        self.output.lock().expect("no panic").clone()
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "{what} did not happen:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn wait_for_output(&self, text: &str) {
        self.wait_for(text, || self.output().contains(text).then_some(()));
    }

    /// Sends a request; returns the answer with its head, or `None` if nobody answers.
    fn ask(&self, path: &str, header: &str) -> Option<String> {
        self.request("GET", path, header)
    }

    fn request(&self, method: &str, path: &str, header: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }

    fn get(&self, path: &str) -> Option<String> {
        let answer = self.ask(path, "")?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
    }

    /// Waits until a path has this answer.
    #[track_caller]
    fn wait_for_answer(&self, path: &str, body: &str) {
        self.wait_for(body, || (self.get(path)? == body).then_some(()));
    }

    /// Listens to the states, as the script in a page does.
    #[track_caller]
    fn events(&self) -> Events {
        self.wait_for("a stream of states", || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(DEADLINE)).ok()?;
            stream
                .write_all(b"GET /_yue/dev HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .ok()?;
            let mut events = Events(BufReader::new(stream));
            // The first state is the answer.
            let first = events.next()?;
            Some((events, first))
        })
        .0
    }

    /// Waits until a page that is opened now shows the error.
    #[track_caller]
    fn wait_for_shown_error(&self, text: &str) {
        self.wait_for(text, || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            stream.set_read_timeout(Some(DEADLINE)).ok()?;
            stream
                .write_all(b"GET /_yue/dev HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .ok()?;
            let state = Events(BufReader::new(stream)).next()?;
            let error = state["error"].as_str()?;
            error.contains(text).then_some(())
        });
    }

    fn signal(&self, number: libc::c_int) {
        // SAFETY: the process is our child, and has not been waited for.
        let outcome = unsafe { libc::kill(self.process.id().cast_signed(), number) };
        assert_eq!(outcome, 0);
    }

    #[track_caller]
    fn wait_for_end(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                return status;
            }
            assert!(
                since.elapsed() < DEADLINE,
                "it does not end: {}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the process with this number is gone.
    #[track_caller]
    fn wait_for_death(&self, pid: &str) {
        let is_gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            // A zombie is dead, too: nobody may be there to reap it.
            Ok(facts) => facts
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        self.wait_for("the child's end", || is_gone().then_some(()));
        // Other threads of a process that was killed may end a moment later.
        self.wait_for("the port's release", || {
            TcpListener::bind(("127.0.0.1", self.port)).ok()
        });
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream of states.
struct Events(BufReader<TcpStream>);

impl Events {
    /// The next state, or `None` at the end.
    fn next(&mut self) -> Option<serde_json::Value> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).ok();
            }
        }
    }

    /// Waits for a state whose error contains the text; without a text, for one without an error.
    #[track_caller]
    fn wait_for_error(&mut self, text: Option<&str>) {
        loop {
            let state = self.next().expect("the stream lasts");
            match (state["error"].as_str(), text) {
                (None, None) => return,
                (Some(error), Some(text)) if error.contains(text) => return,
                _ => {}
            }
        }
    }

    /// Waits for a state that has only this failure of the program, at least so often.
    #[track_caller]
    fn wait_for_failure(&mut self, text: &str, count: u64) {
        loop {
            let state = self.next().expect("the stream lasts");
            if let [failure] = &state["failures"].as_array().expect("a list")[..] {
                let shown = failure["text"].as_str().expect("a text");
                assert!(shown.contains(text), "{state}");
                if failure["count"].as_u64().expect("a number") >= count {
                    return;
                }
            }
        }
    }

    /// Waits for a state without failures.
    #[track_caller]
    fn wait_for_no_failure(&mut self) {
        while self.next().expect("the stream lasts")["failures"] != serde_json::json!([]) {}
    }
}

#[test]
fn a_changed_module_is_live_and_a_wrong_one_is_shown_while_the_old_one_runs() {
    let dev = Dev::start();
    assert_eq!(dev.get("/mode").as_deref(), Some("truenil"));
    let pid = dev.get("/pid").expect("it serves");
    dev.replace("text.lua", "return 'two'");
    dev.wait_for_answer("/text", "two");

    let mut events = dev.events();
    dev.write("text.lua", "return 'three' oops");
    events.wait_for_error(Some("text.lua:1: "));
    dev.wait_for_output("text.lua:1: ");
    assert_eq!(dev.get("/text").as_deref(), Some("two"));
    dev.wait_for_shown_error("text.lua:1: ");
    dev.write("text.lua", "return 'four'");
    events.wait_for_error(None);
    dev.wait_for_answer("/text", "four");
    assert_eq!(
        dev.get("/pid"),
        Some(pid),
        "the program has not been restarted"
    );
}

#[test]
fn a_changed_script_restarts_the_program_unless_it_is_wrong() {
    let dev = Dev::start();
    let mut events = dev.events();
    let pid = dev.get("/pid").expect("it serves");
    dev.write("server.lua", "this is not Lua");
    events.wait_for_error(Some("server.lua:1: "));
    assert_eq!(dev.get("/script").as_deref(), Some("first"));
    dev.replace("server.lua", &dev.server().replace("'first'", "'second'"));
    dev.wait_for_answer("/script", "second");
    assert_ne!(dev.get("/pid"), Some(pid));
    // The streams of the old program have ended, so that it could end at once.
    while events.next().is_some() {}
    assert!(!dev.output().contains("killed"), "{}", dev.output());
}

#[test]
fn a_program_that_fails_is_replaced_by_its_error_until_it_is_repaired() {
    let dev = Dev::start();
    dev.write("server.lua", "local yue = require 'yue'\nerror 'no luck'");
    dev.wait_for_output("no luck");
    dev.wait_for_shown_error("server.lua:2: no luck");
    let page = dev
        .ask("/", "Accept: text/html\r\n")
        .expect("a stand-in answers");
    assert!(
        page.starts_with("HTTP/1.1 503 ") && page.contains("server.lua:2: no luck"),
        "{page}"
    );
    assert!(page.contains("/_yue/dev.js"), "{page}");
    assert!(
        dev.get("/_yue/dev.js")
            .is_some_and(|script| script.contains("EventSource"))
    );
    dev.write("server.lua", &dev.server());
    dev.wait_for_answer("/text", "one");

    // The same after a crash of a program that has run.
    assert_eq!(dev.ask("/end", ""), None);
    dev.wait_for_shown_error("ended with exit code 3");
    dev.write("text.lua", "return 'again'");
    dev.wait_for_answer("/text", "again");
}

#[test]
fn pages_get_a_script_and_hear_of_their_files() {
    let dev = Dev::start();
    let page = dev.get("/").expect("the page");
    let stamp = page
        .split("data-pages=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let stamp = stamp.expect("the tag").to_owned();
    assert!(page.starts_with("<title>page</title>"), "{page}");
    assert!(
        dev.get("/part")
            .is_some_and(|part| part.contains("/_yue/dev.js"))
    );
    // A part of a page has it already.
    let part = dev
        .ask("/part", "Sec-Fetch-Dest: empty\r\n")
        .expect("a part");
    assert!(part.ends_with("<p>part"), "{part}");
    assert_eq!(dev.get("/style.css").as_deref(), Some("body {}"));
    let foreign = dev
        .ask("/_yue/dev", "Sec-Fetch-Site: cross-site\r\n")
        .expect("a refusal");
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");

    let mut events = dev.events();
    dev.replace("page/style.css", "body { color: red }");
    let styles = events.next().expect("a state");
    assert_eq!(styles["styles"], true, "{styles}");
    assert_ne!(styles["pages"], stamp);
    dev.write("page/more/new.html", "<p>new");
    let pages = events.next().expect("a state");
    assert_eq!(pages["styles"], false, "{pages}");
    assert_ne!(pages["pages"], styles["pages"]);
    assert!(
        dev.get("/more/new.html")
            .is_some_and(|page| page.contains(pages["pages"].as_str().expect("a stamp")))
    );
}

#[test]
fn folders_that_are_removed_and_created_again_stay_live() {
    let dev = Dev::start();
    let page = dev.get("/").expect("the page");
    let mut events = dev.events();
    for text in ["<title>second", "<title>third"] {
        fs::remove_dir_all(dev.path("page")).expect("it is there");
        dev.write("page/index.html", text);
        // One or several: the removal may be noticed by itself.
        loop {
            let state = events.next().expect("a state");
            let stamp = state["pages"].as_str().expect("a stamp");
            let now = dev.get("/").unwrap_or_default();
            if now.starts_with(text) && now.contains(stamp) {
                break;
            }
        }
    }
    assert_ne!(dev.get("/"), Some(page));

    // The folder of the program itself.
    let script = dev.server().replace("'first'", "'second'");
    fs::rename(dev.folder.path(), dev.folder.path().with_extension("old")).expect("a rename");
    dev.write("text.lua", "return 'two'");
    dev.wait_for_answer("/text", "two");
    dev.write("page/index.html", "<title>page");
    dev.write("server.lua", &script);
    dev.wait_for_answer("/script", "second");
    fs::remove_dir_all(dev.folder.path().with_extension("old")).expect("it is there");
}

#[test]
fn failures_of_the_running_program_are_shown_until_a_reload_or_a_click() {
    let dev = Dev::start();
    let mut events = dev.events();
    let failure = "the handler of GET /fail failed";
    for text in ["two", "three"] {
        dev.replace("text.lua", &format!("return '{text}'"));
        dev.wait_for_answer("/text", text);
        for count in 1..=3 {
            let answer = dev.ask("/fail", "").expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            events.wait_for_failure(failure, count);
        }
    }
    // A reload that fails changes nothing.
    dev.write("text.lua", "return oops(");
    events.wait_for_error(Some("text.lua:1: "));
    dev.ask("/fail", "");
    events.wait_for_failure("no luck today", 4);
    dev.write("text.lua", "return 'four'");
    events.wait_for_no_failure();

    dev.ask("/fail", "");
    events.wait_for_failure(failure, 1);
    let closed = dev.request("POST", "/_yue/dev", "").expect("an answer");
    assert!(closed.starts_with("HTTP/1.1 204 "), "{closed}");
    events.wait_for_no_failure();
    assert_eq!(dev.get("/fiber").as_deref(), Some("started"));
    events.wait_for_failure("the fiber is broken", 1);
    assert!(dev.request("POST", "/_yue/dev", "").is_some());
    events.wait_for_no_failure();
    assert_eq!(dev.get("/timer").as_deref(), Some("started"));
    events.wait_for_failure("the tick is broken", 100);
}

#[test]
fn a_failure_that_is_repeated_is_one_entry_and_a_count_each_second() {
    let dev = Dev::start();
    let since = Instant::now();
    assert_eq!(dev.get("/timer").as_deref(), Some("started"));
    let repeats = || dev.output().matches(" times more: ").count();
    dev.wait_for("counts", || (repeats() >= 3).then_some(()));
    let seconds = since.elapsed().as_secs() as usize;
    let output = dev.output();
    assert!(repeats() <= seconds + 2, "{output}");
    let entries = output.lines().filter(|line| line.contains("yue error: "));
    let in_full = entries.filter(|line| !line.contains(" times more: "));
    assert_eq!(in_full.count(), 1, "{output}");
}

#[test]
fn ctrl_c_ends_the_program_too() {
    let mut dev = Dev::start();
    let _events = dev.events();
    let pid = dev.get("/pid").expect("it serves");
    dev.signal(libc::SIGINT);
    assert_eq!(dev.wait_for_end().code(), Some(130));
    dev.wait_for_death(&pid);
}

#[test]
fn a_program_that_hangs_is_killed_and_so_is_one_whose_supervisor_dies() {
    let mut dev = Dev::start();
    let pid = dev.get("/pid").expect("it serves");
    let mut hanging = TcpStream::connect(("127.0.0.1", dev.port)).expect("it listens");
    hanging
        .write_all(b"GET /hang HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("it reads");
    dev.signal(libc::SIGTERM);
    assert_eq!(dev.wait_for_end().code(), Some(143));
    dev.wait_for_death(&pid);

    let mut dev = Dev::start();
    let pid = dev.get("/pid").expect("it serves");
    dev.signal(libc::SIGKILL);
    dev.wait_for_end();
    dev.wait_for_death(&pid);
}

#[test]
fn a_program_that_cannot_listen_says_why_and_starts_when_it_is_changed() {
    let dev = Dev::start();
    let taken = free_port();
    let busy = TcpListener::bind(("127.0.0.1", taken)).expect("the port");
    dev.write("server.lua", &SERVER.replace("PORT", &taken.to_string()));
    dev.wait_for_output(&format!("127.0.0.1:{taken}"));
    dev.wait_for_shown_error("another listens there");
    dev.write("server.lua", &dev.server());
    dev.wait_for_answer("/text", "one");
    drop(busy);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let place = tempfile::tempdir().expect("a folder");
    for (argument, message) in [
        (
            ".",
            "there is no server.lua in .; name the script, or create a project: yue new demo",
        ),
        ("missing.lua", "there is no script or folder missing.lua"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command
            .args(["dev", argument])
            .current_dir(place.path())
            .stdin(Stdio::null());
        let refused = command.output().expect("the yue command runs");
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(
            refused.status.code() == Some(1) && stderr.contains(message),
            "{stderr}"
        );
    }
}

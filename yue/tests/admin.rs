//! The admin endpoint of a Rust program: who may connect, what it answers about loops that are busy, its end, and the
//! form of its metrics.

use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use yue::admin::{Endpoint, Options, listen};
use yue::fs::TempDir;
use yue::rpc::typed::Client;
use yue::{Runtime, sleep, spawn};

/// How long a test waits for what must come.
const LONG: Duration = Duration::from_secs(60);

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "this did not come: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An endpoint in a folder of its own, as any number of tests may have one in this process.
fn open() -> (Endpoint, TempDir) {
    let place = TempDir::new().expect("a folder");
    let options = Options {
        name: Some("a test".to_owned()),
        args: vec!["one".to_owned()],
        folder: Some(place.path().join("yue")),
        ..Options::default()
    };
    (listen(options).expect("it listens"), place)
}

fn call(client: &Client, method: &str, argument: Value) -> Value {
    let arguments = match argument {
        Value::Null => json!([]),
        one => json!([one]),
    };
    let answer = client.call_within::<_, Value>(yue::rpc::Timeout::After(LONG), method, arguments);
    answer.unwrap_or_else(|error| panic!("{method}: {error}"))
}

/// Runs `f` on a loop, with a client of the endpoint.
fn with_client<R: 'static>(endpoint: &Endpoint, f: impl FnOnce(&Client) -> R + 'static) -> R {
    let address = endpoint.address();
    let runtime = Runtime::new().expect("a runtime");
    runtime.run(move || f(&Client::open(&address).expect("an address")))
}

/// The loop that this client runs on.
fn own_line(loops: &Value) -> Value {
    let own = yue::scheduler::this_loop::id();
    let lines = loops.as_array().expect("a list").iter();
    let own = lines.clone().find(|line| line["loop"] == own);
    own.expect("this loop is listed").clone()
}

#[test]
fn an_endpoint_is_for_its_user_alone() {
    let (endpoint, place) = open();
    let mode = |path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!(mode(endpoint.path()), 0o600);
    assert_eq!(mode(&place.path().join("yue")), 0o700);
    let info = with_client(&endpoint, |client| call(client, "info", Value::Null));
    assert_eq!(info["pid"], std::process::id());
    assert_eq!(
        (&info["name"], &info["args"]),
        (&json!("a test"), &json!(["one"]))
    );
}

/// Connects as that user, which is a matter of the calling thread alone.
fn connect_as(user: u32, path: &std::path::Path) -> std::io::Result<UnixStream> {
    let path = path.to_owned();
    let thread = std::thread::spawn(move || {
        // SAFETY: plain numbers. The raw call changes this thread's ids, not those of the process.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
        assert_eq!(changed, 0, "root may");
        UnixStream::connect(path)
    });
    thread.join().expect("no panic")
}

#[test]
fn another_user_is_not_served() {
    const OTHER: u32 = 4711;
    // SAFETY: a plain query.
    if unsafe { libc::geteuid() } != 0 {
        return eprintln!("only root can be another user: not tested");
    }
    let (endpoint, place) = open();
    let folder = place.path().join("yue");
    let refused = connect_as(OTHER, endpoint.path()).expect_err("the folder keeps it out");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    // Even if somebody has opened both the folder and the file.
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).expect("it is ours");
    fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("it is ours");
    let refused = connect_as(OTHER, endpoint.path()).expect_err("the file's mode does");
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    fs::set_permissions(endpoint.path(), Permissions::from_mode(0o666)).expect("it is ours");
    let mut stranger = connect_as(OTHER, endpoint.path()).expect("the system lets it in");
    stranger.set_read_timeout(Some(LONG)).expect("it is set");
    assert_eq!(stranger.read(&mut [0]).expect("it is closed"), 0);
    let info = with_client(&endpoint, |client| call(client, "info", Value::Null));
    assert_eq!(info["pid"], std::process::id(), "its own user is served");
}

#[test]
fn a_loop_that_is_held_is_reported_and_the_others_answer() {
    #[inline(never)]
    fn hold_the_loop(stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let (began, beginning) = std::sync::mpsc::channel();
    let holder = std::thread::Builder::new().name("holder".to_owned());
    let holder = holder.spawn(move || {
        let runtime = Runtime::new().expect("a runtime");
        runtime.run(move || {
            began.send(()).expect("it is waited for");
            spawn(move || hold_the_loop(&stopped))
                .join()
                .expect("no panic");
        });
    });
    // Its loop is asked first, so the others' answers are looked at after the time has passed.
    beginning.recv().expect("it begins");
    let (endpoint, _place) = open();
    with_client(&endpoint, move |client| {
        let held = || {
            let loops = call(client, "loops", Value::Null);
            assert_eq!(own_line(&loops)["answers"], true, "{loops}");
            let lines = loops.as_array().expect("a list").iter();
            let held = lines.filter(|line| line["thread"] == "holder");
            held.filter(|line| line["answers"] == false)
                .find_map(|line| line["blocked_seconds"].as_f64())
        };
        wait_until("the loop is held", || held().is_some());
        let before = held();
        wait_until("it is held for longer", || held() > before);
        // Its thread may be without a processor when it is looked at.
        wait_until("the culprit is named", || {
            let page = call(client, "fibers", Value::Null);
            let blocked = page["blocked"].as_array().expect("a list").iter();
            let mut stacks = blocked.filter_map(|one| one["stack"].as_str());
            stacks.any(|stack| stack.contains("hold_the_loop"))
        });
        stop.store(true, Ordering::Relaxed);
    });
    holder.expect("a thread").join().expect("no panic");
}

#[test]
fn an_answer_about_many_fibers_is_bounded() {
    const FIBERS: usize = 20_000;
    let (endpoint, _place) = open();
    with_client(&endpoint, |client| {
        let fibers: Vec<_> = (0..FIBERS)
            .map(|_| spawn(|| sleep(Duration::from_secs(3600))))
            .collect();
        let own = yue::scheduler::this_loop::id();
        wait_until("they wait", || {
            sleep(Duration::from_millis(1)).expect("it is not stopped");
            yue::scheduler::this_loop::counters().timers >= FIBERS
        });
        let page = call(client, "fibers", json!({ "loop": own, "limit": 1_000_000 }));
        assert_eq!(page["fibers"].as_array().map(Vec::len), Some(2000));
        let waits = call(client, "waits", json!({ "loop": own }));
        let groups = waits["groups"].as_array().expect("a list").iter();
        let counts = groups.map(|group| (&group["waits_for"], &group["count"]));
        let expected = (&json!("sleep"), &json!(FIBERS));
        assert!(counts.clone().any(|found| found == expected), "{waits}");

        // Page by page there is each of them, once.
        let (mut seen, mut offset) = (HashSet::new(), Value::Null);
        loop {
            let query = json!({ "loop": own, "limit": 2000, "offset": offset });
            let page = call(client, "fibers", query);
            for fiber in page["fibers"].as_array().expect("a list") {
                let id = fiber["id"].as_str().expect("an id").to_owned();
                assert!(seen.insert(id), "{fiber} is there twice");
            }
            match &page["next"] {
                Value::Null => break,
                next => offset = next.clone(),
            }
        }
        assert!(seen.len() > FIBERS);
        fibers.iter().for_each(yue::JoinHandle::cancel);
    });
}

/// The threads of endpoints in this process.
fn threads(of: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux");
    let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    let tasks = tasks.filter_map(Result::ok);
    tasks
        .filter(|task| name(task).is_ok_and(|name| name.trim_end() == of))
        .count()
}

#[test]
fn the_end_of_an_endpoint_removes_its_file_and_its_service() {
    // Nobody has connected.
    let (endpoint, _place) = open();
    let (path, address) = (endpoint.path().to_owned(), endpoint.address());
    let silent = UnixStream::connect(&path).map(drop);
    silent.expect("somebody listens");
    drop(endpoint);
    assert!(!path.exists());
    // While it serves a client, who loses its link.
    let (endpoint, _place) = open();
    let path = endpoint.path().to_owned();
    with_client(&endpoint, |client| call(client, "info", Value::Null));
    let mut client = UnixStream::connect(&path).expect("somebody listens");
    drop(endpoint);
    assert!(!path.exists());
    client.set_read_timeout(Some(LONG)).expect("it is set");
    let ended = client.read(&mut [0]);
    assert!(matches!(ended, Ok(0)) || ended.is_err(), "{ended:?}");
    assert!(UnixStream::connect(address.trim_start_matches("unix://")).is_err());
    // The other tests have theirs only for a while.
    wait_until("its thread ends", || threads("yue admin") == 0);
}

#[test]
fn a_second_endpoint_in_the_same_folder_is_refused() {
    let (endpoint, place) = open();
    let options = Options {
        folder: Some(place.path().join("yue")),
        ..Options::default()
    };
    let refused = listen(options.clone()).expect_err("it is there");
    assert!(
        refused.to_string().contains("cannot listen at unix://"),
        "{refused}"
    );
    assert!(endpoint.path().exists());
    drop(endpoint);
    listen(options).expect("now it is free");
}

/// A name of Prometheus' text format, of a metric or of a label.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Parses `name="value",…}` and returns the labels and what follows.
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    loop {
        let (name, rest) = text.split_once("=\"")?;
        assert!(is_name(name), "{name:?} is no name of a label");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next()? {
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    other => panic!("\\{other} is no escape"),
                },
                (at, '"') => break at,
                (_, c) => value.push(c),
            }
        };
        found.push((name.to_owned(), value));
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => text = more,
            None => return Some((found, rest.strip_prefix('}')?)),
        }
    }
}

/// One line `name{labels} value`.
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

fn sample(line: &str) -> Option<Sample> {
    let at = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(at);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: rest.strip_prefix(' ')?.parse().ok()?,
    })
}

/// Checks the rules of <https://prometheus.io/docs/instrumenting/exposition_formats/>, and of good names.
fn check_format(text: &str) -> HashMap<String, String> {
    assert!(text.ends_with('\n'));
    let (mut kinds, mut helps) = (HashMap::new(), HashSet::new());
    let (mut series, mut current) = (HashSet::new(), String::new());
    let mut bucket = (String::new(), 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a help");
            assert!(is_name(name) && help.ends_with('.'), "{line}");
            assert!(helps.insert(name.to_owned()), "{name} has two helps");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(name, current, "the type follows the help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let one = sample(line).unwrap_or_else(|| panic!("{line:?} is no sample"));
            let kind = kinds.get(&current).map_or("none", String::as_str);
            let own = match kind {
                "histogram" => ["_bucket", "_sum", "_count"]
                    .map(|ending| format!("{current}{ending}"))
                    .contains(&one.name),
                _ => one.name == current,
            };
            assert!(own, "{line} stands below {current}");
            assert!(one.value >= 0.0 && one.value.is_finite(), "{line}");
            let key = line.rsplit_once(' ').map(|(key, _)| key.to_owned());
            assert!(series.insert(key), "{line} is there twice");
            if one.name.ends_with("_bucket") {
                let others: Vec<_> = one.labels.iter().filter(|(name, _)| name != "le").collect();
                let key = format!("{} {others:?}", one.name);
                assert!(bucket.0 != key || one.value >= bucket.1, "{line} falls");
                bucket = (key, one.value);
            }
        }
    }
    kinds
}

#[test]
fn the_metrics_are_well_formed() {
    yue::inspect::add_metrics(|text| {
        text.push_str("# HELP test_odd Labels that need escapes.\n# TYPE test_odd gauge\n");
        text.push_str("test_odd{name=\"a \\\"b\\\" \\\\ \\n\"} 1\n");
    });
    let (endpoint, _place) = open();
    let odd = std::thread::Builder::new().name("a \"b\" \\ c\nd".to_owned());
    let thread = odd.spawn(move || {
        let text = with_client(&endpoint, |client| call(client, "metrics", Value::Null));
        text.as_str().expect("a text").to_owned()
    });
    let text = thread.expect("a thread").join().expect("no panic");
    let kinds = check_format(&text);
    for (name, kind) in [
        ("yue_info", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("yue_fibers", "gauge"),
        ("yue_loop_cpu_seconds_total", "counter"),
        ("yue_tick_seconds", "histogram"),
        ("yue_rpc_call_timeouts_total", "counter"),
        ("yue_rpc_call_errors_total", "counter"),
        ("yue_rpc_listeners", "gauge"),
        ("yue_rpc_sessions", "gauge"),
    ] {
        assert_eq!(kinds.get(name).map(String::as_str), Some(kind), "{name}");
    }
    let lines = text
        .lines()
        .filter(|line| line.starts_with("yue_loop_info{"));
    let mut threads = lines.filter_map(|line| sample(line)?.labels.into_iter().nth(2));
    assert!(threads.any(|(_, name)| name == "a \"b\" \\ c\nd"), "{text}");
}

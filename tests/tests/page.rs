//! The page of a running program: who may see it, and that its own requests work.

mod common;

use common::{Program, Running, wait_until, yue};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

/// A program with a page.
struct Page {
    _running: Running,
    _place: tempfile::TempDir,
    _program: Program,
    port: u16,
    key: String,
}

const PROGRAM: &str = "local yue = require 'yue'
    local listener = yue.listen('tcp://127.0.0.1:0', {
      add = function(a, b) return a + b end,
      fail = function() error 'on purpose' end,
      odd = function() return '\\255\\0', { f = print, n = 0/0, big = 2^53 } end,
    })
    yue.sleep(1000)";

impl Page {
    fn start(name: &str, text: &str) -> Page {
        let (place, program) = (tempfile::tempdir().unwrap(), Program::new(name, text));
        let log = place.path().join("stderr");
        let mut command = yue();
        command
            .env("XDG_RUNTIME_DIR", place.path())
            .env_remove("YUE_ADMIN")
            .arg("--page")
            .arg(program.name());
        let stderr = Stdio::from(File::create(&log).unwrap());
        let running = Running::start_with_stderr(&mut command, stderr);
        let mut text = String::new();
        wait_until("the page's address", || {
            text = std::fs::read_to_string(&log).unwrap();
            text.contains("key=") && text.ends_with('\n')
        });
        let url = text.split("http://127.0.0.1:").nth(1).unwrap();
        let (port, key) = url.trim().split_once("/_yue?key=").unwrap();
        Page {
            _running: running,
            _place: place,
            _program: program,
            port: port.parse().unwrap(),
            key: key.to_owned(),
        }
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends a request, with these lines of headers; returns the whole answer.
    fn ask(&self, line: &str, headers: &[String], body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut text = format!(
            "{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for header in headers {
            text += &format!("{header}\r\n");
        }
        write!(stream, "{text}\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str, headers: &[String]) -> String {
        let headers = [&[format!("Host: {}", self.host())], headers].concat();
        self.ask(&format!("GET {path}"), &headers, "")
    }

    /// Exchanges the key for a cookie.
    fn cookie(&self) -> String {
        let answer = self.get(&format!("/_yue?key={}", self.key), &[]);
        assert!(answer.starts_with("HTTP/1.1 303 "), "{answer}");
        assert_eq!(header(&answer, "location"), Some("/_yue"), "{answer}");
        let cookie = header(&answer, "set-cookie").unwrap();
        assert!(
            cookie.ends_with("; Path=/_yue; HttpOnly; SameSite=Strict"),
            "{cookie}"
        );
        format!("Cookie: {}", cookie.split(';').next().unwrap())
    }

    /// The token in the page.
    fn token(&self, cookie: &str) -> String {
        let answer = self.get("/_yue", &[cookie.to_owned()]);
        let token = answer.split("name=\"token\" content=\"").nth(1).unwrap();
        format!("X-Yue-Token: {}", token.split('"').next().unwrap())
    }

    fn post(&self, path: &str, headers: &[String], body: &str) -> String {
        let headers = [&[format!("Host: {}", self.host())], headers].concat();
        self.ask(&format!("POST {path}"), &headers, body)
    }

    /// Waits for a state that fits: the page is there before the program's first line has run.
    fn state_that(
        &self,
        cookie: &str,
        fits: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let mut state = serde_json::Value::Null;
        wait_until("the state", || {
            state = json(&self.get("/_yue/api/state", &[cookie.to_owned()]));
            fits(&state)
        });
        state
    }

    /// The address of the program's listener.
    fn listener(&self, cookie: &str) -> String {
        let listens =
            |state: &serde_json::Value| state["listeners"]["listeners"][0]["accepting"] == true;
        let state = self.state_that(cookie, listens);
        let address = state["listeners"]["listeners"][0]["address"].as_str();
        address.unwrap().to_owned()
    }

    fn origin(&self) -> String {
        format!("Origin: http://{}", self.host())
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn json(answer: &str) -> serde_json::Value {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[track_caller]
fn refused(answer: &str, text: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(
        header(answer, "content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(header(answer, "set-cookie").is_none(), "{answer}");
    assert!(answer.contains(text), "{answer}");
}

#[test]
fn strangers_see_nothing() {
    let page = Page::start("page-strangers", PROGRAM);
    for path in [
        "/_yue",
        "/_yue/",
        "/_yue/page.js",
        "/_yue/page.css",
        "/_yue/api/state",
        "/_yue/api/call",
        "/_yue/x",
    ] {
        refused(&page.get(path, &[]), "This page needs its key");
    }
    for key in [
        "",
        "0",
        &"0".repeat(32),
        &page.key[..31],
        &format!("{}0", page.key),
    ] {
        refused(
            &page.get(&format!("/_yue?key={key}"), &[]),
            "not the key of this program",
        );
    }
    assert!(page.get("/", &[]).starts_with("HTTP/1.1 404 "));
    assert!(page.get("/_yuex", &[]).starts_with("HTTP/1.1 404 "));
    let cookie = page.cookie();
    let wrong = format!("{}0", &cookie[..cookie.len() - 1]);
    let other = if wrong == cookie {
        format!("{}1", &cookie[..cookie.len() - 1])
    } else {
        wrong
    };
    refused(&page.get("/_yue", &[other]), "This page needs its key");
    assert!(
        page.get("/_yue", std::slice::from_ref(&cookie))
            .starts_with("HTTP/1.1 200 ")
    );
    let unknown = page.get("/_yue/x", &[cookie]);
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
}

#[test]
fn another_host_or_origin_is_refused_even_with_the_key() {
    let page = Page::start("page-rebinding", PROGRAM);
    let (cookie, port) = (page.cookie(), page.port);
    for host in [
        format!("evil.example:{port}"),
        "evil.example".to_owned(),
        format!("127.0.0.1:{}", port ^ 1),
        "localhost".to_owned(),
    ] {
        let headers = [format!("Host: {host}"), cookie.clone()];
        refused(
            &page.ask("GET /_yue", &headers, ""),
            "not known to be this server's",
        );
        let line = format!("GET /_yue?key={}", page.key);
        refused(
            &page.ask(&line, &headers[..1], ""),
            "not known to be this server's",
        );
    }
    let two = [
        format!("Host: {}", page.host()),
        format!("Host: evil.example:{port}"),
        cookie.clone(),
    ];
    assert!(page.ask("GET /_yue", &two, "").starts_with("HTTP/1.1 400 "));
    for origin in [
        "http://evil.example",
        "null",
        &format!("http://localhost:{port}"),
        &format!("https://127.0.0.1:{port}"),
    ] {
        let headers = [cookie.clone(), format!("Origin: {origin}")];
        refused(
            &page.get("/_yue/api/state", &headers),
            "Another page made this request",
        );
    }
    let by_name = [
        format!("Host: localhost:{port}"),
        format!("Origin: http://localhost:{port}"),
        cookie,
    ];
    assert!(
        page.ask("GET /_yue", &by_name, "")
            .starts_with("HTTP/1.1 200 ")
    );
}

#[test]
fn a_call_needs_the_origin_and_the_token_of_the_same_cookie() {
    let page = Page::start("page-token", PROGRAM);
    let (cookie, origin) = (page.cookie(), page.origin());
    let token = page.token(&cookie);
    let address = page.listener(&cookie);
    let body = format!(r#"{{"address":"{address}","method":"add","args":[1,2]}}"#);
    let call = |headers: &[&str]| {
        let headers: Vec<String> = headers.iter().map(|one| (*one).to_owned()).collect();
        page.post("/_yue/api/call", &headers, &body)
    };
    refused(&call(&[&cookie, &origin]), "no valid token");
    refused(
        &call(&[&cookie, &origin, "X-Yue-Token: 0"]),
        "no valid token",
    );
    refused(&call(&[&cookie, &token]), "Another page made this request");
    refused(
        &call(&[&cookie, &token, "Origin: http://evil.example"]),
        "Another page made this request",
    );
    refused(&call(&[&origin, &token]), "This page needs its key");
    let other = page.cookie();
    refused(&call(&[&other, &origin, &token]), "no valid token");
    assert_eq!(json(&call(&[&cookie, &origin, &token]))["text"], "3");
    let get = page.get("/_yue/api/call", std::slice::from_ref(&cookie));
    assert!(get.starts_with("HTTP/1.1 405 "), "{get}");
}

#[test]
fn the_cookie_of_another_process_opens_nothing() {
    let (one, other) = (
        Page::start("page-one", PROGRAM),
        Page::start("page-other", PROGRAM),
    );
    let cookie = one.cookie();
    refused(
        &other.get("/_yue", std::slice::from_ref(&cookie)),
        "This page needs its key",
    );
    // Nor under the name that the other process gives its own.
    let renamed = cookie.replace(&one.port.to_string(), &other.port.to_string());
    refused(&other.get("/_yue", &[renamed]), "This page needs its key");
    refused(
        &other.get(&format!("/_yue?key={}", one.key), &[]),
        "not the key of this program",
    );
}

#[test]
fn each_answer_forbids_scripts_of_others_frames_and_caches() {
    let page = Page::start("page-headers", PROGRAM);
    let cookie = page.cookie();
    for (path, kind) in [
        ("/_yue", "text/html; charset=utf-8"),
        ("/_yue/page.css", "text/css; charset=utf-8"),
        ("/_yue/page.js", "text/javascript; charset=utf-8"),
        ("/_yue/api/state", "application/json"),
    ] {
        let answer = page.get(path, std::slice::from_ref(&cookie));
        assert_eq!(header(&answer, "content-type"), Some(kind), "{path}");
        let policy = header(&answer, "content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self';",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&answer, "cache-control"), Some("no-store"));
        assert_eq!(header(&answer, "x-frame-options"), Some("DENY"));
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"));
        assert!(!answer.contains(&page.key), "{path}");
    }
}

#[test]
fn the_page_lists_functions_and_calls_them() {
    let page = Page::start("page-calls", PROGRAM);
    let (cookie, origin) = (page.cookie(), page.origin());
    let headers = [cookie.clone(), origin, page.token(&cookie)];
    let address = page.listener(&cookie);
    let state = json(&page.get("/_yue/api/state", std::slice::from_ref(&cookie)));
    assert_eq!(state["info"]["loops"], 1);
    assert_eq!(state["graph"]["cycles"].as_array().map(Vec::len), Some(0));
    let post = |path: &str, body: String| page.post(path, &headers, &body);
    let functions = json(&post(
        "/_yue/api/describe",
        format!(r#"{{"address":"{address}"}}"#),
    ));
    assert_eq!(functions["functions"][0]["name"], "add");
    assert_eq!(functions["functions"][0]["params"][1], "b");
    let failed = json(&post(
        "/_yue/api/call",
        format!(r#"{{"address":"{address}","method":"fail","args":[]}}"#),
    ));
    assert!(
        failed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("on purpose"),
        "{failed}"
    );
    // Values that JSON lacks are shown as `yue call` shows them.
    let odd = json(&post(
        "/_yue/api/call",
        format!(r#"{{"address":"{address}","method":"odd","args":[]}}"#),
    ));
    let shown = odd["text"].as_str().unwrap_or_else(|| panic!("{odd}"));
    for part in [
        r#"{"$base64": "/wA="}"#,
        r#""f": {"$function": "#,
        r#""n": {"$number": "nan"}"#,
        r#""big": 9007199254740992"#,
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    let missing = json(&post(
        "/_yue/api/call",
        format!(r#"{{"address":"{address}","method":"nothing","args":[]}}"#),
    ));
    assert_eq!(missing["error"]["type"], "NoMethodError", "{missing}");
    // Only the program's own listeners are called.
    let elsewhere = post(
        "/_yue/api/call",
        r#"{"address":"tcp://127.0.0.1:1","method":"add","args":[]}"#.to_owned(),
    );
    assert!(elsewhere.starts_with("HTTP/1.1 404 "), "{elsewhere}");
    for body in ["", "{", "[]", r#"{"address":1}"#] {
        let answer = post("/_yue/api/call", body.to_owned());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let long = post("/_yue/api/call", " ".repeat((1 << 20) + 1));
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    let after = json(&page.get("/_yue/api/state", std::slice::from_ref(&cookie)));
    assert!(
        after["counters"]["requests"].as_f64().unwrap() >= 2.0,
        "{after}"
    );
}

#[test]
fn an_http_server_is_listed_by_its_own_address() {
    let program = "local yue = require 'yue'
        yue.http.serve('tcp://127.0.0.1:0', { ['GET /'] = function() return 200, 'hello' end })";
    let page = Page::start("page-http", program);
    let cookie = page.cookie();
    let address = page.listener(&cookie);
    assert!(address.starts_with("http://127.0.0.1:"), "{address}");
}

#[test]
fn connections_without_a_request_make_room_soon() {
    let page = Page::start("page-silent", PROGRAM);
    let connect = |_| TcpStream::connect(("127.0.0.1", page.port)).unwrap();
    // More than the page's port serves at a time.
    let mut silent: Vec<TcpStream> = (0..80).map(connect).collect();
    for (number, stream) in silent.iter_mut().enumerate() {
        // Some begin a request that never ends.
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /_yue HTTP/1.1\r\n");
        }
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
    }
    for mut stream in silent {
        match stream.read_to_end(&mut Vec::new()) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("a silent connection stays: {error}")
            }
            _ => {}
        }
    }
    page.cookie();
}

#[test]
fn the_page_works_while_the_loop_is_held() {
    let page = Page::start("page-held", "while true do end");
    let state = page.state_that(&page.cookie(), |state| {
        state["loops"][0]["answers"] == false
    });
    assert_eq!(state["info"]["loops"], 1);
}

#[test]
fn a_bad_address_is_wrong_usage() {
    let outcome = common::run(yue().args(["--page=nowhere", "-e", ""]));
    outcome.fails(2, &["--page", "127.0.0.1:8081"]);
    let outcome = common::run(yue().env("YUE_PAGE", "nowhere").args(["-e", ""]));
    outcome.fails(2, &["YUE_PAGE"]);
    common::run(yue().args(["--page", "--no-admin", "-e", ""])).fails(2, &["--no-admin"]);
}

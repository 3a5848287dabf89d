//! `yue agent` and `yue key`: nodes of owners that show a key. Everything is on this machine's loopback; each test has
//! agents, owners and homes of its own.

mod common;

use common::agents::{Agent, Home, YUE, assert_has, assert_well, eventually};
use common::{drivers, run_to_end};
use yue::nalloc::agent::PublicKey;

#[test]
fn calls_and_callbacks_travel_through_an_agent() {
    for driver in drivers() {
        let owner = Home::new();
        let agent = Agent::known(&driver, &owner, &[]);
        let ended = owner.owner(
            &driver,
            &agent.place,
            "
            local lines = {}
            local kvs = yue.nalloc(target, 'kvs.lua', {
              symbols = { double = function(n) return n * 2 end }, env = { YUE_TEST = 'set' },
              output = function(line) lines[#lines + 1] = line end,
            })
            local large = ('x'):rep(3000000)
            assert(kvs.put('large', large) == #large)
            assert(kvs.get('large') == large)
            assert(kvs.ask(21) == 42)
            assert(kvs.variable('YUE_TEST') == 'set')
            local all = {}
            for i = 1, 100 do all[i] = yue.spawn(function() return kvs.ask(i) end) end
            for i = 1, 100 do assert(select(2, all[i]:sync()) == 2 * i) end
            kvs.say('hello from the node')
            local node = yue.conn(kvs).node
            assert(node.target == target and node.pid > 0)
            while #lines == 0 do yue.sleep(0.01) end
            say(lines[1])
            yue.conn(kvs):close()
            local ok, e = pcall(kvs.get, 'large')
            assert(not ok)
            say(e.type)
            ",
        );
        assert_well(&ended);
        assert_eq!(ended.stdout, "hello from the node\nConnectionLostError\n");
        eventually("the node ends", || agent.nodes() == 0);
        eventually("the log has its end", || {
            agent.log().contains("node 1 (kvs.lua) ended with status 0")
        });
        assert_has(&agent.log(), "node 1 for a test at 127.0.0.1");
    }
}

#[test]
fn an_error_in_the_library_is_the_owners_error() {
    let owner = Home::new();
    let agent = Agent::known("mio", &owner, &[]);
    std::fs::write(owner.path().join("bad.lua"), "error('no good')").expect("a file");
    let code = "local ok, e = pcall(yue.nalloc, target, 'bad.lua') say(e.msg)";
    let ended = owner.owner("mio", &agent.place, code);
    assert_well(&ended);
    assert_has(&ended.stdout, "bad.lua:1: no good");
    eventually("the node ends", || agent.nodes() == 0);
}

#[test]
fn an_owner_that_is_not_authorized_gets_no_node() {
    let (owner, stranger) = (Home::new(), Home::new());
    let agent = Agent::known("mio", &owner, &[]);
    assert_well(&stranger.run(&["key", "trust", &agent.place]));
    let code = "local ok, e = pcall(yue.nalloc, target, 'kvs.lua') say(e.type, e.msg)";
    let ended = stranger.owner("mio", &agent.place, code);
    assert_well(&ended);
    let key = stranger.key();
    assert_has(&ended.stdout, "AllocationError");
    assert_has(
        &ended.stdout,
        &format!("does not serve the owner with the key {key}"),
    );
    assert_has(
        &agent.log(),
        &format!("the key {key} is not in authorized_owners"),
    );
    assert_eq!(agent.nodes(), 0);
    // The file is read anew.
    agent.home.authorize(&key);
    assert_well(&stranger.owner("mio", &agent.place, "yue.nalloc(target, 'kvs.lua')"));
}

#[test]
fn an_agent_that_is_not_trusted_gets_nothing() {
    let owner = Home::new();
    let agent = Agent::start("mio", &owner, &[]);
    let code = "local ok, e = pcall(yue.nalloc, target, 'kvs.lua') say(e.type, e.msg)";
    let unknown = owner.owner("mio", &agent.place, code);
    assert_well(&unknown);
    let line = format!("\n{} {}", agent.place, agent.key);
    assert_has(&unknown.stdout, &line);
    assert_has(&unknown.stdout, "yue key trust");
    // The line that it shows is enough.
    std::fs::write(owner.config().join("known_agents"), line).expect("a file");
    let add = "assert(yue.nalloc(target, 'kvs.lua').put('a', 1) == 1)";
    assert_well(&owner.owner("mio", &agent.place, add));

    let other = Home::new().key();
    let changed = owner.run(&["key", "trust", &agent.place, &other]);
    assert_eq!(changed.code, Some(1));
    assert_has(&changed.stderr, "--replace");
    assert_well(&owner.run(&["key", "trust", "--replace", &agent.place, &other]));
    let wrong = owner.owner("mio", &agent.place, code);
    assert_has(
        &wrong.stdout,
        &format!("its key is {}, and {other} was expected", agent.key),
    );
    let pinned = format!(
        "assert(yue.nalloc({{ address = 'yue://' .. target, key = '{}' }}, 'kvs.lua').put('a', 1) == 1)",
        agent.key
    );
    assert_well(&owner.owner("mio", &agent.place, &pinned));
    // Nothing that is secret was printed anywhere.
    let secret = std::fs::read_to_string(owner.config().join("key")).expect("a key");
    for text in [
        &unknown.stdout,
        &unknown.stderr,
        &wrong.stdout,
        &wrong.stderr,
        &agent.log(),
    ] {
        assert!(!text.contains(secret.trim()), "{text}");
    }
}

#[test]
fn a_key_in_an_address_is_refused_and_not_repeated() {
    let owner = Home::new();
    for target in ["yue://SECRET@10.0.0.1", "SECRET@10.0.0.1"] {
        let code = "
            local _, e = pcall(yue.nalloc, target, 'kvs.lua') say(e.msg)
            local _, e = pcall(yue.nalloc, { address = target }, 'kvs.lua') say(e.msg)";
        let ended = owner.owner("mio", target, code);
        assert_well(&ended);
        assert_has(&ended.stdout, "an agent's address has no key");
        assert!(!ended.stdout.contains("SECRET"), "{}", ended.stdout);
    }
}

#[test]
fn a_request_that_does_not_fit_is_refused_with_what_is_free_or_waits() {
    for driver in drivers() {
        let owner = Home::new();
        let agent = Agent::known(
            &driver,
            &owner,
            &["--cpu", "8", "--memory", "16G", "--nodes", "3"],
        );
        let ended = owner.owner(
            &driver,
            &agent.place,
            "
            local first = yue.nalloc(target, 'kvs.lua', { cpu = 6.5, memory = '14G' })
            local function try(options)
              local ok, e = pcall(yue.nalloc, target, 'kvs.lua', options)
              assert(not ok)
              say(e.type, (e.msg:gsub('\\n.*', '')))
            end
            try { cpu = 4 }
            try { memory = '3G', wait = 0.05 }
            try { cpu = 9, wait = 1000 }
            local waiting = yue.spawn(function() return yue.nalloc(target, 'kvs.lua', { cpu = 4, wait = 50 }) end)
            yue.sleep(0.2)
            assert(not waiting:done())
            yue.conn(first):close()
            local _, second = waiting:sync()
            assert(second.put('a', 12) == 2)
            local third = yue.nalloc(target, 'kvs.lua')
            local fourth = yue.nalloc(target, 'kvs.lua')
            try {}
            ",
        );
        assert_well(&ended);
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let free = "has 1.5 of 8 cores, 2 GiB of 16 GiB free";
        let expected = [
            format!("ServerBusyError\t127.0.0.1 {free}; 4 cores were asked for"),
            format!("ServerBusyError\t127.0.0.1 {free}; 3 GiB was asked for"),
            format!("ServerBusyError\t127.0.0.1 {free}; 9 cores were asked for"),
            "ServerBusyError\t127.0.0.1 runs 3 of 3 nodes".to_owned(),
        ];
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_socket_serves_programs_of_its_user_without_keys() {
    for driver in drivers() {
        let owner = Home::new();
        let socket = owner.path().join("agent.socket");
        let shown = socket.display().to_string();
        let agent = Agent::start_in(Home::new(), &driver, &["--socket", &shown]);
        assert_eq!(agent.place, format!("unix://{shown}"));
        let ended = owner.owner(
            &driver,
            &agent.place,
            "
            local kvs = yue.nalloc(target, 'kvs.lua', { symbols = { double = function(n) return n * 2 end } })
            assert(kvs.ask(21) == 42)
            local large = ('x'):rep(3000000)
            assert(kvs.put('large', large) == #large and kvs.get('large') == large)
            say 'done'
            ",
        );
        assert_well(&ended);
        assert_eq!(ended.stdout, "done\n");
        eventually("the node ends", || agent.nodes() == 0);
        assert!(!owner.path().join("yue/key").exists(), "no key was needed");
        agent.signal(libc::SIGTERM);
        eventually("the socket is removed", || !socket.exists());
    }
}

#[test]
fn an_owner_of_another_version_sends_its_program_once() {
    for driver in drivers() {
        let owner = Home::new();
        let agent = Agent::known(&driver, &owner, &[]);
        let other = owner.path().join("other-yue");
        let mut bytes = std::fs::read(YUE).expect("yue");
        bytes.extend_from_slice(b"another version");
        std::fs::write(&other, bytes).expect("a copy");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&other, executable).expect("a mode");
        let code = "
            local kvs = yue.nalloc(target, 'kvs.lua', { timeout = 100 })
            local exe = '/proc/' .. yue.conn(kvs).node.pid .. '/exe'
            say(kvs.put('a', 'four'), yue.process.run({ 'readlink', exe }).out)";
        for _ in 0..2 {
            let ended = run_to_end(owner.owner_command(
                &other.display().to_string(),
                &driver,
                &agent.place,
                code,
            ));
            assert_well(&ended);
            let cache = agent.home.path().join("cache/yue/bin");
            assert_has(&ended.stdout, &format!("4\t{}/", cache.display()));
            let names: Vec<_> = std::fs::read_dir(cache)
                .expect("a folder")
                .flatten()
                .collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
        let log = agent.log();
        assert_eq!(log.matches("got the program").count(), 1, "{log}");
    }
}

#[test]
fn an_agent_listens_on_no_network_without_an_authorized_owner() {
    let home = Home::new();
    let ended = home.run(&["agent", "--listen", "127.0.0.1:0"]);
    assert_eq!(ended.code, Some(1));
    assert_has(&ended.stderr, "no owner is authorized");
    assert_has(&ended.stderr, "authorized_owners");
}

#[test]
fn nodes_may_run_as_somebody_else() {
    // SAFETY: a plain query.
    let is_root = unsafe { libc::geteuid() } == 0;
    let owner = Home::new();
    if !is_root {
        let ended = owner.run(&["agent", "--user", "nobody", "--socket", "s"]);
        assert_eq!(ended.code, Some(1));
        assert_has(&ended.stderr, "--user needs an agent that runs as root");
        return;
    }
    let ended = owner.run(&["agent", "--user", "no-such-user", "--socket", "s"]);
    assert_eq!(ended.code, Some(1));
    assert_has(&ended.stderr, "there is no user 'no-such-user'");
    let agent = Agent::known("mio", &owner, &["--user", "nobody"]);
    let code = "io.write(yue.nalloc(target, 'kvs.lua').user())";
    let ended = owner.owner("mio", &agent.place, code);
    assert_well(&ended);
    assert_eq!(ended.stdout, "nobody\n");
    eventually("the node ends", || agent.nodes() == 0);
}

#[test]
fn help_is_readable_and_wrong_usage_is_explained() {
    let home = Home::new();
    for words in [
        &["agent", "--help"][..],
        &["key", "--help"],
        &["key", "trust", "--help"],
    ] {
        let ended = home.run(words);
        assert_well(&ended);
        let longest = ended.stdout.lines().map(|line| line.chars().count()).max();
        assert!(
            longest.is_some_and(|columns| columns <= 80),
            "{}",
            ended.stdout
        );
    }
    for (words, part) in [
        (&["agent", "--cpu", "none"][..], "a number of cores"),
        (&["agent", "--memory", "much"], "a size such as 512M"),
        (&["agent", "--nodes", "0"], "1..=100000"),
        (&["agent", "--listen", "a b"], "an address such as"),
        (&["key", "trust"], "<ADDRESS>"),
        (
            &["key", "trust", "10.0.0.1", "abc"],
            "44 characters of Base64",
        ),
        (&["key", "trust", "k@10.0.0.1"], "has no key and no user"),
    ] {
        let ended = home.run(words);
        assert_eq!(ended.code, Some(2), "{words:?}");
        assert_has(&ended.stderr, part);
    }
    let key = home.run(&["agent", "--key"]);
    assert_well(&key);
    assert!(
        key.stdout.trim().parse::<PublicKey>().is_ok(),
        "{}",
        key.stdout
    );
}

//! `yue.nalloc` in containers: a real dockerd with its own data, and podman. Skipped, with the reason, where they
//! cannot run. No image is fetched: `docker import` makes them of files of this machine.

mod common;

use common::drivers;
use common::nodes::{
    assert_none_left, is_root, kill, library, processes_with, program, runs_servers, wait_until,
    yue,
};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of times that an owner is killed, at different moments. `YUE_KILLS` sets another one.
const KILLS: u32 = 4;

/// Something that runs containers, with two images: `fits`, which has this machine's libraries, and `empty`.
struct Engine {
    folder: tempfile::TempDir,
    program: &'static str,
    /// Words before the subcommand.
    options: Vec<String>,
    /// The field `arguments` of targets.
    arguments: &'static str,
    server: Option<Child>,
}

impl Engine {
    /// A dockerd of the test's own; `None`, said, if this machine cannot run it.
    fn docker() -> Option<Engine> {
        if !runs_servers() {
            eprintln!("skipped: dockerd is started by ci/nodes");
            return None;
        }
        if !is_root() || program("dockerd").is_none() || program("docker").is_none() {
            eprintln!("skipped: dockerd needs root and docker.io");
            return None;
        }
        // The paths of its sockets must be short.
        let folder = tempfile::Builder::new().prefix("yd").tempdir_in("/tmp");
        let folder = folder.expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let log = fs::File::create(path("log")).expect("a file");
        let dockerd = Command::new(program("dockerd").expect("it is there"))
            .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
            .args([
                "--host",
                &format!("unix://{}", path("s")),
                "--pidfile",
                &path("pid"),
            ])
            .args(["--iptables=false", "--bridge=none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        let mut engine = Engine {
            program: "docker",
            options: vec!["--host".to_owned(), format!("unix://{}", path("s"))],
            arguments: "'--network', 'none'",
            server: Some(dockerd.expect("it is a program")),
            folder,
        };
        let is_ready = wait_until(|| {
            let ended = engine
                .server
                .as_mut()
                .is_some_and(|it| !matches!(it.try_wait(), Ok(None)));
            ended || engine.command(&["version"]).is_some()
        });
        if !is_ready || engine.command(&["version"]).is_none() {
            let log = fs::read_to_string(engine.folder.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(3).collect();
            eprintln!("skipped: dockerd does not run here: {last:#?}");
            return None;
        }
        engine.make_images().then_some(engine)
    }

    fn podman() -> Option<Engine> {
        if !runs_servers() {
            eprintln!("skipped: podman is run by ci/nodes");
            return None;
        }
        if !is_root() || ["podman", "runc"].iter().any(|it| program(it).is_none()) {
            eprintln!("skipped: podman needs root, podman and runc");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("yp").tempdir_in("/tmp");
        let folder = folder.expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        // The settings of podman for this test are in a file, which a variable names.
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            path("data"),
            path("run")
        );
        fs::write(path("storage.conf"), storage).expect("a file");
        let engine = Engine {
            program: "podman",
            options: Vec::new(),
            arguments: "'--runtime', 'RUNC', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=4096:4096', \
                        '--network', 'none'",
            server: None,
            folder,
        };
        if !engine.make_images() {
            eprintln!("skipped: podman does not run here");
            return None;
        }
        Some(engine)
    }

    /// Runs a subcommand; its output, if it succeeds.
    fn command(&self, words: &[&str]) -> Option<String> {
        let mut command = Command::new(self.program);
        self.set_variables(&mut command);
        let output = command.args(&self.options).args(words).output().ok()?;
        if !output.status.success() {
            eprintln!(
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    fn set_variables(&self, command: &mut Command) {
        let path = |name: &str| self.folder.path().join(name);
        command
            .env("DOCKER_HOST", format!("unix://{}", path("s").display()))
            .env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
    }

    fn make_images(&self) -> bool {
        let root = self.folder.path().join("root");
        fs::create_dir_all(root.join("tmp")).expect("a folder");
        if !self.import(&root, "empty") {
            return false;
        }
        for file in libraries() {
            let copy = root.join(file.strip_prefix("/").unwrap_or(&file));
            fs::create_dir_all(copy.parent().expect("it has a folder")).expect("a folder");
            fs::copy(&file, &copy).expect("a library");
        }
        self.import(&root, "fits")
    }

    fn import(&self, root: &Path, name: &str) -> bool {
        let tar = self.folder.path().join(format!("{name}.tar"));
        let tar = tar.display().to_string();
        let packed = Command::new("tar")
            .args(["-cf", &tar, "-C"])
            .arg(root)
            .arg(".")
            .status();
        assert!(packed.is_ok_and(|status| status.success()));
        self.command(&["import", &tar, &format!("yue-test-{name}:1")])
            .is_some()
    }

    fn target(&self, image: &str) -> String {
        let runc = program("runc").unwrap_or_default().display().to_string();
        format!(
            "{{ address = '{}://yue-test-{image}:1', arguments = {{ {} }} }}",
            self.program,
            self.arguments.replace("RUNC", &runc)
        )
    }

    fn yue(&self, code: &str) -> Command {
        let mut command = yue(&drivers()[0], self.folder.path(), code);
        self.set_variables(&mut command);
        command
    }

    #[track_caller]
    fn run(&self, code: &str) -> String {
        let ended = common::run_to_end(&mut self.yue(code));
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn containers(&self) -> Vec<String> {
        let list = self.command(&["ps", "--all", "--format", "{{.Names}} {{.Status}}"]);
        let list = list.expect("it lists containers");
        list.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_no_container(&self, when: &str) {
        let none = wait_until(|| self.containers().is_empty());
        assert!(none, "{when}, these are left: {:?}", self.containers());
    }

    fn library(&self) -> String {
        library(self.folder.path())
    }

    /// Starts an owner that calls its node forever.
    fn owner(&self) -> Child {
        let code = format!(
            "local k = yue.nalloc({}, '{}', {{ timeout = 60, output = false, lease = 3 }})\n\
             print(k.ping())\nio.stdout:flush()\nwhile true do k.ping() yue.sleep(0.01) end\n",
            self.target("fits"),
            self.library(),
        );
        let mut command = self.yue(&code);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("yue runs")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            for name in self.command(&["ps", "-aq"]).unwrap_or_default().lines() {
                let _ = self.command(&["rm", "-f", name]);
            }
            // SAFETY: no memory is passed.
            unsafe { libc::kill(server.id().cast_signed(), libc::SIGTERM) };
            let _ = server.wait();
        } else {
            let _ = self.command(&["rmi", "--force", "--all"]);
        }
        // Layers are mounted no more.
        let _ = fs::remove_dir_all(self.folder.path());
    }
}

/// The libraries of the command under test, and its loader.
fn libraries() -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(env!("CARGO_BIN_EXE_yue")).output();
    let listed = listed.expect("there is ldd");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("it is a pipe");
    let _ = BufReader::new(stdout).read_line(&mut line);
    line.trim().to_owned()
}

fn nodes_run_in_any_image(engine: &Engine) {
    let library = engine.library();
    let code = |image: &str| {
        format!(
            "for i = 1, 2 do
              local k = yue.nalloc({}, '{library}',
                {{ timeout = 60, directory = '/tmp', env = {{ FOO = 'a b' }}, memory = '300M', cpu = 1.5 }})
              print(k.ping(), k.variable('FOO'), (k.line()))
              yue.conn(k):close()
            end",
            engine.target(image)
        )
    };
    let fits = engine.run(&code("fits"));
    assert_eq!(
        fits.matches("pong\ta b\t/.yue/yue node --greeting ")
            .count(),
        2,
        "{fits}"
    );
    let empty = engine.run(&code("empty"));
    let loader = "pong\ta b\t/.yue/ld.so --library-path /.yue/ /.yue/yue node --greeting ";
    assert_eq!(empty.matches(loader).count(), 2, "{empty}");
    engine.assert_no_container("after nodes that were closed");
}

fn limits_are_those_of_the_container(engine: &Engine) {
    let code = format!(
        "local k = yue.nalloc({}, function()
           function grow() local all = {{}} for i = 1, 1e9 do all[i] = ('x'):rep(2 ^ 20) .. i end end
         end, {{ timeout = 60, memory = '100M', lease = 3 }})
         local ok, e = pcall(k.grow)
         print(ok, e.type, e.msg)",
        engine.target("fits")
    );
    let said = engine.run(&code);
    assert!(said.starts_with("false\tConnectionLostError"), "{said}");
    assert!(
        said.contains("ended with status 137: its memory limit was 100 MiB"),
        "{said}"
    );
    engine.assert_no_container("after a node that needed too much memory");
}

fn an_image_that_is_missing_is_an_error(engine: &Engine) {
    let code = format!(
        "local ok, e = pcall(yue.nalloc, {}, '{}', {{ timeout = 30, output = false }})
         print(ok, e.type, e.msg)",
        engine
            .target("fits")
            .replace("yue-test-fits:1", "localhost/yue-test-missing:1"),
        engine.library()
    );
    let said = engine.run(&code);
    assert!(
        said.contains("AllocationError") && said.contains("the carrier ended with status 125"),
        "{said}"
    );
}

fn kills_leave_nothing(engine: &Engine) {
    let kills = std::env::var("YUE_KILLS").ok();
    let kills = kills.and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let folder = engine.folder.path().display().to_string();
    let since = Instant::now();
    let mut first = engine.owner();
    assert_eq!(first_line(&mut first), "pong");
    let whole = since.elapsed();
    let _ = (first.kill(), first.wait());
    for number in 0..kills {
        let mut child = engine.owner();
        std::thread::sleep(whole * number / kills + Duration::from_millis(5));
        let _ = (child.kill(), child.wait());
        engine.assert_no_container(&format!("after kill {number} of {kills} within {whole:?}"));
    }
    // The client, then the node.
    for text in [" run --interactive ", "/.yue/yue node"] {
        let mut child = engine.owner();
        assert_eq!(first_line(&mut child), "pong");
        let processes = processes_with(text);
        let process = processes.iter().find(|(_, line)| {
            (line.starts_with(engine.program) && line.contains("yue-test-"))
                || line.starts_with("/.yue/yue")
        });
        kill(process.unwrap_or_else(|| panic!("{text}: {processes:?}")).0);
        let ended = child.wait_with_output().expect("it is our child");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("ConnectionLostError"), "{text}: {said}");
        engine.assert_no_container(&format!("after the end of{text}"));
    }
    assert_none_left(&format!("{folder}/owner.lua"), "after all owners");
}

fn all(engine: &Engine) {
    nodes_run_in_any_image(engine);
    limits_are_those_of_the_container(engine);
    an_image_that_is_missing_is_an_error(engine);
    kills_leave_nothing(engine);
}

#[test]
fn docker_runs_nodes_in_any_image_and_keeps_none() {
    if let Some(engine) = Engine::docker() {
        all(&engine);
    }
}

#[test]
fn podman_runs_nodes_in_any_image_and_keeps_none() {
    if let Some(engine) = Engine::podman() {
        all(&engine);
    }
}

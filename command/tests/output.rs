//! Lines that Lua prints arrive, whole and in order, however slow their reader is and whatever it is: a pipe, also a
//! non-blocking one, or a socket. The loop runs on while a line waits.

mod common;

use common::drivers;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lines of each of the two fibers: together some megabytes, more than any buffer on the way holds.
const LINES: usize = 15_000;

/// Two fibers print; a third one counts turns in the time in which nobody reads, and its count is the last line.
const PRINTER: &str = r#"
    local turns, done = 0, false
    yue.spawn(function() while not done do turns = turns + 1 yue.sleep(0.001) end end)
    local printers = {}
    for i, name in ipairs { 'a', 'b' } do
      printers[i] = yue.spawn(function()
        for n = 1, LINES do
          local text = ('x'):rep(n % 200)
          if n % 2 == 0 then print(name, n, text) else io.write(name, '\t', n, '\t', text, '\n') end
        end
      end)
    end
    for _, printer in ipairs(printers) do printer:get() end
    done = true
    print('turns', turns)
    io.write('no end of line')
    EXIT
"#;

/// The two ends of a way for the output, and a name for messages.
fn ways() -> Vec<(&'static str, OwnedFd, OwnedFd)> {
    let pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        (OwnedFd::from(reader), OwnedFd::from(writer))
    };
    let (reader, writer) = pipe();
    let (patient_reader, nonblocking) = pipe();
    // SAFETY: the descriptor is open.
    let set = unsafe { libc::fcntl(nonblocking.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
    let (near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    vec![
        ("pipe", reader, writer),
        ("non-blocking pipe", patient_reader, nonblocking),
        ("non-blocking socket", near.into(), far.into()),
    ]
}

fn check(driver: &str, exits: bool) {
    for (name, reader, writer) in ways() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        let exit = if exits { "os.exit(0)" } else { "" };
        let script = PRINTER
            .replace("LINES", &LINES.to_string())
            .replace("EXIT", exit);
        command.args(["--io", driver, "-e", &script]);
        let mut child = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap();
        // The command's own end stays in `command` otherwise, and the output would not end.
        drop(command);
        std::thread::sleep(Duration::from_millis(300));
        let mut text = String::new();
        std::fs::File::from(reader)
            .read_to_string(&mut text)
            .unwrap();
        assert!(child.wait().unwrap().success());

        let context = format!("{name} on {driver}");
        let mut next = [1, 1];
        let mut turns = None;
        let mut rest = None;
        for line in text.lines() {
            let mut fields = line.split('\t');
            let (word, number) = (fields.next().unwrap(), fields.next());
            match (word, number.and_then(|number| number.parse::<usize>().ok())) {
                ("a" | "b", Some(n)) => {
                    let expected = &mut next[usize::from(word == "b")];
                    assert_eq!(n, *expected, "{context}: {line}");
                    assert_eq!(
                        fields.next().map(str::len),
                        Some(n % 200),
                        "{context}: {line}"
                    );
                    *expected += 1;
                }
                ("turns", Some(n)) => turns = Some(n),
                _ => rest = Some(line.to_owned()),
            }
        }
        assert_eq!(next, [LINES + 1; 2], "{context}");
        assert_eq!(rest.as_deref(), Some("no end of line"), "{context}");
        assert!(
            turns.unwrap() >= 20,
            "{context}: the loop stood still: {turns:?}"
        );
    }
}

#[test]
fn a_slow_reader_gets_every_line_and_stops_no_loop() {
    drivers()
        .into_iter()
        .for_each(|driver| check(&driver, false));
}

#[test]
fn os_exit_writes_what_is_pending() {
    drivers()
        .into_iter()
        .for_each(|driver| check(&driver, true));
}

#[test]
fn a_fiber_that_waits_for_a_reader_can_be_stopped_and_memory_is_bounded() {
    const SCRIPT: &str = r#"
        local text = ('x'):rep(1000)
        local function flood() for i = 1, 300000 do print(text) end end
        for _, write in ipairs { flood, function() while true do io.write(text, '\n') end end } do
          local fiber = yue.spawn(write)
          yue.sleep(0.05)
          fiber:cancel()
          local ok, e = fiber:sync()
          io.stderr:write(tostring(ok), ' ', e.type, '\n')
          ok, e = pcall(yue.timeout, 0.05, write)
          io.stderr:write(tostring(ok), ' ', e.type, '\n')
        end
        local kib = tonumber(yue.fs.read '/proc/self/status':match 'VmHWM:%s*(%d+)')
        io.stderr:write(kib < 150000 and 'little memory' or kib, '\n')
        os.exit(0)"#;
    for driver in drivers() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command
            .args(["--io", &driver, "-e", SCRIPT])
            .stdin(Stdio::null());
        let mut child = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(command);
        let mut stderr = child.stderr.take().unwrap();
        let mut text = String::new();
        // Nothing is read until the script has ended but for its output.
        let mut byte = [0];
        while !text.ends_with("memory\n") && stderr.read(&mut byte).unwrap() == 1 {
            text.push(byte[0].into());
        }
        drop(reader);
        child.wait().unwrap();
        let stopped = "false CancelledError\nfalse TimeoutError\n";
        assert_eq!(
            text,
            format!("{stopped}{stopped}little memory\n"),
            "{driver}"
        );
    }
}

#[test]
fn a_reader_that_has_gone_ends_nothing() {
    for driver in drivers() {
        let (reader, writer) = std::io::pipe().unwrap();
        let script = "local count = 0
            while io.write(('x'):rep(100), '\\n') do count = count + 1 yue.yield() end
            print 'into nowhere'
            local ok, text, number = io.write 'more\\n'
            io.stderr:write(tostring(ok), ' ', text, ' ', number, '\\n')";
        let mut command = Command::new(env!("CARGO_BIN_EXE_yue"));
        command
            .args(["--io", &driver, "-e", script])
            .stdin(Stdio::null());
        let child = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(command);
        drop(reader);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert_eq!(text, "nil broken pipe 32\n", "{driver}");
    }
}

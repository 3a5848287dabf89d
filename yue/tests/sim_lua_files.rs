//! Files of Lua programs on simulated hosts: everything that a program does with files reaches the host's disk.
#![cfg(feature = "lua")]

use std::time::Duration;
use yue::lua::{Chunk, Script};
use yue::sim::{Control, DiskFaults, Report, Sim};
use yue::sleep;

fn script(source: &str) -> Script {
    Script {
        chunks: vec![Chunk::text("=program", source)],
        ..Script::new("program.lua")
    }
}

fn run(source: &str, scenario: impl FnOnce(&Control) + Send + 'static) -> Report {
    let system = Sim::new(1).lua("host", script(source));
    let system = system.file("host", "/etc/greeting", "hello\nworld\n42 7");
    system.run(scenario).unwrap()
}

#[test]
fn the_functions_of_yue_fs_use_the_disk_of_the_host() {
    let source = "
        local fs = yue.fs
        assert(fs.read('/etc/greeting'):sub(1, 5) == 'hello')
        fs.mkdir('/data/deep', { parents = true })
        fs.write('/data/a', 'one')
        fs.append('/data/a', ' two')
        local watch = fs('/data', { 'create', 'remove' })
        local seen = yue.spawn(function() return watch:wait('create') end)
        yue.sleep(0.01)
        fs.rename('/data/a', '/data/b')
        local names, kinds = fs.list('/data', { kinds = true })
        assert(table.concat(names, ' ') == 'b deep' and kinds.deep == 'directory')
        assert(fs.stat('/data/b').size == 7 and not fs.exists('/data/a'))
        local lines = {}
        for line in fs.lines('/etc/greeting') do lines[#lines + 1] = line end
        assert(#lines == 3)
        local temp = fs.temp()
        fs.write(temp .. '/x', 'x')
        assert(select(2, seen:get()) == '/data/b')
        watch:close()
        local ok, e = pcall(fs.read, '/missing')
        assert(not ok and e.code == 'ENOENT')
        fs.remove('/data/deep')
        print('done')
    ";
    let report = run(source, |sim| {
        sleep(Duration::from_secs(10)).unwrap();
        assert_eq!(sim.read_file("host", "/data/b").unwrap(), b"one two");
    });
    assert_eq!(report.output[0].text, "done");
    assert!(!std::path::Path::new("/etc/greeting").exists());
}

#[test]
fn the_functions_of_io_and_os_use_the_disk_of_the_host() {
    let source = "
        local function same(...)
          local count = select('#', ...) / 2
          for i = 1, count do
            local found, wanted = select(i, ...), select(i + count, ...)
            if found ~= wanted then error(i .. ': ' .. tostring(found), 2) end
          end
        end
        local f = assert(io.open('/etc/greeting'))
        same(io.type(f), 'file')
        local a, b, c, d = f:read('*l', '*L', '*n', '*n')
        same(a, b, c, d, 'hello', 'world\\n', 42, 7)
        same(f:read('*l'), nil)
        same(f:read('*a'), '')
        same(f:seek('set', 6), 6)
        same(f:read(3), 'wor')
        same(f:seek(), 9)
        same(f:close(), true)
        same(pcall(f.read, f), false)
        local g = assert(io.open('/new', 'w+'))
        same(g:write('one ', 2, '\\n'), true)
        same(g:seek('set'), 0)
        same(g:read('*l'), 'one 2')
        g:seek('set', 1)
        same(g:read(1), 'n')
        g:write('X')
        g:seek('set')
        same(g:read('*a'), 'onX 2\\n')
        same(g:seek('end'), 6)
        g:close()
        local h = assert(io.open('/new', 'a'))
        h:write('end')
        same(h:read(1), nil)
        h:close()
        local lines = {}
        for line in io.lines('/new') do lines[#lines + 1] = line end
        same(#lines, lines[2], 2, 'end')
        local nothing, text, code = io.open('/missing')
        same(nothing, text, code, nil, '/missing: No such file or directory', 2)
        nothing, text, code = io.open('/etc', 'w')
        same(nothing, text, code, nil, '/etc: Is a directory', 21)
        local folder = io.open('/etc')
        nothing, text, code = folder:read(1)
        same(nothing, code, nil, 21)
        same(pcall(io.lines, '/missing'), false)
        same(os.rename('/new', '/old'), true)
        nothing, text, code = os.rename('/new', '/old')
        same(nothing, text, code, nil, '/new: No such file or directory', 2)
        same(os.remove('/old'), true)
        nothing, text, code = os.remove('/etc')
        same(nothing, code, nil, 39)
        local name = os.tmpname()
        same(io.open(name):read('*a'), '')
        os.remove(name)
        local t = io.tmpfile()
        t:write('temporary')
        t:seek('set')
        same(t:read('*a'), 'temporary')
        io.output('/output')
        io.write('written')
        io.close()
        io.input('/output')
        same(io.read('*a'), 'written')
        same(io.open('/x', 'q') == nil, true)
        print('done')
    ";
    let report = run(source, |sim| {
        sleep(Duration::from_secs(10)).unwrap();
        let files = sim.files("host");
        let paths: Vec<_> = files.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/etc/greeting", "/output"]);
    });
    assert_eq!(report.output[0].text, "done");
}

#[test]
#[cfg(feature = "http")]
fn a_folder_on_the_disk_is_served() {
    let source = "
        yue.fs.mkdir('/www/sub', { parents = true })
        yue.fs.write('/www/index.html', 'the index')
        yue.fs.write('/www/sub/page.txt', 'a page')
        yue.http.serve('tcp://0.0.0.0:80', { ['GET /*'] = yue.http.files('/www') })
        local function get(path)
          local answer = yue.http.get('http://host' .. path)
          return answer.status .. ' ' .. (answer.status == 200 and answer.body or '')
        end
        print(get '/')
        print(get '/sub/page.txt')
        print(get '/sub/none')
    ";
    let report = run(source, |_| sleep(Duration::from_secs(10)).unwrap());
    let lines: Vec<_> = report
        .output
        .iter()
        .map(|line| line.text.as_str())
        .collect();
    assert_eq!(lines, ["200 the index", "200 a page", "404 "]);
}

#[test]
fn faults_and_crashes_reach_a_program() {
    let source = "
        local file = io.open('/log', 'a')
        while true do
          yue.sleep(0.1)
          local ok, text, code = file:write('line\\n')
          if not ok then print(text, code) end
        end
    ";
    let report = run(source, |sim| {
        sleep(Duration::from_secs(1)).unwrap();
        let faults = DiskFaults {
            write: 1.0,
            ..DiskFaults::default()
        };
        sim.set_disk_faults("host", faults);
        sleep(Duration::from_millis(150)).unwrap();
        sim.set_disk_faults("host", DiskFaults::default());
        sim.crash_at_operation("host", 3);
        sleep(Duration::from_secs(1)).unwrap();
        assert!(!sim.is_running("host"));
    });
    let line = &report.output[0].text;
    assert!(line.ends_with("\t5"), "{line}");
}

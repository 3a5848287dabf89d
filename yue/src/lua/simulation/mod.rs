//! The natives of `yue.sim`: the hands of a scenario that is a Lua program.
//!
//! Faults cross as the text that a schedule has for them, so that there is one place that knows their forms.
//!
//! Invariants of `sim.always` see the scenario's own VM alone, which changes only while the scenario's loop runs. So
//! they are checked whenever that loop gives its turn away, outside fibers: then a function that waits is refused.

mod disks;
pub(crate) mod steps;

use crate::lua::host::entries::Entry;
use crate::lua::host::errors::error;
use crate::lua::host::with_host;
use crate::lua::native::{native, register};
use crate::lua::script::{Chunk, Script};
use crate::sim::{Chaos, Control, Schedule, ScheduleError, note};
use std::path::{Path, PathBuf};
use std::time::Duration;
use yue_luajit::{Error, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::{in_fiber, simulation};

/// The hands of the simulation's scenario, if that is a Lua program.
#[derive(Default)]
struct Current(Option<Control>);

/// Gives the scenario its hands, before its program runs.
pub(crate) fn set_control(control: Control) {
    simulation::layer(|current: &mut Current| current.0 = Some(control));
}

/// Adds the end of a scenario to its script: it waits for what is planned, and ends the program.
pub(crate) fn with_end(mut script: Script) -> Script {
    let end = Chunk::text("=[yue]/scenario", "require('yue.sim').finish()");
    script.chunks.push(end);
    script
}

/// Checks what always holds, when the calling thread is that of the scenario, between its fibers.
pub(crate) fn check_invariants() {
    if simulation::host() != 0 || in_fiber() || Entry::CheckInvariants.reference().is_none() {
        return;
    }
    let Ok(host) = with_host(std::rc::Rc::clone) else {
        return;
    };
    let check = |stack: Stack<'_>| {
        // SAFETY: protected; the function raises nothing of its own, and takes and returns nothing.
        unsafe {
            Entry::CheckInvariants.push(stack.raw());
            ffi::lua_call(stack.raw(), 0, 0);
        }
    };
    if let Err(failure) = host.vm.protect(check)
        && let Ok(control) = control()
    {
        control.fail_scenario(failure.to_string());
    }
}

fn control() -> Result<Control, Error> {
    let control = match simulation::is_on() && simulation::host() == 0 {
        true => simulation::layer(|current: &mut Current| current.0.clone()),
        false => None,
    };
    let text = "yue.sim acts in a scenario only: run this file with `yue sim FILE`";
    control.ok_or_else(|| error(ErrorKind::Runtime, text.to_owned()))
}

fn refused(problem: impl ToString) -> Error {
    error(ErrorKind::Argument, problem.to_string())
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the text's items, which zero bytes separate.
fn items(bytes: &[u8]) -> Vec<Vec<u8>> {
    match bytes {
        b"" => Vec::new(),
        bytes => bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
    }
}

/// A file beside the scenario, or one of the current folder.
fn find_file(name: &[u8]) -> PathBuf {
    let name = PathBuf::from(text_of(name));
    let script = with_host(|host| host.program.script.name.clone())
        .ok()
        .flatten();
    let beside = script
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(&name));
    beside.filter(|path| path.exists()).unwrap_or(name)
}

native! {
    /// `sim_host(name, kind, text, arguments, loops, beside)`: adds a host that runs a file, or the source of a
    /// function, on that many loops. `beside` is 1 if the files beside the script are put on its disk.
    AddHost = "sim_host", suspends: false;
    read(stack) -> ([&'a [u8]; 4], [f64; 2]) {
        ([1, 2, 3, 4].map(|index| stack.bytes(index)), [5, 6].map(|index| stack.number(index)))
    }
    run(([name, kind, text, arguments], [loops, beside])) -> () {
        let control = control()?;
        let mut script = match kind == b"file" {
            true => {
                let path = find_file(text);
                if !path.is_file() {
                    return Err(refused(format!("there is no file {}", path.display())));
                }
                Script::new(path)
            }
            false => {
                let scenario = with_host(|host| host.program.script.name.clone())?;
                Script {
                    chunks: vec![Chunk::Function(text.to_vec())],
                    ..Script::new(scenario.unwrap_or_default())
                }
            }
        };
        script.args = items(arguments);
        script.loops = loops as usize;
        let name = text_of(name);
        let file = script.name.clone().unwrap_or_default();
        control.add_program(&name, script).map_err(refused)?;
        if beside != 0.0 {
            let folder = file.parent().unwrap_or(Path::new(""));
            control.add_folder(&name, folder).map_err(refused)?;
        }
        Ok(())
    }
}

native! {
    /// `sim_start(name)`: starts a host that was added.
    Start = "sim_start", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () {
        control()?.start(&text_of(name));
        Ok(())
    }
}

native! {
    /// `sim_fault(text)`: lets the fault begin that the text describes, as a line of a schedule does after its time.
    Fault = "sim_fault", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        let control = control()?;
        let line = format!("0s {}", text_of(text));
        let schedule: Schedule = line.parse().map_err(|failure: ScheduleError| refused(failure.problem))?;
        for one in schedule.faults() {
            control.check(&one.fault).map_err(refused)?;
            control.inject(&one.fault);
        }
        Ok(())
    }
}

native! {
    /// `sim_end(kind, host, other)`: ends what faults of that kind have changed.
    End = "sim_end", suspends: false;
    read(stack) -> [&'a [u8]; 3] { [1, 2, 3].map(|index| stack.bytes(index)) }
    run([kind, host, other]) -> () {
        let control = control()?;
        let (host, other) = (text_of(host), text_of(other));
        for name in [&host, &other].into_iter().filter(|name| !name.is_empty()) {
            control.check_host(name).map_err(refused)?;
        }
        match kind {
            b"partition" => control.heal(&host, &other),
            b"link" => control.reset_link(&host, &other),
            b"freeze" => control.thaw(&host),
            b"freeze-disk" => control.thaw_disk(&host),
            b"disk-full" => control.set_disk_full(&host, false),
            b"crash" if host == "scenario" || control.is_running(&host) => {
                return Err(refused(format!("the host {host} runs; crash it before it restarts")));
            }
            b"crash" => control.restart(&host),
            _ => {}
        }
        Ok(())
    }
}

native! {
    /// `sim_chaos(level, seconds, hosts)`: plans random faults for these hosts, or for all.
    AddChaos = "sim_chaos", suspends: false;
    read(stack) -> (f64, f64, &'a [u8]) { (stack.number(1), stack.number(2), stack.bytes(3)) }
    run((level, seconds, hosts)) -> () {
        let control = control()?;
        let seconds = crate::lua::native::seconds(seconds);
        let mut chaos = Chaos::level(level as u8).within(seconds);
        let hosts: Vec<String> = items(hosts).iter().map(|name| text_of(name)).collect();
        for host in &hosts {
            control.check_host(host).map_err(refused)?;
        }
        if !hosts.is_empty() {
            chaos = chaos.hosts(hosts);
        }
        control.chaos(chaos);
        Ok(())
    }
}

native! {
    /// `sim_schedule(text)`: plans the faults of a schedule.
    PlanFaults = "sim_schedule", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        let control = control()?;
        let schedule: Schedule = text_of(text).parse().map_err(|failure: ScheduleError| refused(failure))?;
        control.schedule(schedule).map_err(refused)
    }
}

native! {
    /// `sim_default_link(text)`: sets the link of hosts that have none of their own, by a line of a schedule.
    DefaultLink = "sim_default_link", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        let control = control()?;
        let line = format!("0s link scenario scenario {}", text_of(text));
        let schedule: Schedule = line.parse().map_err(|failure: ScheduleError| refused(failure.problem))?;
        for one in schedule.faults() {
            if let crate::sim::Fault::Link(.., link) = one.fault {
                control.set_default_link(link);
            }
        }
        Ok(())
    }
}

native! {
    /// `sim_allow(name)`: lets programs make a call out of the simulation.
    Allow = "sim_allow", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () {
        control()?.allow(&text_of(name));
        Ok(())
    }
}

native! {
    /// `sim_may_fail(name)`: the program of the host may fail.
    MayFail = "sim_may_fail", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        control.allow_failure(&name);
        Ok(())
    }
}

native! {
    /// `sim_running(name)`: whether the program of the host runs.
    Running = "sim_running", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> bool {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        Ok(name == "scenario" || control.is_running(&name))
    }
}

native! {
    /// `sim_address(name)`: the address of the host.
    Address = "sim_address", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> Vec<u8> {
        let control = control()?;
        let name = text_of(name);
        control.check_host(&name).map_err(refused)?;
        Ok(control.address(&name).to_string().into_bytes())
    }
}

native! {
    /// `sim_now()`: seconds since the beginning.
    Now = "sim_now", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        let elapsed: Duration = control()?.elapsed();
        Ok(elapsed.as_secs_f64())
    }
}

native! {
    /// `sim_random()`: a number of the seed's sequence, at least 0 and below 1.
    Random = "sim_random", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        // 53 bits: every such number is a double.
        Ok((control()?.random() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

native! {
    /// `sim_note(text)`: writes a line into the trace.
    Note = "sim_note", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        control()?;
        note(text_of(text));
        Ok(())
    }
}

native! {
    /// `sim_broken(name)`: an invariant does not hold.
    Broken = "sim_broken", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () {
        control()?.fail_invariant(&text_of(name));
        Ok(())
    }
}

native! {
    /// `sim_fail(text)`: the scenario has failed.
    Fail = "sim_fail", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> () {
        control()?.fail_scenario(text_of(text));
        Ok(())
    }
}

native! {
    /// `sim_check()`: raises an error outside a scenario.
    Check = "sim_check", suspends: false;
    read(_stack) -> () {}
    run(()) -> () { control().map(drop) }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    disks::register_all(stack);
    register!(stack; Start, PlanFaults, DefaultLink, Address);
    register!(stack; AddHost, Fault, End, AddChaos, Allow, MayFail, Running, Now, Random, Note, Broken, Fail, Check);
}

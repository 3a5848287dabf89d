//! `yue doctor`: the selected I/O driver and the reason, the limits, and other facts about the machine and the program.

use std::fs;
use std::io::Write;
use yue::Choice;
use yue::lua::LuaFacts;
use yue_io::Unavailable;

/// Show which I/O driver this machine gets and why, and its limits.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1: no driver works, or a limit is too low for a small server.")]
pub(crate) struct Arguments {
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// With fewer descriptors, a small server and its clients run out.
const DESCRIPTORS_MIN: u64 = 256;

/// With fewer descriptors, a server of many clients runs out.
const DESCRIPTORS_FEW: u64 = 4096;

struct Line {
    name: &'static str,
    /// For people.
    value: String,
    /// For programs: numbers are numbers, memory is in bytes, and no limit is null.
    json: serde_json::Value,
    /// The advice, if something should be done.
    advice: Option<String>,
}

fn line(name: &'static str, value: impl Into<String>) -> Line {
    let value = value.into();
    Line {
        name,
        json: value.clone().into(),
        value,
        advice: None,
    }
}

/// A line whose number programs read as a number; `None` if there is no number.
fn number(name: &'static str, value: impl Into<String>, number: Option<u64>) -> Line {
    Line {
        json: number.into(),
        ..line(name, value)
    }
}

/// Prints the report; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let mut lines = Vec::new();
    let works = driver_lines(&mut lines);
    lines.push(line("kernel", read("/proc/sys/kernel/osrelease")));
    let enough = limit_lines(&mut lines);
    lines.push(line("stack guards", yue_scheduler::guard_kind()));
    lua_lines(&mut lines);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    lines.push(number(
        "processors",
        format!("{cores} (yue -c {cores} uses them all)"),
        Some(cores as u64),
    ));
    let text = if arguments.json {
        json(&lines)
    } else {
        table(&lines)
    };
    // A reader that has gone needs no report.
    let _ = std::io::stdout().write_all(text.as_bytes());
    i32::from(!(works && enough))
}

fn driver_lines(lines: &mut Vec<Line>) -> bool {
    let forced = std::env::var("YUE_IO").ok();
    let uring = yue_io::probe_uring();
    let (name, why, works) = match (Choice::from_environment(), &uring) {
        (Err(error), _) => ("none".to_owned(), error.to_string(), false),
        (Ok(Choice::Mio), _) => ("mio (epoll)".to_owned(), "YUE_IO says so".to_owned(), true),
        (Ok(Choice::Uring), Err(reason)) => (
            "none".to_owned(),
            format!("YUE_IO says uring, but {reason}"),
            false,
        ),
        (Ok(_), Ok(_)) if forced.is_some() => (
            "io_uring".to_owned(),
            "YUE_IO says so, and it works".to_owned(),
            true,
        ),
        (Ok(_), Ok(_)) => (
            "io_uring".to_owned(),
            "the kernel allows it".to_owned(),
            true,
        ),
        (Ok(_), Err(reason)) => ("mio (epoll)".to_owned(), reason.to_string(), true),
    };
    lines.push(line("driver", name));
    lines.push(line("  because", why));
    match uring {
        Ok(features) => lines.push(Line {
            json: features.as_slice().into(),
            ..line("  io_uring has", features.join(", "))
        }),
        Err(reason) => lines.push(Line {
            advice: Some(advice_for(&reason).to_owned()),
            ..line("  io_uring", "refused")
        }),
    }
    works
}

fn advice_for(reason: &Unavailable) -> &'static str {
    match reason {
        _ if reason.to_string().contains("seccomp") => {
            "containers forbid io_uring by default: allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        _ => "mio is used instead; only some speed is lost",
    }
}

fn limit_lines(lines: &mut Vec<Line>) -> bool {
    let (descriptors, descriptors_hard) = limit(libc::RLIMIT_NOFILE);
    let enough = descriptors >= DESCRIPTORS_MIN;
    let advice = (descriptors < DESCRIPTORS_FEW).then(|| {
        let more = if descriptors_hard > descriptors {
            format!("`ulimit -n {}` allows more", shown(descriptors_hard))
        } else {
            "the hard limit is the same: raise it in /etc/security/limits.conf, or by LimitNOFILE= in a systemd unit"
                .to_owned()
        };
        format!("each connection needs one; {more}")
    });
    lines.push(Line {
        advice,
        ..number("descriptors", shown(descriptors), finite(descriptors))
    });
    let (locked, _) = limit(libc::RLIMIT_MEMLOCK);
    lines.push(number("locked memory", bytes(locked), finite(locked)));
    let maps = read("/proc/sys/vm/max_map_count");
    let count = maps.parse().ok();
    lines.push(number("memory maps", maps, count));
    let free = free_memory_bytes();
    let text = free.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    lines.push(number("free memory", text, free));
    enough
}

fn finite(limit: u64) -> Option<u64> {
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

fn limit(which: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid, writable rlimit.
    unsafe { libc::getrlimit(which, &mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

fn shown(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        limit.to_string()
    }
}

fn bytes(limit: u64) -> String {
    if limit == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} KiB", limit / 1024)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn free_memory_bytes() -> Option<u64> {
    let text = read("/proc/meminfo");
    text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim();
        let kib: u64 = kib.strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    })
}

fn lua_lines(lines: &mut Vec<Line>) {
    match LuaFacts::find() {
        Ok(facts) => {
            lines.push(line("Lua", facts.version));
            lines.push(line(
                "  compiler",
                if facts.jit_on {
                    "on"
                } else {
                    "off: interpreted"
                },
            ));
        }
        Err(text) => lines.push(Line {
            advice: Some(text),
            ..line("Lua", "does not start")
        }),
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = format!("yue {}\n\n", env!("CARGO_PKG_VERSION"));
    for line in lines {
        push_wrapped(&mut text, line.name, &line.value);
        if let Some(advice) = &line.advice {
            push_wrapped(&mut text, "", &format!("-> {advice}"));
        }
    }
    text
}

/// Writes two columns that fit a terminal of 80.
fn push_wrapped(text: &mut String, name: &str, value: &str) {
    const VALUE_COLUMNS: usize = 80 - 18;
    let mut row = format!("  {name:<16}");
    let mut used = 0;
    for word in value.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > VALUE_COLUMNS {
            text.push_str(&row);
            text.push('\n');
            row = " ".repeat(18);
            used = 0;
        }
        if used > 0 {
            row.push(' ');
            used += 1;
        }
        row.push_str(word);
        used += length;
    }
    text.push_str(&row);
    text.push('\n');
}

fn json(lines: &[Line]) -> String {
    let mut object = serde_json::Map::new();
    object.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    for line in lines {
        object.insert(
            line.name.trim().replace(' ', "_").to_lowercase(),
            line.json.clone(),
        );
    }
    serde_json::Value::Object(object).to_string() + "\n"
}

//! `yue doctor`: which driver this machine gets, and why; its limits; what the runtime found.

use crate::lua::{Choice, LuaFacts};
use std::fs;
use std::io::Write;
use yue_io::Unavailable;

/// Says which driver this machine gets, and why, and shows its limits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 1 says that no driver works, or that a limit is too low for a small server."
)]
pub(crate) struct Arguments {
    /// Prints one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// Fewer descriptors than this, and a small server with its clients runs out.
const DESCRIPTORS_MIN: u64 = 256;

struct Line {
    name: &'static str,
    value: String,
    /// What to do about it, if something should be done.
    advice: Option<String>,
}

fn line(name: &'static str, value: impl Into<String>) -> Line {
    Line {
        name,
        value: value.into(),
        advice: None,
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
    lines.push(line(
        "processors",
        format!("{cores} (yue -c {cores} uses them all)"),
    ));
    let text = if arguments.json {
        json(&lines)
    } else {
        table(&lines)
    };
    // A reader that is gone needs no report.
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
        Ok(features) => lines.push(line("  io_uring has", features.join(", "))),
        Err(reason) => lines.push(Line {
            name: "  io_uring",
            value: "refused".to_owned(),
            advice: Some(advice_for(&reason).to_owned()),
        }),
    }
    works
}

fn advice_for(reason: &Unavailable) -> &'static str {
    match reason {
        _ if reason.to_string().contains("seccomp") => {
            "containers forbid io_uring by default: allow io_uring_setup, io_uring_enter and io_uring_register"
        }
        _ => "mio serves in its place; nothing but some speed is lost",
    }
}

fn limit_lines(lines: &mut Vec<Line>) -> bool {
    let (descriptors, descriptors_hard) = limit(libc::RLIMIT_NOFILE);
    let enough = descriptors >= DESCRIPTORS_MIN;
    let advice = (descriptors < 4096).then(|| {
        format!(
            "each connection needs one; `ulimit -n {}` allows more",
            shown(descriptors_hard)
        )
    });
    lines.push(Line {
        name: "descriptors",
        value: shown(descriptors),
        advice,
    });
    let (locked, _) = limit(libc::RLIMIT_MEMLOCK);
    lines.push(line("locked memory", bytes(locked)));
    let maps = read("/proc/sys/vm/max_map_count");
    lines.push(line("memory maps", maps));
    lines.push(line("free memory", free_memory()));
    enough
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

fn free_memory() -> String {
    let text = read("/proc/meminfo");
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    });
    kib.map_or_else(
        || "unknown".to_owned(),
        |kib: u64| format!("{} MiB", kib / 1024),
    )
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
            name: "Lua",
            value: "does not start".to_owned(),
            advice: Some(text),
        }),
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = format!("yue {}\n\n", env!("CARGO_PKG_VERSION"));
    for line in lines {
        text.push_str(&format!("  {:<16}{}\n", line.name, line.value));
        if let Some(advice) = &line.advice {
            text.push_str(&format!("  {:<16}-> {advice}\n", ""));
        }
    }
    text
}

fn json(lines: &[Line]) -> String {
    let mut object = serde_json::Map::new();
    object.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    for line in lines {
        object.insert(
            line.name.trim().replace(' ', "_").to_lowercase(),
            line.value.clone().into(),
        );
    }
    serde_json::Value::Object(object).to_string() + "\n"
}

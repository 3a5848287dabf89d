//! The hosts that a command line names: `server=-c 2 server.lua port=80, bot*20=bots.lua`.

use crate::{check, parse_loops};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yue::lua::Script;
use yue::sim::files_of_folder;

/// The maximum number of hosts. Each has a thread, which the system may refuse.
const HOSTS_MAX: usize = 1000;

/// A host: its name, what it runs, and the files beside that.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) script: Script,
    pub(super) files: Arc<Vec<(PathBuf, Vec<u8>)>>,
}

/// The reason why hosts cannot be simulated, and the exit code.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: i32,
    pub(super) text: String,
}

fn wrong(text: String) -> Fault {
    Fault {
        code: 2,
        text: format!("{text}; see yue sim --help"),
    }
}

/// Parses the values of `--hosts`, and checks that the scripts can be read.
pub(super) fn parse_all(lists: &[String]) -> Result<Vec<Host>, Fault> {
    let mut hosts = Vec::new();
    for item in lists.iter().flat_map(|list| list.split(',')) {
        let item = item.trim();
        if !item.is_empty() {
            let (names, script) = parse(item)?;
            for name in names {
                let script = script.clone();
                hosts.push(Host {
                    name,
                    script,
                    files: Arc::default(),
                });
            }
        }
        if hosts.len() > HOSTS_MAX {
            return Err(wrong(format!("there are at most {HOSTS_MAX} hosts")));
        }
    }
    if hosts.is_empty() {
        return Err(wrong("there is no host in --hosts".to_owned()));
    }
    for (index, host) in hosts.iter().enumerate() {
        if hosts[..index].iter().any(|other| other.name == host.name) {
            return Err(wrong(format!("there are two hosts named {}", host.name)));
        }
    }
    // Many hosts may have the same script.
    let mut folders = BTreeMap::new();
    for host in &mut hosts {
        if let Some(script) = &host.script.name {
            check(script, None).map_err(|(code, text)| Fault { code, text })?;
            let folder = script.parent().unwrap_or(Path::new("")).to_owned();
            let read = || Arc::new(files_of_folder(&folder));
            let files = folders.entry(folder.clone()).or_insert_with(read);
            host.files = Arc::clone(files);
        }
    }
    Ok(hosts)
}

/// Parses one item into the names of its hosts and their script.
fn parse(item: &str) -> Result<(Vec<String>, Script), Fault> {
    let Some((name, command)) = item.split_once('=') else {
        return Err(wrong(format!("a host is NAME=SCRIPT, not '{item}'")));
    };
    let (name, count) = match name.split_once('*') {
        None => (name.trim(), None),
        Some((name, count)) => match count.trim().parse() {
            Ok(count @ 1..=HOSTS_MAX) => (name.trim(), Some(count)),
            _ => {
                let text = format!("the number of hosts in '{item}' is from 1 to {HOSTS_MAX}");
                return Err(wrong(text));
            }
        },
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_part) {
        let text = format!("the name of a host has letters, digits, - and _, not '{name}'");
        return Err(wrong(text));
    }
    if name == "scenario" {
        return Err(wrong("a host cannot be named scenario".to_owned()));
    }
    let names = match count {
        None => vec![name.to_owned()],
        Some(count) => (1..=count)
            .map(|number| format!("{name}{number}"))
            .collect(),
    };
    Ok((names, script_of(item, command)?))
}

fn script_of(item: &str, command: &str) -> Result<Script, Fault> {
    let mut words = command.split_whitespace().peekable();
    let mut loops = 1;
    if words.next_if_eq(&"-c").is_some() {
        let count = words.next().unwrap_or_default();
        loops = parse_loops(count).map_err(|text| wrong(format!("-c in '{item}': {text}")))?;
    }
    let Some(script) = words.next() else {
        return Err(wrong(format!("there is no script in '{item}'")));
    };
    let args = words.map(|word| OsString::from(word).into_encoded_bytes());
    Ok(Script {
        args: args.collect(),
        loops,
        ..Script::new(Path::new(script))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_one(list: &str) -> Result<Vec<Host>, Fault> {
        parse_all(&[list.to_owned()])
    }

    #[test]
    fn hosts_have_names_counts_loops_and_arguments() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let list = format!("server=-c 2 {script} port=80 a, bot*3={script},");
        let hosts = parse_one(&list).expect("they are right");
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["server", "bot1", "bot2", "bot3"]);
        assert_eq!(hosts[0].script.loops, 2);
        assert_eq!(hosts[0].script.args, [b"port=80".to_vec(), b"a".to_vec()]);
        assert_eq!(hosts[1].script.args.len(), 0);
    }

    #[test]
    fn a_wrong_list_is_refused_with_the_reason() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (list, code, reason) in [
            (String::new(), 2, "no host"),
            ("server".to_owned(), 2, "NAME=SCRIPT"),
            ("server=".to_owned(), 2, "no script"),
            ("server=-c 0 x.lua".to_owned(), 2, "from 1 to 1024"),
            ("server=-c".to_owned(), 2, "from 1 to 1024"),
            ("a*0=x.lua".to_owned(), 2, "from 1 to 1000"),
            ("a*x=x.lua".to_owned(), 2, "from 1 to 1000"),
            (format!("a*999={script}, b*2={script}"), 2, "at most 1000"),
            (format!("a={script}, a={script}"), 2, "two hosts named a"),
            (format!("a b={script}"), 2, "letters"),
            (format!("scenario={script}"), 2, "scenario"),
            ("a=/nowhere.lua".to_owned(), 1, "no script /nowhere.lua"),
        ] {
            let fault = parse_one(&list).expect_err("it is wrong");
            assert_eq!(fault.code, code, "{list}: {}", fault.text);
            assert!(fault.text.contains(reason), "{list}: {}", fault.text);
        }
    }
}

//! `yue new`: a folder with a program that works: a server, its page, its test.
//!
//! The templates are the examples of the same names in the repository. `build.rs` embeds them, and the library that
//! their pages load. The description of the API for editors comes from the crate `yue`.

use clap::builder::PossibleValuesParser;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use yue_scheduler::log_outcome;

// `TEMPLATES`: the name of each template, and the paths and contents of its files.
include!(concat!(env!("OUT_DIR"), "/templates.rs"));

const EXAMPLES: &str = "\
Examples:
  yue new demo                    a chat: rooms, names, a page
  yue new duel --template arena   a game: many players on one map
  cd demo && yue dev              run it; changes show at once";

/// Create a folder with a server, its page and its test.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The folder, which does not exist or is empty. Its name is that of the program.
    name: PathBuf,

    /// The program to begin with.
    #[arg(short, long, value_name = "TEMPLATE", default_value = "chat")]
    #[arg(value_parser = PossibleValuesParser::new(TEMPLATES.iter().map(|(name, _)| *name)))]
    template: String,
}

const IGNORED: &str = "# Files that editors and systems leave behind.\n*~\n*.sw?\n.DS_Store\n";

/// Settings of lua-language-server: where it finds the description of the API.
const EDITOR_SETTINGS: &str = r#"{
  "runtime.version": "LuaJIT",
  "workspace.library": [".yue"]
}
"#;

/// Longer names are refused by file systems.
const NAME_BYTES_MAX: usize = 255;

/// Creates the project; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    let folder = plain_path(&arguments.name);
    match create(&folder, &arguments.template) {
        Ok(()) => {
            // A reader that has gone needs no advice.
            let _ = io::stdout().write_all(next_steps(&folder, &arguments.template).as_bytes());
            0
        }
        Err((code, text)) => {
            log_outcome(format_args!("{text}"));
            code
        }
    }
}

/// The path without the parts that lead nowhere: `demo/.` and `demo/` are `demo`.
fn plain_path(path: &Path) -> PathBuf {
    path.components().collect()
}

fn next_steps(folder: &Path, template: &str) -> String {
    let (shown, yue) = (folder.display(), own_name());
    format!(
        "created {shown} from the template {template}; what to do next:\n  \
         cd {shown}\n  \
         {yue} dev --open      run it, and see changes at once\n  \
         {yue} test.lua        test it\n"
    )
}

/// The word that starts this command in a shell, in any folder: its name, if it is installed, and otherwise its path.
fn own_name() -> String {
    let own = std::env::current_exe().and_then(fs::canonicalize);
    let Ok(own) = own else {
        return "yue".to_owned();
    };
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&folders)
        .map(|folder| folder.join("yue"))
        .find(|path| path.is_file());
    match first.map(fs::canonicalize) {
        Some(Ok(path)) if path == own => "yue".to_owned(),
        _ => own.display().to_string(),
    }
}

/// The error is an exit code and a message.
fn create(folder: &Path, template_name: &str) -> Result<(), (i32, String)> {
    check_name(folder).map_err(|text| (2, text))?;
    let unknown = || (2, format!("there is no template '{template_name}'"));
    let files = template(template_name).ok_or_else(unknown)?;
    let mut created = Created::default();
    make_folder(folder, &mut created).map_err(|text| (1, text))?;
    write_files(folder, files, &mut created).map_err(|text| {
        let left = created.remove();
        let rest = match left {
            None => "the files created so far were removed".to_owned(),
            Some((path, error)) => format!("cannot remove {} again: {error}", path.display()),
        };
        (1, format!("{text}; {rest}"))
    })
}

/// Writes the files of a template, and those that every project has.
fn write_files(
    folder: &Path,
    files: &[(&str, &[u8])],
    created: &mut Created,
) -> Result<(), String> {
    let own = [(".gitignore", IGNORED), (".luarc.json", EDITOR_SETTINGS)];
    let own = own.map(|(path, text)| (PathBuf::from(path), text.as_bytes()));
    let stubs = yue::lua::STUBS.iter().map(|(name, text)| {
        let path = Path::new(".yue").join(name);
        (path, text.as_bytes())
    });
    let names: Vec<PathBuf> = files.iter().map(|(path, _)| path.into()).collect();
    let files = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), *text));
    // A template may have files of the same names.
    let own = own.into_iter().filter(|(path, _)| !names.contains(path));
    for (path, text) in files.chain(own).chain(stubs) {
        let path = folder.join(path);
        created.write(&path, text).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::StorageFull => "the disk is full".to_owned(),
                io::ErrorKind::QuotaExceeded => "your share of the disk is full".to_owned(),
                _ => error.to_string(),
            };
            format!("cannot write {}: {reason}", path.display())
        })?;
    }
    Ok(())
}

/// The files and folders that were created, in order.
#[derive(Default)]
struct Created {
    /// Each with whether it is a folder.
    paths: Vec<(PathBuf, bool)>,
}

impl Created {
    /// Writes a file that must not exist, and creates the folders above it.
    fn write(&mut self, path: &Path, text: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.make_folders(parent)?;
        }
        let mut file = fs::File::create_new(path)?;
        self.paths.push((path.to_owned(), false));
        file.write_all(text)
    }

    /// Creates a folder, and those above it.
    fn make_folders(&mut self, folder: &Path) -> io::Result<()> {
        if folder.as_os_str().is_empty() || folder.is_dir() {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folders(parent)?;
        }
        self.make_folder(folder)
    }

    fn make_folder(&mut self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        self.paths.push((folder.to_owned(), true));
        Ok(())
    }

    /// Removes what was created, the last first. Returns the first that cannot be removed: a folder in which somebody
    /// else has put a file stays.
    fn remove(&mut self) -> Option<(PathBuf, io::Error)> {
        let mut left = None;
        for (path, is_folder) in self.paths.drain(..).rev() {
            let removed = match is_folder {
                true => fs::remove_dir(&path),
                false => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                left.get_or_insert((path, error));
            }
        }
        left
    }
}

/// Checks the last part of the path, which becomes a name in the shell, in URLs and in logs.
fn check_name(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    // `.` and `..` have no name of their own: they exist, and must be empty.
    let Some(name) = folder.file_name() else {
        return match folder.as_os_str().is_empty() {
            true => Err("the name is empty; choose one like 'demo'".to_owned()),
            false => Ok(()),
        };
    };
    let is_plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    let name = name.to_str().filter(|name| name.chars().all(is_plain));
    match name {
        Some(name) if name.len() > NAME_BYTES_MAX => {
            Err(format!("the name is longer than {NAME_BYTES_MAX} bytes"))
        }
        Some(name) if !name.starts_with(['.', '-']) => Ok(()),
        _ => Err(format!(
            "'{shown}' is not a name for a program: use letters, digits, '-' and '_', like 'my-game'"
        )),
    }
}

/// The files of a template.
fn template(name: &str) -> Option<&'static [(&'static str, &'static [u8])]> {
    let found = TEMPLATES.iter().find(|(known, _)| *known == name);
    found.map(|(_, files)| *files)
}

/// Creates the folder, or checks that it is empty.
fn make_folder(folder: &Path, created: &mut Created) -> Result<(), String> {
    let shown = folder.display();
    match created.make_folder(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::read_dir(folder) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(format!(
                    "{shown} exists and is not empty; choose another name"
                )),
            },
            Err(_) if !folder.is_dir() => Err(format!(
                "{shown} exists and is not a folder; choose another name"
            )),
            Err(error) => Err(format!("cannot read the folder {shown}: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = folder.parent().unwrap_or(folder).display();
            Err(format!("there is no folder {parent} to create {shown} in"))
        }
        Err(error) => Err(format!("cannot create the folder {shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_name, plain_path, template};
    use std::path::Path;

    #[test]
    fn parts_of_a_path_that_lead_nowhere_are_dropped() {
        for (path, plain) in [
            ("demo", "demo"),
            ("demo/.", "demo"),
            ("demo//", "demo"),
            ("a/./demo", "a/demo"),
            ("./demo", "./demo"),
            ("./.", "."),
            ("demo/..", "demo/.."),
        ] {
            // As text: paths compare by their parts.
            assert_eq!(plain_path(Path::new(path)).to_str(), Some(plain), "{path}");
        }
    }

    #[test]
    fn names_that_break_shells_or_urls_are_refused() {
        for name in [
            "demo",
            "my-game",
            "games/duel_2",
            "./x",
            "spiel-für-zwei",
            ".",
        ] {
            assert_eq!(check_name(Path::new(name)), Ok(()), "{name}");
        }
        for name in ["", "a b", "-x", ".hidden", "a\nb", "a'b", "x\u{1b}[2J"] {
            assert!(check_name(Path::new(name)).is_err(), "{name}");
        }
        assert!(check_name(Path::new(&"x".repeat(256))).is_err());
    }

    #[test]
    fn every_template_is_whole() {
        for name in ["chat", "arena"] {
            let files = template(name).expect("it is embedded");
            for path in [
                "server.lua",
                "test.lua",
                "README.md",
                "page/index.html",
                "page/yue.js",
            ] {
                let text = files.iter().find(|(known, _)| *known == path);
                assert!(
                    text.is_some_and(|(_, text)| !text.is_empty()),
                    "{name}: {path}"
                );
            }
        }
        assert!(template("chess").is_none());
    }
}

//! `yue types`: type declarations of a server's functions, made from its description of itself.
//!
//! ```text
//!   description ─▶ annotations.rs   comments: text and annotations       ─▶ typescript.rs
//!                  luacats.rs       the types in them       ─▶ model.rs  ─▶ python.rs
//!                  text.rs          names and comments in the output     ─▶ lua.rs
//! ```
//!
//! Comments of the server's author name the types. A type that they do not name, or that is not understood, is
//! `unknown`, with a remark: a wrong type would be worse. The output depends on the functions alone, not on the address
//! or the time, so a program can check in its declarations and see changes of the server in their difference.

mod annotations;
mod docs;
mod lua;
mod luacats;
mod model;
mod python;
mod text;
mod typescript;

use crate::description::{self, Description};
use crate::server::{Fault, Server};
use model::Model;
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  yue types tcp://127.0.0.1:8080 -o world.ts
  yue types wss://example.com/game --lang python --name Game > game.pyi
  yue types tcp://127.0.0.1:8080 --lang lua -o meta/world.lua

Comments above the server's functions name the types: ---@param name string,
---@return number, ---@class, ---@alias. See the book's page about the command.";

/// Write type declarations of a server's functions, for Lua, TypeScript or Python.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Server,

    /// The language. By default that of the file's ending: .lua, .ts, .py or .pyi; TypeScript without a file.
    #[arg(short, long, value_name = "LANG", value_enum)]
    lang: Option<Language>,

    /// The name of the interface or class of all functions.
    #[arg(short, long, value_name = "NAME", default_value = "World", value_parser = parse_name)]
    name: String,

    /// The file to write, instead of standard output.
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Language {
    Lua,
    Ts,
    Python,
}

fn parse_name(name: &str) -> Result<String, String> {
    match text::is_identifier(name, &[]) {
        true => Ok(name.to_owned()),
        false => Err("letters, digits and _ are needed, and no digit first".to_owned()),
    }
}

impl Arguments {
    fn language(&self) -> Result<Language, Fault> {
        if let Some(language) = self.lang {
            return Ok(language);
        }
        let Some(path) = &self.output else {
            return Ok(Language::Ts);
        };
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("lua") => Ok(Language::Lua),
            Some("ts" | "mts" | "cts") => Ok(Language::Ts),
            Some("py" | "pyi") => Ok(Language::Python),
            _ => Err(Fault::Usage(format!(
                "the name {} says no language; add --lang lua, ts or python",
                path.display()
            ))),
        }
    }
}

/// Writes the declarations; returns the exit code.
pub(crate) fn main(arguments: &Arguments) -> i32 {
    match run(arguments) {
        Ok(()) => 0,
        Err(fault) => {
            let (code, text) = match fault {
                Fault::Usage(text) => (2, text),
                Fault::Other(text) => (1, text),
                Fault::Call(error) => (1, error.to_string()),
            };
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            yue_scheduler::log_outcome(format_args!("{text}"));
            code
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Fault> {
    let language = arguments.language()?;
    let server = arguments.server.clone();
    let fetch = move || -> Result<Description, Fault> {
        let connection = server.open()?;
        Ok(description::fetch(connection.session())?)
    };
    let description = yue_io::run(fetch).map_err(|error| Fault::Other(error.to_string()))??;
    // Outside of fibers, whose stacks are small: types are nested.
    let code = declarations(&description, language, &arguments.name);
    let written = match &arguments.output {
        Some(path) => {
            std::fs::write(path, code).map_err(|error| (path.display().to_string(), error))
        }
        None => std::io::stdout()
            .write_all(code.as_bytes())
            .map_err(|error| ("standard output".to_owned(), error)),
    };
    written.map_err(|(target, error)| Fault::Other(format!("cannot write to {target}: {error}")))
}

fn declarations(description: &Description, language: Language, name: &str) -> String {
    let model = Model::new(description);
    match language {
        Language::Lua => lua::write(&model, name, description.more),
        Language::Ts => typescript::write(&model, name, description.more),
        Language::Python => python::write(&model, name, description.more),
    }
}

#[cfg(test)]
mod tests;

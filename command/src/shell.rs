//! `yue completions` and `yue man`: files for shells and for `man`, made from the definition of the command line.

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const COMPLETIONS: &str = "\
Examples:
  yue completions bash > ~/.local/share/bash-completion/completions/yue
  yue completions zsh > ~/.zfunc/_yue        # a folder in $fpath
  yue completions fish > ~/.config/fish/completions/yue.fish
  yue completions elvish >> ~/.config/elvish/rc.elv";

/// Print the completions of this command for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
}

const MAN: &str = "\
Examples:
  yue man | man -l -                   show the page
  yue man ~/.local/share/man/man1      install all pages; then: man yue-call";

/// Print the manual page of this command, or write those of all subcommands.
#[derive(Debug, clap::Args)]
#[command(name = "man", after_help = MAN)]
pub(crate) struct Manual {
    /// The folder to write the pages to, which is made if it does not exist. Without one, the page is printed.
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    folder: Option<PathBuf>,
}

/// Prints completions; returns the exit code.
pub(crate) fn print_completions(arguments: &Completions) -> i32 {
    let mut command = crate::Arguments::command();
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Elvish => clap_complete::Shell::Elvish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "yue", &mut text);
    code_of(io::stdout().write_all(&text), "standard output")
}

/// Prints or writes manual pages; returns the exit code.
pub(crate) fn write_manual(arguments: &Manual) -> i32 {
    let mut command = crate::Arguments::command();
    command.build();
    let Some(folder) = &arguments.folder else {
        let page = page(&command, "yue");
        return code_of(
            page.and_then(|page| io::stdout().write_all(&page)),
            "standard output",
        );
    };
    code_of(write_pages(&command, folder), &folder.display().to_string())
}

fn code_of(written: io::Result<()>, target: &str) -> i32 {
    match written {
        Ok(()) => 0,
        Err(error) => {
            yue_scheduler::log_outcome(format_args!("cannot write to {target}: {error}"));
            1
        }
    }
}

fn write_pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("yue.1"), page(command, "yue")?)?;
    for subcommand in command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
    {
        let name = format!("yue-{}", subcommand.get_name());
        std::fs::write(folder.join(format!("{name}.1")), page(subcommand, &name)?)?;
    }
    Ok(())
}

/// The synopsis: the lines of usage that the help has. `Man` would list all options without their values.
fn synopsis(command: &clap::Command, name: &str) -> Roff {
    let name = name.replacen('-', " ", 1);
    let mut shown = command.clone().bin_name(&name);
    let usage = shown.render_usage().to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let lines = usage.trim_start_matches("Usage:").lines().map(str::trim);
    for (index, line) in lines.filter(|line| !line.is_empty()).enumerate() {
        if index > 0 {
            roff.control("br", []);
        }
        match line.strip_prefix(&name) {
            Some(rest) => roff.text([bold(&name), roman(rest)]),
            None => roff.text([roman(line)]),
        };
    }
    roff
}

/// A page. The examples at the end of a help keep their lines, which `Man::render` would join.
fn page(command: &clap::Command, name: &str) -> io::Result<Vec<u8>> {
    let version = format!("yue {}", env!("CARGO_PKG_VERSION"));
    let shown = command
        .clone()
        .display_name(name.to_owned())
        .bin_name(name.replacen('-', " ", 1));
    let man = Man::new(shown)
        .title(name.to_uppercase())
        .source(version)
        .manual("yue");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    synopsis(command, name).to_writer(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(help) = command.get_after_help() {
        let mut roff = Roff::new();
        roff.control("SH", ["NOTES"]);
        roff.control("nf", []);
        for line in help.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.to_writer(&mut out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use crate::Arguments;
    use clap::CommandFactory;

    /// All commands, with their subcommands.
    fn walk(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
        visit(command);
        for subcommand in command.get_subcommands() {
            walk(subcommand, visit);
        }
    }

    #[test]
    fn every_help_fits_80_columns_and_every_argument_has_a_text() {
        let mut command = Arguments::command().term_width(80);
        command.build();
        let mut count = 0;
        walk(&command, &mut |command| {
            count += 1;
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no text");
            let mut shown = command.clone().term_width(80).max_term_width(80);
            for help in [shown.render_help(), shown.render_long_help()] {
                let help = help.to_string();
                for line in help.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string);
                let id = argument.get_id();
                let help = help.unwrap_or_default();
                assert!(help.len() > 4, "{name} {id} has no text");
                assert!(!help.contains("  "), "{name} {id}: {help}");
            }
        });
        assert!(count > 5, "only {count} commands");
    }

    #[test]
    fn examples_in_the_help_are_command_lines_that_parse() {
        let mut command = Arguments::command();
        command.build();
        let mut count = 0;
        walk(&command.clone(), &mut |shown| {
            let help = shown.get_after_help().map(ToString::to_string);
            for line in help.unwrap_or_default().lines() {
                let Some(line) = line.strip_prefix("  yue ") else {
                    continue;
                };
                let words = words(line);
                let parsed = command.clone().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {words:?} {:?}", parsed.err());
                count += 1;
            }
        });
        assert!(count > 10, "only {count} examples");
    }

    /// The words of a line of shell, as far as examples go: quotes, redirections, comments behind several spaces.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec!["yue".to_owned()];
        let mut word = String::new();
        let (mut quote, mut blanks) = (None, 0);
        for character in line.chars() {
            match character {
                '\'' | '"' if quote.is_none() => quote = Some(character),
                character if quote == Some(character) => quote = None,
                ' ' if quote.is_none() => {
                    blanks += 1;
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                    if blanks >= 2 {
                        return words;
                    }
                    continue;
                }
                '<' | '>' | '|' | ';' | '&' if quote.is_none() => return words,
                character => word.push(character),
            }
            blanks = 0;
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    }

    #[test]
    fn a_synopsis_is_the_usage_of_the_help() {
        let mut command = Arguments::command();
        command.build();
        let text = |command: &clap::Command, name: &str| {
            let page = String::from_utf8(super::page(command, name).unwrap()).unwrap();
            let (_, rest) = page.split_once(".SH SYNOPSIS\n").unwrap();
            rest.split("\n.SH ").next().unwrap().to_owned()
        };
        let whole = text(&command, "yue");
        assert!(whole.contains("\n.br\n"), "a script, or a command: {whole}");
        assert!(whole.starts_with("\\fByue\\fR [OPTIONS]"), "{whole}");
        let new = text(command.find_subcommand("new").unwrap(), "yue-new");
        assert_eq!(new.lines().next(), Some("\\fByue new\\fR [OPTIONS] <NAME>"));
    }

    #[test]
    fn the_shell_completes_templates() {
        let mut text = Vec::new();
        let mut command = Arguments::command();
        clap_complete::generate(clap_complete::Shell::Bash, &mut command, "yue", &mut text);
        let text = String::from_utf8(text).unwrap();
        let (_, new) = text.split_once("yue__subcmd__new)").unwrap();
        let (_, template) = new.split_once("--template)").unwrap();
        let reply = template.lines().nth(1).unwrap();
        assert!(reply.contains("arena chat"), "{reply}");
    }

    #[test]
    fn pages_keep_the_lines_of_examples() {
        let mut command = Arguments::command();
        command.build();
        let call = command.find_subcommand("call").unwrap();
        let page = String::from_utf8(super::page(call, "yue-call").unwrap()).unwrap();
        assert!(page.contains(".TH YUE-CALL 1"), "{page}");
        assert!(
            page.contains("\n  yue call tcp://127.0.0.1:8080 add 20 22"),
            "{page}"
        );
        assert!(page.contains("yue call"), "{page}");
    }
}

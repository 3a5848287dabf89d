//! Wrong usage: clap's errors in the form of the command's other messages, and suggestions for misspelt words.

use crate::Arguments;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;
use std::path::Path;

/// Describes wrong usage in one line, which ends with a suggestion or names the help. `first` is the first argument.
pub(super) fn describe(error: &clap::Error, first: Option<OsString>) -> String {
    let rendered = error.render().to_string();
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let message = match (error.kind(), text(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(word)) if word.starts_with('-') => {
            format!("there is no option {word}")
        }
        _ => first_paragraph(&rendered),
    };
    let suggested = suggestion(error).or_else(|| {
        let word = text(ContextKind::InvalidSubcommand)?;
        similar_subcommand(&Arguments::command(), word)
    });
    match suggested {
        Some(word) => format!("{message}; did you mean {word}?"),
        None => format!("{message}; see {} --help", command_of(&rendered, first)),
    }
}

/// The option, subcommand or value that clap finds similar to a wrong one.
fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    kinds.iter().find_map(|kind| match error.get(*kind)? {
        ContextValue::String(word) => Some(word.clone()),
        ContextValue::Strings(words) => words.first().cloned(),
        _ => None,
    })
}

/// Clap's message, without its prefix, in one line.
fn first_paragraph(rendered: &str) -> String {
    let paragraph = rendered.split("\n\n").next().unwrap_or_default();
    let message = paragraph.strip_prefix("error: ").unwrap_or(paragraph);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The command, or the subcommand, whose usage an error shows: `yue bench` of `Usage: yue bench [OPTIONS] <ADDRESS>`.
/// An error about an option's value shows none; then the first argument decides.
fn command_of(rendered: &str, first: Option<OsString>) -> String {
    let Some(usage) = rendered.split("Usage: ").nth(1) else {
        let command = Arguments::command();
        return match first.and_then(|first| command.find_subcommand(first)) {
            Some(subcommand) => format!("yue {}", subcommand.get_name()),
            None => "yue".to_owned(),
        };
    };
    let is_name = |word: &&str| !word.starts_with(['[', '<', '-']);
    let first_line = usage.lines().next().unwrap_or_default();
    let names: Vec<_> = first_line.split(' ').take_while(is_name).collect();
    names.join(" ")
}

/// The subcommand whose name is a misspelling away from a word.
fn similar_subcommand(command: &clap::Command, word: &str) -> Option<String> {
    command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name())
        .map(|name| (strsim::damerau_levenshtein(name, word), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= 2 && *distance * 2 <= name.len())
        .map(|(_, name)| name.to_owned())
}

/// A suggestion for a script that does not exist; `next` is the argument behind it.
pub(super) fn suggest_for_script(
    command: &clap::Command,
    script: &Path,
    next: Option<&OsString>,
) -> Option<String> {
    let word = script.to_str()?;
    let similar = similar_subcommand(command, word);
    match (similar, next.map(Path::new)) {
        (Some(name), _) => Some(format!("did you mean 'yue {name}'?")),
        // `yue run server.lua`
        (None, Some(next)) if next.is_file() && !word.contains(['.', '/']) => {
            Some(format!("to run a script: yue {}", next.display()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::describe;
    use crate::Arguments;
    use clap::Parser;
    use std::ffi::OsString;

    fn refusal(arguments: &[&str]) -> String {
        let words = ["yue"].iter().chain(arguments);
        let error = Arguments::try_parse_from(words).expect_err("wrong usage");
        describe(&error, arguments.first().map(OsString::from))
    }

    #[test]
    fn a_misspelt_option_subcommand_or_value_gets_a_suggestion() {
        for (arguments, message) in [
            (
                &["--watchdgo", "100", "server.lua"][..],
                "there is no option --watchdgo; did you mean --watchdog?",
            ),
            (
                &["--lops=4", "server.lua"],
                "there is no option --lops; did you mean --loops?",
            ),
            (
                &["bench", "--jsno", "tcp://127.0.0.1:1"],
                "there is no option --jsno; did you mean --json?",
            ),
            (
                &["help", "cal"],
                "unrecognized subcommand 'cal'; did you mean call?",
            ),
            (
                &["completions", "bsh"],
                "invalid value 'bsh' for '<SHELL>' [possible values: bash, zsh, fish, elvish]; did you mean bash?",
            ),
        ] {
            assert_eq!(refusal(arguments), message);
        }
    }

    #[test]
    fn other_wrong_usage_names_the_help_of_the_right_command() {
        for (arguments, message) in [
            (
                &["--bogus"][..],
                "there is no option --bogus; see yue --help",
            ),
            (&["-x"], "there is no option -x; see yue --help"),
            (
                &["doctor", "--bogus"],
                "there is no option --bogus; see yue doctor --help",
            ),
            (
                &["doctor", "more"],
                "unexpected argument 'more' found; see yue doctor --help",
            ),
            (
                &["bench"],
                "the following required arguments were not provided: <ADDRESS>; see yue bench --help",
            ),
        ] {
            assert_eq!(refusal(arguments), message);
        }
        assert_eq!(
            refusal(&["-c", "0", "server.lua"]),
            "invalid value '0' for '--loops <LOOPS>': a number from 1 to 1024 is needed; see yue --help"
        );
        assert_eq!(
            refusal(&["bench", "tcp://127.0.0.1:1", "--rate", "0"]),
            "invalid value '0' for '--rate <CALLS>': a number of calls per second from 0.01 to 10000000 is needed; \
             see yue bench --help"
        );
        for value in ["x", "99999999999999999999"] {
            assert_eq!(
                refusal(&["--watchdog", value, "server.lua"]),
                format!(
                    "invalid value '{value}' for '--watchdog <MS>': milliseconds are needed, here or in \
                     YUE_WATCHDOG; 0 means never; see yue --help"
                )
            );
        }
    }

    #[test]
    fn an_empty_watchdog_variable_means_the_default() {
        let arguments = Arguments::try_parse_from(["yue", "--watchdog", "", "server.lua"]);
        assert_eq!(
            arguments.expect("right usage").run.watchdog,
            crate::WATCHDOG_MS
        );
    }

    #[test]
    fn options_behind_the_script_are_its_arguments() {
        let words = ["yue", "-c", "2", "server.lua", "--io", "-x", "--", "--help"];
        let arguments = Arguments::try_parse_from(words).expect("right usage");
        assert_eq!(
            arguments.run.script,
            ["server.lua", "--io", "-x", "--", "--help"]
        );
    }
}

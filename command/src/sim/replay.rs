//! The command that repeats a run.

use super::{Arguments, STEPS_MAX};

/// Returns the command line of one seed. Faults are given by a variable before it.
pub(super) fn command(arguments: &Arguments, seed: u64) -> String {
    let mut words = vec!["yue".to_owned(), "sim".to_owned()];
    let mut option = |name: &str, value: &str| words.extend([name.to_owned(), quoted(value)]);
    option("--seed", &seed.to_string());
    if arguments.scenario.is_empty() {
        option("--seconds", &arguments.seconds.to_string());
    }
    if arguments.steps != STEPS_MAX {
        option("--steps", &arguments.steps.to_string());
    }
    arguments
        .allow
        .iter()
        .for_each(|call| option("--allow", call));
    arguments
        .hosts
        .iter()
        .for_each(|hosts| option("--hosts", hosts));
    let mut scenario = arguments.scenario.iter().map(|word| word.to_string_lossy());
    words.extend(scenario.next().map(|word| quoted(&word)));
    let args: Vec<String> = scenario.map(|word| quoted(&word)).collect();
    // Two dashes end the options.
    if args.iter().any(|word| word.starts_with('-')) {
        words.push("--".to_owned());
    }
    words.extend(args);
    words.join(" ")
}

/// Writes a word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("scenario.lua"), "scenario.lua");
        assert_eq!(quoted("a=b.lua, c=d.lua"), "'a=b.lua, c=d.lua'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}

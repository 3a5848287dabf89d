//! The functions of a server, from its description of itself.

use super::failure::Failure;
use super::print_line;
use crate::description::{self, Description};
use serde_json::json;
use yue_rpc::session::Session;
use yue_rpc::{Error, ErrorKind};

/// The widest column of signatures; longer ones move their comments to the right.
const SIGNATURE_COLUMNS_MAX: usize = 36;

/// Prints each function with its parameters, and the first line of its comment.
pub(super) fn print(session: &Session, as_json: bool) -> Result<(), Failure> {
    let description = description::fetch(session).map_err(|error| explain(session, error))?;
    if as_json {
        return print_line(&json_of(&description).to_string());
    }
    let signatures: Vec<String> = description
        .functions
        .iter()
        .map(|function| format!("{}({})", function.name, function.parameters().join(", ")))
        .collect();
    let fitting = signatures.iter().map(|signature| signature.chars().count());
    let width = fitting
        .filter(|columns| *columns <= SIGNATURE_COLUMNS_MAX)
        .max()
        .unwrap_or(0);
    for (function, signature) in description.functions.iter().zip(&signatures) {
        let line = match function.summary() {
            "" => signature.clone(),
            summary => format!("{signature:width$}  {summary}"),
        };
        print_line(&description::printable(&line))?;
    }
    if description.more {
        yue_scheduler::log_outcome(format_args!("the server has more functions than it lists"));
    }
    Ok(())
}

fn json_of(description: &Description) -> serde_json::Value {
    let functions = description.functions.iter().map(|function| {
        json!({
            "name": function.name,
            "params": function.params,
            "vararg": function.vararg,
            "doc": function.doc,
        })
    });
    json!({ "functions": functions.collect::<Vec<_>>(), "more": description.more })
}

/// An error of the description in terms of what the user did.
fn explain(session: &Session, error: Error) -> Failure {
    match error.kind() {
        ErrorKind::NoMethod | ErrorKind::Rpc if matches!(error, Error::Remote(_)) => {
            let reason = match session.peer_is_yue() {
                true => "its option `describe` is off",
                false => "it is not a yue server",
            };
            Failure::other(format!("the server does not list its functions: {reason}"))
        }
        _ => error.into(),
    }
}

/// The end of the message about a failed call: the name of a similar method, if the server has none of this name; the
/// option to use, if the server called a function here.
pub(super) fn suggest(session: &Session, method: &str, error: &Error) -> Option<String> {
    let message = error.message();
    let missing_here = message
        .split_once("there is no method '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map(|(name, _)| name)
        .filter(|_| error.kind() == ErrorKind::NotGranted);
    if let Some(name) = missing_here {
        let name = description::printable(name);
        return Some(format!(
            "the server calls it here: give its result with --answer {name}=JSON"
        ));
    }
    let is_answer = matches!(error, Error::Remote(_)) && error.kind() == ErrorKind::NoMethod;
    // A handler's own call may have met a missing method, too: the caller's, for example.
    let is_of_it = error.message().contains(&format!("'{method}'"));
    if !is_answer || !is_of_it || !session.peer_is_yue() {
        return None;
    }
    let description = description::fetch(session).ok()?;
    let names = description.functions.iter().map(|one| one.name.as_str());
    let name = similar(method, names)?;
    Some(format!("did you mean {}?", description::printable(name)))
}

/// The name that is most similar to `word`: a misspelt one, or one that ends with it in another table.
fn similar<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bare = |name: &str| name.to_lowercase().replace(['_', '-'], "");
    let wanted = bare(word);
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let distance = |name: &'a str| {
        let whole = strsim::damerau_levenshtein(&bare(name), &wanted);
        // The last part alone, of a function in a table that was left out.
        match last(name) == name {
            true => whole,
            false => whole.min(1 + strsim::damerau_levenshtein(&bare(last(name)), &wanted)),
        }
    };
    names
        .filter(|name| name.len() <= 256 && word.len() <= 256)
        .map(|name| (distance(name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 1 + word.chars().count() / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::similar;

    #[test]
    fn similar_names_are_suggested_and_others_are_not() {
        let names = ["hello", "chat.say", "world.player_join"];
        let find = |word: &str| similar(word, names.iter().copied());
        assert_eq!(find("helo"), Some("hello"));
        assert_eq!(find("Hello"), Some("hello"));
        assert_eq!(find("say"), Some("chat.say"));
        assert_eq!(find("chat.sya"), Some("chat.say"));
        assert_eq!(find("world.playerJoin"), Some("world.player_join"));
        assert_eq!(find("quit"), None);
        assert_eq!(find(&"x".repeat(100_000)), None);
    }
}

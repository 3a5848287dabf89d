//! Failed calls, as lines on standard error.

use crate::json::{Style, write_results};
use serde_json::{Map, Value, json};
use yue_rpc::proto::value::Reader;
use yue_rpc::{Error, ErrorKind};

/// The reason why a call failed, or was not made.
#[derive(Debug)]
pub(super) struct Failure {
    code: i32,
    text: String,
    /// The error of the call, if one was made.
    error: Option<Error>,
    /// The number of the call among several.
    number: Option<u64>,
}

impl Failure {
    /// The command line is wrong.
    pub(super) fn usage(text: String) -> Failure {
        Failure {
            code: 2,
            ..Failure::other(text)
        }
    }

    /// Nothing was called.
    pub(super) fn other(text: String) -> Failure {
        Failure {
            code: 1,
            text,
            error: None,
            number: None,
        }
    }

    /// A call failed. The suggestion follows its text.
    pub(super) fn of(error: Error, suggestion: Option<String>) -> Failure {
        let text = match suggestion {
            Some(suggestion) => format!("{error}; {suggestion}"),
            None => error.to_string(),
        };
        Failure {
            error: Some(error),
            ..Failure::other(text)
        }
    }

    /// The same, of the call with that number.
    pub(super) fn of_call(self, number: u64) -> Failure {
        Failure {
            number: Some(number),
            ..self
        }
    }

    /// Whether the next call may succeed: the server answered, or was slow, or the call was not sent.
    pub(super) fn leaves_connection(&self) -> bool {
        let may_succeed = |error: &Error| match error {
            Error::Remote(error) => error.kind() != ErrorKind::NotGranted,
            _ => matches!(
                error.kind(),
                ErrorKind::Timeout
                    | ErrorKind::Argument
                    | ErrorKind::MessageTooLarge
                    | ErrorKind::MessageRefused
                    | ErrorKind::QueueFull
            ),
        };
        self.error.as_ref().is_some_and(may_succeed)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(error, None)
    }
}

/// The form of the lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub(super) as_json: bool,
}

impl Report {
    /// Writes the failure in one line; returns the exit code.
    pub(super) fn show(self, failure: &Failure) -> i32 {
        if self.as_json {
            // Nobody can be told about a line of errors that cannot be written.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", json_of(failure)).as_bytes(),
            );
            return failure.code;
        }
        let text = failure
            .text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        match failure.number {
            Some(number) => yue_scheduler::log_outcome(format_args!("call {number}: {text}")),
            None => yue_scheduler::log_outcome(format_args!("{text}")),
        }
        failure.code
    }
}

fn json_of(failure: &Failure) -> Value {
    let mut members = Map::new();
    if let Some(number) = failure.number {
        members.insert("call".to_owned(), number.into());
    }
    let Some(error) = &failure.error else {
        let kind = if failure.code == 2 {
            "UsageError"
        } else {
            "Error"
        };
        members.insert("type".to_owned(), kind.into());
        members.insert("message".to_owned(), failure.text.as_str().into());
        return json!({ "error": members });
    };
    let (mut kind, mut raised) = (error.kind().name().to_owned(), None);
    if let Error::Remote(remote) = error {
        kind = remote.type_name().unwrap_or(kind);
        raised = raised_value(remote.bytes());
        if let Some(traceback) = remote.traceback() {
            members.insert("traceback".to_owned(), traceback.into());
        }
    }
    members.insert("type".to_owned(), kind.into());
    members.insert("code".to_owned(), error.code().into());
    members.insert("message".to_owned(), error.message().into());
    members.insert("retryable".to_owned(), error.is_retryable().into());
    if let Some(value) = raised {
        members.insert("value".to_owned(), value);
    }
    json!({ "error": members })
}

/// The table that a handler raised as its error.
fn raised_value(error: &[u8]) -> Option<Value> {
    let mut reader = Reader::new(error);
    (reader.read_array()? >= 3).then_some(())?;
    reader.skip()?;
    reader.skip()?;
    let raw = reader.find_key("value")?.read_raw()?;
    serde_json::from_str(&write_results(raw, 1, Style::Line)?).ok()
}

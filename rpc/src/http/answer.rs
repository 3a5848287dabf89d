//! The answers: JSON of two forms, and their status.
//!
//! `{"result": …}`, or `{"error": {"type", "code", "message", "retryable"}}`.

use super::HttpAnswer;
use super::body::AnswerBody;
use crate::error::{Error, ErrorKind};
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// A refusal or failure: its status, and the error's parts.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    type_name: String,
    code: i64,
    message: String,
    retryable: bool,
    /// The connection ends after the answer.
    pub(super) closes: bool,
}

impl Fault {
    pub(super) fn new(status: StatusCode, kind: ErrorKind, message: impl Into<String>) -> Fault {
        Fault {
            status,
            type_name: kind.name().to_owned(),
            code: kind.code(),
            message: message.into(),
            retryable: false,
            closes: false,
        }
    }

    /// The connection ends after this answer: the rest of the request is not read.
    pub(super) fn closing(mut self) -> Fault {
        self.closes = true;
        self
    }

    /// Nothing has run.
    pub(super) fn retryable(mut self) -> Fault {
        self.retryable = true;
        self
    }

    /// The failure of a call.
    pub(super) fn of_call(error: &Error) -> Fault {
        let kind = error.kind();
        let type_name = match error {
            Error::Remote(remote) => remote.type_name(),
            Error::Local(_) => None,
        };
        Fault {
            status: status_of(error),
            type_name: type_name.unwrap_or_else(|| kind.name().to_owned()),
            code: error.code(),
            message: match error {
                // Its own text names the address that did not answer: that of the client itself.
                Error::Local(_) if kind == ErrorKind::Timeout => {
                    "the function did not finish in time".to_owned()
                }
                error => error.message(),
            },
            retryable: error.is_retryable(),
            closes: false,
        }
    }

    pub(super) fn answer(&self) -> HttpAnswer {
        let json = serde_json::json!({ "error": {
            "type": self.type_name,
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }});
        let mut answer = with_json(self.status, json.to_string().into_bytes());
        if self.closes {
            close_after(&mut answer);
        }
        answer
    }
}

/// The status for the error of a call.
fn status_of(error: &Error) -> StatusCode {
    match error.kind() {
        ErrorKind::NoMethod => StatusCode::NOT_FOUND,
        ErrorKind::Argument => StatusCode::BAD_REQUEST,
        ErrorKind::NotGranted => StatusCode::FORBIDDEN,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::ServerBusy | ErrorKind::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
        // The server closes; what a handler says of its own connections is its failure.
        ErrorKind::ConnectionLost if matches!(error, Error::Local(_)) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An answer with a body of JSON.
pub(super) fn with_json(status: StatusCode, json: Vec<u8>) -> HttpAnswer {
    let mut answer = with_body(status, AnswerBody::Whole(Some(Bytes::from(json))));
    set(&mut answer, header::CONTENT_TYPE, "application/json");
    set(&mut answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(&mut answer, header::CACHE_CONTROL, "no-store");
    answer
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> HttpAnswer {
    with_body(status, AnswerBody::empty())
}

fn with_body(status: StatusCode, body: AnswerBody) -> HttpAnswer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    HttpAnswer { response }
}

pub(super) fn set(answer: &mut HttpAnswer, name: HeaderName, value: &'static str) {
    answer
        .response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}

/// The connection ends after this answer.
pub(super) fn close_after(answer: &mut HttpAnswer) {
    set(answer, header::CONNECTION, "close");
}

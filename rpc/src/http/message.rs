//! Requests and answers, as the program that serves them sees them.

use super::body::{AnswerBody, Pipe};
use crate::transport::origin::is_authority;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};

/// Whether a header's value names the transfer encoding `chunked`, and no other.
pub(super) fn is_chunked(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(b"chunked")
}

/// The head of a request.
#[derive(Debug)]
pub struct HttpHead {
    pub(super) parts: Parts,
}

impl HttpHead {
    /// The method, in upper case unless the client made up one of its own.
    pub fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    /// The path, with its escapes; `*` for the server as a whole.
    pub fn path(&self) -> &str {
        self.parts.uri.path()
    }

    /// The part behind the question mark, with its escapes.
    pub fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    /// The minor version of HTTP/1: 0 or 1.
    pub fn minor_version(&self) -> u8 {
        u8::from(self.parts.version == Version::HTTP_11)
    }

    /// The headers: names in lower case, and values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = self.parts.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    /// Checks the parts that every server has to check, and that decide for whom the request is.
    ///
    /// # Errors
    /// The status of the refusal, and a sentence that says why. The connection ends afterwards.
    pub fn check(&self) -> Result<(), (u16, &'static str)> {
        if self.parts.method == Method::CONNECT {
            return Err((501, "This server is not a proxy."));
        }
        // What comes before another coding would be read as the body. RFC 9112, section 6.1.
        let mut codings = self.parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_known = codings.next().is_none_or(is_chunked) && codings.next().is_none();
        if !is_known {
            return Err((
                400,
                "The only transfer encoding that this server knows is chunked.",
            ));
        }
        let host = self.host().map_err(|text| (400, text))?;
        // RFC 9112, section 3.2. Before HTTP/1.1 there was no such header.
        if host.is_none() && self.parts.version == Version::HTTP_11 {
            return Err((400, "The header Host is missing."));
        }
        Ok(())
    }

    /// The host that the header `Host` names.
    ///
    /// # Errors
    /// A sentence that says why it cannot be accepted.
    pub(super) fn host(&self) -> Result<Option<&str>, &'static str> {
        let Some(host) = single(&self.parts.headers, &header::HOST)? else {
            return Ok(None);
        };
        let host = str::from_utf8(host.as_bytes()).map_err(|_| "Host is not text.")?;
        if !host.is_empty() && !is_authority(host) {
            return Err("Host is neither a name nor an address.");
        }
        let named = self.parts.uri.authority();
        if named.is_some_and(|named| !named.as_str().eq_ignore_ascii_case(host)) {
            return Err("The request's line and its header Host name different hosts.");
        }
        Ok(Some(host))
    }

    /// The head as bytes again, for a parser of another protocol that begins with it.
    #[cfg(feature = "ws")]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let parts = &self.parts;
        let target = parts.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let mut bytes = format!("{} {target} HTTP/1.{}\r\n", parts.method, {
            self.minor_version()
        })
        .into_bytes();
        for (name, value) in &parts.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// The value of a header that must not come twice.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, &'static str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err("The headers Host and Origin come once each."),
    }
}

/// An answer that cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// The status is none that an answer may have.
    #[error("a status is a number from 200 to 999")]
    Status,
    /// The name has characters that a name must not have.
    #[error("this is not the name of a header")]
    Name,
    /// The value has characters that a value must not have.
    #[error("a header's value is text on one line")]
    Value,
    /// The connection itself sets this header.
    #[error("the server sets this header itself")]
    Own,
    /// The length is that of another body.
    #[error("the header content-length states another length than that of the body")]
    Length,
}

/// The answer to a request.
pub struct HttpAnswer {
    pub(super) response: Response<AnswerBody>,
}

impl HttpAnswer {
    /// An answer without headers and body.
    ///
    /// # Errors
    /// `Status`: see [`AnswerFault`].
    pub fn new(status: u16) -> Result<HttpAnswer, AnswerFault> {
        if status < 200 {
            return Err(AnswerFault::Status);
        }
        let mut response = Response::new(AnswerBody::empty());
        *response.status_mut() = StatusCode::from_u16(status).map_err(|_| AnswerFault::Status)?;
        Ok(HttpAnswer { response })
    }

    /// Adds a header; one of the same name stays.
    ///
    /// # Errors
    /// It cannot be sent: see [`AnswerFault`].
    pub fn header(&mut self, name: &[u8], value: &[u8]) -> Result<(), AnswerFault> {
        let name = HeaderName::from_bytes(name).map_err(|_| AnswerFault::Name)?;
        if name == header::TRANSFER_ENCODING {
            return Err(AnswerFault::Own);
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| AnswerFault::Value)?;
        let is = |text: &[u8]| value.as_bytes().eq_ignore_ascii_case(text);
        if name == header::CONNECTION && !is(b"close") && !is(b"upgrade") {
            return Err(AnswerFault::Own);
        }
        self.response.headers_mut().append(name, value);
        Ok(())
    }

    /// Sets the type of the body, unless a header did.
    pub fn default_type(&mut self, value: &'static str) {
        let headers = self.response.headers_mut();
        if headers.is_empty() || !headers.contains_key(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
        }
    }

    /// The connection ends after this answer.
    pub fn close(&mut self) {
        let headers = self.response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    /// Sets the whole body. `to_head`: the request was `HEAD`, so only its length is sent.
    ///
    /// # Errors
    /// `Length`: see [`AnswerFault`].
    pub fn whole(&mut self, body: Bytes, to_head: bool) -> Result<(), AnswerFault> {
        // A handler for HEAD may know the length without the body.
        let is_described = to_head && body.is_empty();
        let length = self.stated_length()?;
        if length.is_some_and(|length| length != body.len() as u64) && !is_described {
            return Err(AnswerFault::Length);
        }
        *self.response.body_mut() = AnswerBody::Whole((!body.is_empty()).then_some(body));
        Ok(())
    }

    /// The body follows in pieces: see [`HttpConnection::send`](super::HttpConnection::send). It is sent in chunks
    /// unless a header `content-length` states its length.
    ///
    /// # Errors
    /// `Length`: see [`AnswerFault`].
    pub fn streamed(&mut self) -> Result<(), AnswerFault> {
        let length = self.stated_length()?;
        *self.response.body_mut() = AnswerBody::Pulled(std::rc::Rc::<Pipe>::default(), length);
        Ok(())
    }

    fn stated_length(&self) -> Result<Option<u64>, AnswerFault> {
        let mut stated = self
            .response
            .headers()
            .get_all(header::CONTENT_LENGTH)
            .iter();
        let (first, second) = (stated.next(), stated.next());
        if second.is_some() {
            return Err(AnswerFault::Length);
        }
        let Some(length) = first else { return Ok(None) };
        let digits = length
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = digits.and_then(|text| text.parse().ok());
        length.map(Some).ok_or(AnswerFault::Length)
    }
}

impl std::fmt::Debug for HttpAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAnswer")
            .field("status", &self.response.status())
            .field("headers", self.response.headers())
            .finish_non_exhaustive()
    }
}

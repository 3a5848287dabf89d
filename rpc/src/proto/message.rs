//! A whole message as slices of the bytes it came in.

use super::error::ProtocolError;
use super::scan::Frame;
use super::value::Reader;
use std::ops::Range;

/// The target of a request or a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method<'a> {
    /// A name; it came as str or bin, and need not be UTF-8.
    Name(&'a [u8]),
    /// A function that was passed as a value, by the number that its owner assigned.
    Reference(u64),
}

/// Arguments: a number of values, one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params<'a> {
    /// The number of values.
    pub count: u32,
    /// Their bytes, without the header of the array that holds them.
    pub bytes: &'a [u8],
    /// The whole array, as one value.
    pub array: &'a [u8],
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `[0, msgid, method, params]`, with a map as a fifth element between peers that understand it.
    Request {
        /// The number that the sender assigned to it.
        msgid: u32,
        /// The method to call.
        method: Method<'a>,
        /// The arguments.
        params: Params<'a>,
        /// The fifth element: a map, header included.
        extensions: Option<&'a [u8]>,
    },
    /// `[1, msgid, error, result]`, with the number of results as a fifth element between peers that understand it.
    Response {
        /// The number of the request that it answers.
        msgid: u32,
        /// The error value, if it is not nil.
        error: Option<&'a [u8]>,
        /// The results' bytes, one after another.
        result: &'a [u8],
        /// The number of results; 1 without a fifth element.
        count: u32,
    },
    /// `[2, method, params]`: a request that nobody answers.
    Notification {
        /// The method to call.
        method: Method<'a>,
        /// The arguments.
        params: Params<'a>,
    },
}

impl<'a> Message<'a> {
    /// Reads the message whose parts `frame` describes. `bytes` begin where the message begins.
    ///
    /// # Errors
    /// If an element has a type that the protocol does not allow there.
    // It has two callers, and must not be a call in the loop over messages; nor must its parts.
    #[inline(always)]
    pub fn parse(bytes: &'a [u8], frame: &Frame) -> Result<Message<'a>, ProtocolError> {
        let element = |index: usize| &bytes[range_of(frame, index)];
        match (element(0).first(), frame.fields) {
            (Some(0), 4 | 5) => Ok(Message::Request {
                msgid: parse_msgid(element(1))?,
                method: parse_method(element(2))?,
                params: parse_params(element(3))?,
                extensions: if frame.fields == 5 {
                    parse_extensions(element(4))?
                } else {
                    None
                },
            }),
            (Some(1), 4 | 5) => parse_response(frame, element),
            (Some(2), 3 | 4) => Ok(Message::Notification {
                method: parse_method(element(1))?,
                params: parse_params(element(2))?,
            }),
            _ => Err(ProtocolError::WrongType {
                element: "number of elements",
            }),
        }
    }
}

fn range_of(frame: &Frame, index: usize) -> Range<usize> {
    frame.starts[index]..frame.end_of(index)
}

#[inline(always)]
fn parse_response<'a>(
    frame: &Frame,
    element: impl Fn(usize) -> &'a [u8],
) -> Result<Message<'a>, ProtocolError> {
    let msgid = parse_msgid(element(1))?;
    let error = Some(element(2)).filter(|error| *error != [0xc0]);
    let mut result = element(3);
    let mut count = 1;
    if frame.fields == 5 && error.is_none() {
        let wrong = ProtocolError::WrongType {
            element: "result count",
        };
        let mut reader = Reader::new(element(4));
        if !reader.read_nil() {
            count = reader
                .read_uint()
                .and_then(|count| u32::try_from(count).ok())
                .ok_or(wrong)?;
            // Several results, or none, come in an array; one comes bare.
            if count != 1 {
                let mut results = Reader::new(result);
                if results.read_array() != Some(count) {
                    return Err(wrong);
                }
                result = results.rest();
            }
        }
    }
    Ok(Message::Response {
        msgid,
        error,
        result,
        count,
    })
}

#[inline(always)]
fn parse_msgid(bytes: &[u8]) -> Result<u32, ProtocolError> {
    let msgid = match *bytes {
        // The form that most peers write for all but the first few.
        [0xce, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => Reader::new(bytes)
            .read_uint()
            .and_then(|msgid| u32::try_from(msgid).ok()),
    };
    msgid.ok_or(ProtocolError::WrongType { element: "msgid" })
}

#[inline(always)]
fn parse_method(bytes: &[u8]) -> Result<Method<'_>, ProtocolError> {
    let mut reader = Reader::new(bytes);
    if let Some(name) = reader.read_bytes() {
        return Ok(Method::Name(name));
    }
    reader
        .read_uint()
        .map(Method::Reference)
        .ok_or(ProtocolError::WrongType { element: "method" })
}

#[inline(always)]
fn parse_params(bytes: &[u8]) -> Result<Params<'_>, ProtocolError> {
    let mut reader = Reader::new(bytes);
    match reader.read_array() {
        Some(count) => Ok(Params {
            count,
            bytes: reader.rest(),
            array: bytes,
        }),
        None => Err(ProtocolError::WrongType {
            element: "list of arguments",
        }),
    }
}

fn parse_extensions(bytes: &[u8]) -> Result<Option<&[u8]>, ProtocolError> {
    let mut reader = Reader::new(bytes);
    if reader.read_nil() {
        return Ok(None);
    }
    reader
        .read_map()
        .map(|_| Some(bytes))
        .ok_or(ProtocolError::WrongType {
            element: "map of extensions",
        })
}

/// The remaining time in milliseconds that a request's map of extensions carries, and the map, if it carries more.
#[inline]
pub fn read_extensions(extensions: &[u8]) -> (Option<u64>, Option<&[u8]>) {
    match extensions {
        // What yue writes for a call that no handler makes.
        [0x81, 0xa1, b't', value @ ..] => (Reader::new(value).read_uint(), None),
        _ => read_other_extensions(extensions),
    }
}

fn read_other_extensions(extensions: &[u8]) -> (Option<u64>, Option<&[u8]>) {
    let time = match extensions {
        [0x82..=0x8f, 0xa1, b't', value @ ..] => Reader::new(value).read_uint(),
        _ => (Reader::new(extensions).find_key("t")).and_then(|mut time| time.read_uint()),
    };
    (time, Some(extensions))
}

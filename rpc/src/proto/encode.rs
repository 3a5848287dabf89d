//! Writes messages into a `Vec<u8>`.
//!
//! Values are written by encoders: closures that append any number of msgpack values and return the count. The header
//! of the array that holds them comes first, so one byte is reserved for it, and widened when there are more than
//! fifteen values. An encoder that fails leaves nothing behind.

use super::message::Method;
use crate::error::{Error, ErrorKind};
use crate::text::{TEXT_MAX, cut};
use rmp::encode as rmp_encode;

/// Appends values and returns their number.
///
/// # Errors
/// If a value cannot be sent; everything that was appended is removed.
pub trait Encoder: FnOnce(&mut Vec<u8>) -> Result<u32, Error> {}
impl<F: FnOnce(&mut Vec<u8>) -> Result<u32, Error>> Encoder for F {}

/// An encoder that appends nothing.
pub fn nothing(_: &mut Vec<u8>) -> Result<u32, Error> {
    Ok(0)
}

const NIL: u8 = 0xc0;
const FIX_ARRAY: u8 = 0x90;

/// Appends an unsigned integer.
#[inline]
pub fn uint(out: &mut Vec<u8>, value: u64) {
    infallible(rmp_encode::write_uint(out, value).map(drop));
}

/// Appends a signed integer.
pub fn int(out: &mut Vec<u8>, value: i64) {
    infallible(rmp_encode::write_sint(out, value).map(drop));
}

/// Appends a str.
pub fn str(out: &mut Vec<u8>, text: &str) {
    infallible(rmp_encode::write_str(out, text));
}

/// Appends a str if the bytes are valid UTF-8, else a bin.
#[inline]
pub fn str_or_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < 32 && bytes.is_ascii() {
        // The form of nearly every method name.
        out.push(0xa0 | bytes.len() as u8);
        out.extend_from_slice(bytes);
        return;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => str(out, text),
        Err(_) => infallible(rmp_encode::write_bin(out, bytes)),
    }
}

/// Appends a bin.
pub fn bin(out: &mut Vec<u8>, bytes: &[u8]) {
    infallible(rmp_encode::write_bin(out, bytes));
}

/// Writing into memory cannot fail, but the types do not show it.
#[inline]
fn infallible<E>(result: Result<(), E>) {
    debug_assert!(result.is_ok(), "writing into a Vec does not fail");
}

/// Appends an array of the values that `values` appends.
///
/// # Errors
/// Those of `values`; `out` is then unchanged.
#[inline]
pub fn array(out: &mut Vec<u8>, values: impl Encoder) -> Result<u32, Error> {
    let start = out.len();
    out.push(FIX_ARRAY);
    match values(out) {
        Ok(count @ 0..=15) => {
            out[start] = FIX_ARRAY | count as u8;
            Ok(count)
        }
        Ok(count) => {
            let mut header = Vec::with_capacity(5);
            infallible(rmp_encode::write_array_len(&mut header, count).map(drop));
            out.splice(start..=start, header);
            Ok(count)
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends the part of a request that follows the msgid: the method and the arguments.
///
/// # Errors
/// Those of `params`; `out` is then unchanged.
#[inline]
pub fn method_and_params(
    out: &mut Vec<u8>,
    method: Method<'_>,
    params: impl Encoder,
) -> Result<(), Error> {
    let start = out.len();
    match method {
        Method::Name(name) => str_or_bin(out, name),
        Method::Reference(id) => uint(out, id),
    }
    array(out, params)
        .map(drop)
        .inspect_err(|_| out.truncate(start))
}

/// Appends the beginning of a request. [`method_and_params`] follows, and [`remaining_time`] if `with_extensions`.
#[inline]
pub fn request_head(out: &mut Vec<u8>, msgid: u32, with_extensions: bool) {
    let [a, b, c, d] = msgid.to_be_bytes();
    out.extend_from_slice(&[
        FIX_ARRAY | 4 | u8::from(with_extensions),
        0,
        0xce,
        a,
        b,
        c,
        d,
    ]);
}

/// Appends a map of extensions with the remaining time of a call.
#[inline]
pub fn remaining_time(out: &mut Vec<u8>, ms: u64) {
    out.extend_from_slice(&[0x81, 0xa1, b't']);
    uint(out, ms);
}

/// Appends a whole request.
///
/// # Errors
/// Those of `params`; `out` is then unchanged.
pub fn request(
    out: &mut Vec<u8>,
    msgid: u32,
    method: Method<'_>,
    remaining_ms: Option<u64>,
    params: impl Encoder,
) -> Result<(), Error> {
    let extensions = remaining_ms.map(|ms| move |out: &mut Vec<u8>| remaining_time(out, ms));
    request_with(out, msgid, method, params, extensions)
}

/// Appends a whole request with the map of extensions that `extensions` appends.
///
/// # Errors
/// Those of `params`; `out` is then unchanged.
#[inline]
pub fn request_with(
    out: &mut Vec<u8>,
    msgid: u32,
    method: Method<'_>,
    params: impl Encoder,
    extensions: Option<impl FnOnce(&mut Vec<u8>)>,
) -> Result<(), Error> {
    let start = out.len();
    request_head(out, msgid, extensions.is_some());
    method_and_params(out, method, params).inspect_err(|_| out.truncate(start))?;
    if let Some(append) = extensions {
        append(out);
    }
    Ok(())
}

/// Appends a whole notification.
///
/// # Errors
/// Those of `params`; `out` is then unchanged.
pub fn notification(
    out: &mut Vec<u8>,
    method: Method<'_>,
    params: impl Encoder,
) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[FIX_ARRAY | 3, 2]);
    method_and_params(out, method, params).inspect_err(|_| out.truncate(start))
}

#[inline]
fn response_head(out: &mut Vec<u8>, msgid: u32) {
    out.extend_from_slice(&[FIX_ARRAY | 4, 1]);
    uint(out, u64::from(msgid));
}

/// Appends a response. A single result travels bare. Any other number travels as an array, followed by the count if the
/// peer knows counts (`counted`). For a peer that does not, no result travels as nil.
///
/// # Errors
/// Those of `results`; `out` is then unchanged.
#[inline]
pub fn response(
    out: &mut Vec<u8>,
    msgid: u32,
    counted: bool,
    results: impl Encoder,
) -> Result<(), Error> {
    let start = out.len();
    response_head(out, msgid);
    out.push(NIL);
    let values = out.len();
    let count = results(out).inspect_err(|_| out.truncate(start))?;
    if count == 1 {
        return Ok(());
    }
    if count == 0 && !counted {
        out.push(NIL);
        return Ok(());
    }
    let mut header = Vec::with_capacity(5);
    infallible(rmp_encode::write_array_len(&mut header, count).map(drop));
    out.splice(values..values, header);
    if counted {
        out[start] = FIX_ARRAY | 5;
        uint(out, u64::from(count));
    }
    Ok(())
}

/// Appends a response that carries an error value, written by `value`.
///
/// # Errors
/// Those of `value`; `out` is then unchanged. It must append exactly one value.
pub fn error_response(out: &mut Vec<u8>, msgid: u32, value: impl Encoder) -> Result<(), Error> {
    let start = out.len();
    response_head(out, msgid);
    let count = value(out).inspect_err(|_| out.truncate(start))?;
    debug_assert_eq!(count, 1, "an error is one value");
    out.push(NIL);
    Ok(())
}

/// An error as it travels: `[code, message, {type, retryable, traceback, value}]`.
#[derive(Debug, Clone)]
pub struct ErrorValue<'a> {
    /// The number of the type.
    pub code: i64,
    /// The message.
    pub message: &'a str,
    /// The type's name.
    pub type_name: &'a str,
    /// Whether the call can be repeated without the risk that it runs twice.
    pub retryable: bool,
    /// The traceback.
    pub traceback: Option<&'a str>,
    /// The raised value in msgpack (one value), if it was not a string.
    pub value: Option<&'a [u8]>,
}

impl<'a> ErrorValue<'a> {
    /// An error of a known kind, without details.
    pub fn of_kind(kind: ErrorKind, message: &'a str) -> ErrorValue<'a> {
        let (code, type_name) = (kind.code(), kind.name());
        ErrorValue {
            code,
            message,
            type_name,
            retryable: false,
            traceback: None,
            value: None,
        }
    }

    /// Appends it as one value. Long texts are cut to 64 KiB: the peer may have chosen them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FIX_ARRAY | 3);
        int(out, self.code);
        str_or_bin(out, cut(self.message, TEXT_MAX).as_bytes());
        let pairs = 1
            + u32::from(self.retryable)
            + u32::from(self.traceback.is_some())
            + u32::from(self.value.is_some());
        out.push(0x80 | pairs as u8);
        str(out, "type");
        str(out, self.type_name);
        if self.retryable {
            str(out, "retryable");
            out.push(0xc3);
        }
        if let Some(traceback) = self.traceback {
            str(out, "traceback");
            str(out, &cut(traceback, TEXT_MAX));
        }
        if let Some(value) = self.value {
            str(out, "value");
            out.extend_from_slice(value);
        }
    }
}

//! Decoder: JSON text to a Lua value, pushed directly onto the stack.
//!
//! The elements of an array or object stay on the Lua stack until the shim moves them into a table of the right size:
//! at its end, or whenever there are [`BATCH`] of them. So most tables are never rehashed while they are filled.
//!
//! A Lua error (out of memory) unwinds through these frames: nothing in them has a destructor.

use super::error::{JsonDecodeError, JsonFault};
use super::scan::plain_prefix;
use crate::codec::{Codec, NESTING_MAX};
use crate::shim::{self, map_set};
use crate::stack::Stack;
use mlua_sys as ffi;
use std::{ptr, str};

/// The values of one array or object that may lie on the Lua stack. All levels together must fit into the 8 000 slots
/// of a C function (`LUAI_MAXCSTACK`).
const BATCH: u32 = 32;

/// Slots beside the batch: a table, a pair, a scratch buffer.
const SLOTS_MORE: u32 = 6;

const _: () = assert!((BATCH + SLOTS_MORE) * NESTING_MAX < 8000);

/// Strings with escapes up to this length are unescaped on the native stack, longer ones in a buffer of Lua's.
const SCRATCH: usize = 512;

/// See the decoder of msgpack: a few maps of a thousand honest keys need no more.
const STEPS_FIRST: u32 = 1 << 20;

/// The largest integer, of either sign, that a Lua number holds together with all smaller ones.
const EXACT_MAX: u64 = 1 << 53;

impl Codec {
    /// Pushes the value of a JSON text; nil for `null`. Raises when out of memory; run it inside a protected call.
    ///
    /// # Errors
    /// The fault in the text. The values on the stack are then useless.
    pub fn decode_json(&self, stack: Stack<'_>, text: &[u8]) -> Result<(), JsonFault> {
        if let Err(error) = str::from_utf8(text) {
            let (at, error) = (error.valid_up_to(), JsonDecodeError::NotUtf8);
            return Err(JsonFault { at, error });
        }
        let mut decoder = Decoder {
            codec: self,
            stack,
            state: stack.raw(),
            text,
            // A byte order mark is not a part of the text (RFC 8259, section 8.1).
            at: if text.starts_with(b"\xef\xbb\xbf") {
                3
            } else {
                0
            },
            steps: STEPS_FIRST,
        };
        decoder.document()
    }
}

struct Decoder<'a> {
    codec: &'a Codec,
    stack: Stack<'a>,
    state: *mut ffi::lua_State,
    text: &'a [u8],
    at: usize,
    /// Nodes of hash chains that may still be walked.
    steps: u32,
}

type Outcome = Result<(), JsonFault>;

impl Decoder<'_> {
    fn document(&mut self) -> Outcome {
        // SAFETY: `Stack` promises a valid state, here and below.
        if unsafe { ffi::lua_checkstack(self.state, SLOTS_MORE as i32) } == 0 {
            return self.fault(JsonDecodeError::TooDeep(0));
        }
        match self.next_byte() {
            Some(b'n') => {
                self.word(b"null")?;
                self.stack.push_nil();
            }
            _ => self.value(0)?,
        }
        match self.next_byte() {
            None => Ok(()),
            Some(_) => self.fault(JsonDecodeError::Trailing),
        }
    }

    #[cold]
    fn fault<T>(&self, error: JsonDecodeError) -> Result<T, JsonFault> {
        self.fault_at(self.at, error)
    }

    #[cold]
    fn fault_at<T>(&self, at: usize, error: JsonDecodeError) -> Result<T, JsonFault> {
        Err(JsonFault { at, error })
    }

    /// Something else was expected here.
    #[cold]
    fn unexpected<T>(&self, expected: &'static str) -> Result<T, JsonFault> {
        self.fault(if self.at < self.text.len() {
            JsonDecodeError::Expected(expected)
        } else {
            JsonDecodeError::Ended(expected)
        })
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips white space, and returns the next byte without taking it.
    #[inline]
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                other => return other,
            }
        }
    }

    /// Pushes the next value; the caller has made room for it.
    fn value(&mut self, depth: u32) -> Outcome {
        match self.next_byte() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b't') => {
                self.word(b"true")?;
                self.stack.push_boolean(true);
                Ok(())
            }
            Some(b'f') => {
                self.word(b"false")?;
                self.stack.push_boolean(false);
                Ok(())
            }
            Some(b'n') => {
                self.word(b"null")?;
                // SAFETY: there is room, and nothing is allocated.
                unsafe { ffi::lua_pushlightuserdata(self.state, ptr::null_mut()) };
                Ok(())
            }
            _ => self.unexpected("a value"),
        }
    }

    fn word(&mut self, word: &[u8]) -> Outcome {
        if !self.text[self.at..].starts_with(word) {
            return self.unexpected("a value (true, false or null)");
        }
        self.at += word.len();
        Ok(())
    }

    /// Takes the opening bracket. Checks the depth, and makes room for a batch.
    fn enter(&mut self, depth: u32) -> Outcome {
        let room = (BATCH + SLOTS_MORE) as i32;
        // SAFETY: neither call raises. Both stacks must have room, Lua's and this fiber's native one.
        let has_room = unsafe {
            shim::yue_shim_low_stack() == 0 && ffi::lua_checkstack(self.state, room) != 0
        };
        if depth >= NESTING_MAX || !has_room {
            return self.fault(JsonDecodeError::TooDeep(depth));
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: u32) -> Outcome {
        self.enter(depth)?;
        let mark = self.codec.array_mark;
        // The number of elements in the table, and of those above it on the stack.
        let (mut length, mut batch) = (0, 0);
        if self.next_byte() == Some(b']') {
            self.at += 1;
            // SAFETY: there is room for one value; raises as this function's callers expect.
            unsafe { shim::yue_shim_collect_array(self.state, 0, mark) };
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            batch += 1;
            let is_end = match self.next_byte() {
                Some(b',') => false,
                Some(b']') => true,
                _ => return self.unexpected("a comma or ]"),
            };
            self.at += 1;
            if is_end || batch == BATCH {
                // SAFETY: the batch is on top, and the table, if there is one, below it.
                unsafe {
                    if length == 0 {
                        shim::yue_shim_collect_array(self.state, batch, mark);
                    } else {
                        shim::yue_shim_append(self.state, length, batch);
                    }
                }
                length += batch;
                batch = 0;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    fn object(&mut self, depth: u32) -> Outcome {
        self.enter(depth)?;
        let (mut is_begun, mut pairs) = (false, 0);
        if self.next_byte() == Some(b'}') {
            self.at += 1;
            return self.collect(false, 0, self.codec.map_mark);
        }
        loop {
            if self.next_byte() != Some(b'"') {
                return self.unexpected("a key, which is a string,");
            }
            self.string()?;
            if self.next_byte() != Some(b':') {
                return self.unexpected("a colon");
            }
            self.at += 1;
            self.value(depth + 1)?;
            pairs += 1;
            let is_end = match self.next_byte() {
                Some(b',') => false,
                Some(b'}') => true,
                _ => return self.unexpected("a comma or }"),
            };
            self.at += 1;
            if is_end || pairs == BATCH / 2 {
                self.collect(is_begun, pairs, ptr::null())?;
                (is_begun, pairs) = (true, 0);
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Moves the pairs on top of the stack into the table below them, or into a new one.
    fn collect(&mut self, is_begun: bool, pairs: u32, mark: *const std::ffi::c_void) -> Outcome {
        // SAFETY: the pairs are on top; raises as this function's callers expect.
        let outcome = unsafe {
            shim::yue_shim_collect_map(self.state, is_begun.into(), pairs, mark, &mut self.steps)
        };
        match outcome {
            map_set::DONE => Ok(()),
            _ => self.fault(JsonDecodeError::Crowded),
        }
    }

    fn string(&mut self) -> Outcome {
        let start = self.at + 1;
        let length = plain_prefix::<false>(&self.text[start..]);
        self.at = start + length;
        match self.peek() {
            Some(b'"') => {
                self.stack.push_bytes(&self.text[start..self.at]);
                self.at += 1;
                Ok(())
            }
            Some(b'\\') => self.escaped_string(start),
            Some(_) => self.fault(JsonDecodeError::Control),
            None => self.unexpected("the end of a string"),
        }
    }

    /// Pushes the string that began at `start`; `self.at` is its first escape.
    #[inline(never)]
    fn escaped_string(&mut self, start: usize) -> Outcome {
        // The text is never longer than its escaped form.
        let length = self.raw_length(start);
        if length <= SCRATCH {
            let mut scratch = [0; SCRATCH];
            let count = self.unescape(start, &mut scratch)?;
            self.stack.push_bytes(&scratch[..count]);
            return Ok(());
        }
        // SAFETY: there is room for two values. The buffer is on the stack, and so alive, until the string is there; it
        // holds `length` bytes, which are written before they are read.
        unsafe {
            let buffer: *mut u8 = ffi::lua_newuserdata(self.state, length).cast();
            ptr::write_bytes(buffer, 0, length);
            let scratch = std::slice::from_raw_parts_mut(buffer, length);
            let count = self.unescape(start, scratch)?;
            self.stack.push_bytes(&scratch[..count]);
            ffi::lua_remove(self.state, -2);
        }
        Ok(())
    }

    /// The bytes of the string that began at `start`, up to its closing quote or the end of the text.
    fn raw_length(&self, start: usize) -> usize {
        let mut at = self.at;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        at.min(self.text.len()) - start
    }

    /// Writes the text of the string that began at `start`, and takes its closing quote. Returns the text's length.
    fn unescape(&mut self, start: usize, scratch: &mut [u8]) -> Result<usize, JsonFault> {
        let mut length = self.at - start;
        scratch[..length].copy_from_slice(&self.text[start..self.at]);
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(length);
                }
                Some(b'\\') => {
                    let mut utf8 = [0; 4];
                    let text = self.escape()?.encode_utf8(&mut utf8).as_bytes();
                    scratch[length..length + text.len()].copy_from_slice(text);
                    length += text.len();
                }
                Some(byte) if byte < 0x20 => return self.fault(JsonDecodeError::Control),
                Some(_) => {
                    let rest = &self.text[self.at..];
                    let count = plain_prefix::<false>(rest);
                    scratch[length..length + count].copy_from_slice(&rest[..count]);
                    length += count;
                    self.at += count;
                }
                None => return self.unexpected("the end of a string"),
            }
        }
    }

    /// Takes one escape.
    fn escape(&mut self) -> Result<char, JsonFault> {
        let at = self.at;
        self.at += 2;
        let plain = match self.text.get(at + 1) {
            Some(b'u') => return self.unicode(at),
            Some(byte @ (b'"' | b'\\' | b'/')) => (*byte).into(),
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\x08',
            Some(b'f') => '\x0c',
            _ => return self.fault_at(at, JsonDecodeError::Escape),
        };
        Ok(plain)
    }

    /// Takes the digits of `\uXXXX`, and of the second half of a pair.
    fn unicode(&mut self, at: usize) -> Result<char, JsonFault> {
        let first = self.four_digits(at)?;
        let code = match first {
            0xd800..0xdc00 if self.text[self.at..].starts_with(b"\\u") => {
                self.at += 2;
                let second = self.four_digits(self.at - 2)?;
                match second {
                    0xdc00..0xe000 => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => first,
                }
            }
            _ => first,
        };
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.fault_at(at, JsonDecodeError::LoneSurrogate),
        }
    }

    fn four_digits(&mut self, escape_at: usize) -> Result<u32, JsonFault> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return self.fault_at(escape_at, JsonDecodeError::Escape);
            };
            code = code << 4 | digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// Takes digits, and adds them to `mantissa`; returns their number.
    #[inline]
    fn digits(&mut self, mantissa: &mut u64) -> usize {
        let start = self.at;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            // Wraps for more than 19 digits, which are parsed otherwise.
            *mantissa = mantissa
                .wrapping_mul(10)
                .wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Outcome {
        let start = self.at;
        let is_negative = self.peek() == Some(b'-');
        self.at += usize::from(is_negative);
        let mut mantissa = 0;
        let is_zero = self.peek() == Some(b'0');
        let whole = self.digits(&mut mantissa);
        if whole == 0 {
            return self.fault(JsonDecodeError::Number("a digit is expected"));
        }
        if is_zero && whole > 1 {
            return self.fault_at(start, JsonDecodeError::Number("it begins with 0"));
        }
        if !matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return self.integer(start, is_negative, mantissa, whole);
        }
        let mut fraction = 0;
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = self.digits(&mut mantissa);
            if fraction == 0 {
                return self.fault(JsonDecodeError::Number(
                    "a digit is expected after the point",
                ));
            }
        }
        let exponent = self.exponent()?;
        let power = exponent - fraction as i64;
        // Both are exact, so the result is rounded once. W. D. Clinger, How to Read Floating Point Numbers Accurately,
        // PLDI 1990.
        if whole + fraction <= 19 && mantissa <= EXACT_MAX && (-22..=22).contains(&power) {
            let factor = POWERS[power.unsigned_abs() as usize];
            let number = mantissa as f64;
            let number = if power < 0 {
                number / factor
            } else {
                number * factor
            };
            self.stack
                .push_number(if is_negative { -number } else { number });
            return Ok(());
        }
        self.double(start)
    }

    /// Takes the exponent, if there is one.
    fn exponent(&mut self) -> Result<i64, JsonFault> {
        if !matches!(self.peek(), Some(b'e' | b'E')) {
            return Ok(0);
        }
        self.at += 1;
        let is_negative = self.peek() == Some(b'-');
        if matches!(self.peek(), Some(b'+' | b'-')) {
            self.at += 1;
        }
        let mut value: i64 = 0;
        let start = self.at;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            value = value
                .saturating_mul(10)
                .saturating_add(i64::from(byte - b'0'));
            self.at += 1;
        }
        if self.at == start {
            return self.fault(JsonDecodeError::Number(
                "a digit is expected in the exponent",
            ));
        }
        Ok((if is_negative { -value } else { value }).clamp(-1_000_000, 1_000_000))
    }

    /// Pushes the integer that ends here: a number if it is exact, a cdata if it fits into 64 bits, else a double.
    fn integer(&mut self, start: usize, is_negative: bool, value: u64, digits: usize) -> Outcome {
        if digits <= 19 && value <= EXACT_MAX {
            let number = value as f64;
            self.stack
                .push_number(if is_negative { -number } else { number });
            return Ok(());
        }
        let text = self.token(start);
        let (bits, is_unsigned) = match (text.parse::<i64>(), text.parse::<u64>()) {
            (Ok(value), _) => (value, false),
            (_, Ok(value)) => (value as i64, true),
            _ => return self.double(start),
        };
        // SAFETY: a valid state with room; it raises as this function's callers expect.
        unsafe { shim::yue_shim_push_int64(self.state, bits, is_unsigned.into()) };
        Ok(())
    }

    /// Pushes the number that ends here as a double.
    fn double(&mut self, start: usize) -> Outcome {
        match self.token(start).parse::<f64>() {
            Ok(number) if number.is_finite() => {
                self.stack.push_number(number);
                Ok(())
            }
            _ => self.fault_at(start, JsonDecodeError::NumberTooLarge),
        }
    }

    /// The text of the number that ends here, which is ASCII.
    fn token(&self, start: usize) -> &str {
        str::from_utf8(&self.text[start..self.at]).unwrap_or_default()
    }
}

/// The powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

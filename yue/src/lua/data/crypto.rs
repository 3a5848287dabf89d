//! Cryptography: the natives under `yue.crypto`, except those of passwords.

use crate::lua::host::errors::error;
use crate::lua::native::{native, register};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use yue_luajit::{Error, Stack};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation;

/// Reads both forms of base64, with and without `=` at the end.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// RFC 4648, section 4.
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
/// RFC 4648, section 5: for URLs and file names; without `=`.
const URL: GeneralPurpose =
    GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT.with_encode_padding(false));

fn engine(is_url: bool) -> &'static GeneralPurpose {
    const { &[STANDARD, URL] }
        .get(usize::from(is_url))
        .unwrap_or(&STANDARD)
}

fn refused(text: String) -> Error {
    error(ErrorKind::Argument, text)
}

native! {
    /// `random(count)`: bytes of the system's generator.
    Random = "random", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(count) -> Vec<u8> {
        let mut bytes = vec![0; count as usize];
        simulation::fill_random(&mut bytes)
            .map_err(|failure| error(ErrorKind::Runtime, format!("the system has no random bytes: {failure}")))?;
        Ok(bytes)
    }
}

native! {
    Sha256Of = "sha256", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(bytes) -> Vec<u8> { Ok(Sha256::digest(bytes).to_vec()) }
}

native! {
    /// `hmac(key, bytes)`: HMAC-SHA256 (RFC 2104).
    HmacOf = "hmac", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((key, bytes)) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|failure| refused(failure.to_string()))?;
        mac.update(bytes);
        Ok(mac.finalize().into_bytes().to_vec())
    }
}

native! {
    /// `base64(bytes, url)`.
    Base64 = "base64", suspends: false;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((bytes, is_url)) -> String { Ok(engine(is_url).encode(bytes)) }
}

native! {
    /// `base64_decode(text, url)`.
    Base64Decode = "base64_decode", suspends: false;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((text, is_url)) -> Vec<u8> {
        engine(is_url).decode(text).map_err(|failure| refused(format!("the text is not base64: {failure}")))
    }
}

native! {
    Hex = "hex", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(bytes) -> Vec<u8> {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value & 15)];
        Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect())
    }
}

native! {
    HexDecode = "hex_decode", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> Vec<u8> {
        let (pairs, rest) = text.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(refused("the text is not hexadecimal: its length is odd".to_owned()));
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        let bytes: Option<Vec<u8>> = pairs.iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect();
        bytes.ok_or_else(|| {
            let at = text.iter().position(|byte| digit(*byte).is_none()).unwrap_or(0);
            refused(format!("the text is not hexadecimal: byte {} is not a digit", at + 1))
        })
    }
}

native! {
    /// `equal(a, b)`: compares in a time that depends on the lengths alone.
    Equal = "equal", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((a, b)) -> bool { Ok(a.ct_eq(b).into()) }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Random, Sha256Of, HmacOf, Base64, Base64Decode, Hex, HexDecode, Equal);
}

//! The name in a certificate.
//!
//! A subject is a list of attributes in DER (X.501, RFC 5280 section 4.1.2.4):
//!
//! ```text
//!   SET { SEQUENCE { OBJECT IDENTIFIER 2.5.4.3, UTF8String "alice" } }  SET { … }
//! ```

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The attribute type of a common name: 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Returns the name that a certificate was issued for: its common name (`CN`) or, if it has none, its first DNS name or
/// URI.
///
/// The name means something only if the certificate was verified.
///
/// ```
/// use yue_io::tls::certificate_name;
///
/// # let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
/// # let certificate = made.cert.der().clone();
/// // rcgen's default common name.
/// assert_eq!(certificate_name(&certificate).as_deref(), Some("rcgen self signed cert"));
/// assert_eq!(certificate_name(&b"no certificate".as_slice().into()), None);
/// ```
pub fn certificate_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    common_name(certificate.subject())
        .or_else(|| certificate.valid_dns_names().next().map(str::to_owned))
        .or_else(|| certificate.valid_uri_names().next().map(str::to_owned))
}

/// The common name among the attributes of a subject.
fn common_name(mut subject: &[u8]) -> Option<String> {
    while !subject.is_empty() {
        let mut attributes = take(&mut subject, SET)?;
        while !attributes.is_empty() {
            let mut attribute = take(&mut attributes, SEQUENCE)?;
            if take(&mut attribute, OBJECT_IDENTIFIER)? == COMMON_NAME {
                let text = [UTF8_STRING, PRINTABLE_STRING, IA5_STRING]
                    .into_iter()
                    .find_map(|tag| take(&mut attribute, tag))?;
                return String::from_utf8(text.to_vec()).ok();
            }
        }
    }
    None
}

/// Removes an element from the front of `der`, if it has that tag, and returns its content.
fn take<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&first, rest) = der.split_first()?;
    if first != tag {
        return None;
    }
    let (&length, mut rest) = rest.split_first()?;
    let mut length = usize::from(length);
    // Above 127 the byte holds the number of bytes of the length.
    if length >= 0x80 {
        let (bytes, after) = rest.split_at_checked(length - 0x80)?;
        if bytes.len() > 3 {
            return None;
        }
        length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (content, rest) = rest.split_at_checked(length)?;
    *der = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_is_found_among_other_attributes() {
        let country = b"\x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02DE";
        let name = b"\x31\x0e\x30\x0c\x06\x03\x55\x04\x03\x0c\x05alice";
        let both = [&country[..], &name[..]].concat();
        assert_eq!(common_name(&both).as_deref(), Some("alice"));
        assert_eq!(common_name(country), None);
        assert_eq!(common_name(b""), None);
    }

    #[test]
    fn a_malformed_subject_has_no_name() {
        let name = b"\x31\x0e\x30\x0c\x06\x03\x55\x04\x03\x0c\x05alice";
        for end in 0..name.len() {
            assert_eq!(common_name(&name[..end]), None);
        }
        for at in 0..name.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut bent = *name;
                bent[at] = byte;
                let _ = common_name(&bent);
            }
        }
    }
}

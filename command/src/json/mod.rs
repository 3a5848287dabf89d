//! JSON and msgpack: the arguments and the results of calls that a shell makes.
//!
//! JSON has fewer values than msgpack. An object with one key that begins with `$` stands for a value that JSON lacks,
//! in both directions:
//!
//! ```text
//!   {"$base64": "/wA="}     bytes that are not UTF-8
//!   {"$number": "nan"}      nan, inf or -inf
//!   {"$ext": [5, "AQ=="]}   an extension type of another program: its number, and its bytes
//!   {"$function": 7}        a function of the peer; the shell cannot pass it on
//! ```

mod arguments;

use crate::table::acts_on_terminal;

pub(crate) use arguments::{append, encode, encode_values};
pub(crate) use yue_rpc::http::ResultStyle as Style;

/// Returns `count` values in msgpack as JSON: null for none, one as it is, several as an array. `None` if the bytes are
/// not so many whole values.
///
/// The bytes are a server's. Control characters are escaped, so that no answer can act on a terminal.
pub(crate) fn write_results(values: &[u8], count: u32, style: Style) -> Option<String> {
    yue_rpc::http::results_to_text(values, count, style, acts_on_terminal)
}

#[cfg(test)]
mod tests {
    use super::{Style, encode, write_results};

    #[test]
    fn what_is_printed_can_be_passed_again() {
        let bytes = [
            &[0xc4, 2, 0xff, 0][..],
            &[0xd4, 5, 1],
            &[0xcb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0],
            &[0x81, 0xa1, b'k', 0x92, 0xc3, 0xc0],
        ]
        .concat();
        let text = write_results(&bytes, 4, Style::Line).unwrap();
        assert_eq!(encode(&text).unwrap(), (bytes, 4));
    }
}

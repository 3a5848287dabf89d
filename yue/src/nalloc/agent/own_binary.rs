//! This program's own file, which runs the nodes at agents of another version.

use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Mutex;
use yue_scheduler::{blocking, lock};

/// The file of the running program, even if another has taken its place since.
const SELF: &str = "/proc/self/exe";

/// The bytes that are read at a time.
const PIECE: usize = 1 << 18;

/// A program's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The SHA-256 of its bytes, in hexadecimal digits.
    pub hash: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Binary {
    /// Reads all of a file.
    ///
    /// # Errors
    /// The system's.
    pub fn of(mut file: impl Read) -> io::Result<Binary> {
        let mut context = Context::new(&SHA256);
        let (mut piece, mut size) = (vec![0; PIECE], 0);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    context.update(&piece[..count]);
                    size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let digits = context.finish();
        let digits = digits.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Ok(Binary {
            hash: digits.collect(),
            size,
        })
    }
}

/// Whether a text is a SHA-256 in hexadecimal digits, as [`Binary::hash`] has it. It is then safe as a file's name.
pub fn is_hash(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}

/// This program's file. It is read once; meanwhile the fiber waits.
///
/// # Errors
/// The system's.
pub fn own_binary() -> io::Result<Binary> {
    static KNOWN: Mutex<Option<Binary>> = Mutex::new(None);
    if let Some(known) = &*lock(&KNOWN) {
        return Ok(known.clone());
    }
    let read = blocking(|| Binary::of(File::open(SELF)?)).map_err(io::Error::other)??;
    Ok(lock(&KNOWN).insert(read).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_known_by_its_hash() {
        let binary = Binary::of(&b"abc"[..]).unwrap();
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((&binary.hash[..], binary.size), (hash, 3));
        assert!(is_hash(hash));
        assert!(!is_hash("../../etc/passwd") && !is_hash(&hash.to_uppercase()));
    }
}

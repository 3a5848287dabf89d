//! An HTTP client that speaks by hand, over any stream.

use std::io::{self, Read, Write};

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header, in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_lowercase())
    }

    pub fn closes(&self) -> bool {
        self.header("connection").as_deref() == Some("close")
    }
}

/// A request with more headers, each ended by a line break.
pub fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {headers}\r\n{body}",
        body.len()
    )
}

/// Reads an answer with a length.
pub fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let head = read_head(stream)?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let mut answer = Answer {
        status: status.unwrap_or_else(|| panic!("a status: {head}")),
        head,
        body: String::new(),
    };
    let length = answer.header("content-length");
    let length = length.map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    answer.body = String::from_utf8(body).expect("text");
    Ok(answer)
}

fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Sends a request, and reads its answer.
pub fn ask<S: Read + Write>(stream: &mut S, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    read_answer(stream).unwrap()
}

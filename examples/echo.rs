//! A TCP echo server on fibers, over plain `std::io::{Read, Write}`.
//!
//! Run it with `cargo run --release -p yue --example echo -- 127.0.0.1:7777`, and talk to it with `nc 127.0.0.1 7777`.
use std::io::{self, Read, Write};
use yue::net::TcpListener;

fn main() -> io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7777".to_owned());
    yue::Runtime::new()?.run(move || {
        for stream in TcpListener::bind(address)?.incoming() {
            let mut stream = stream?;
            drop(yue::spawn(move || -> io::Result<()> {
                let mut buffer = [0; 4096];
                while let count @ 1.. = stream.read(&mut buffer)? {
                    stream.write_all(&buffer[..count])?;
                }
                Ok(())
            }));
        }
        Ok(())
    })
}

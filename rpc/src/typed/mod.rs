//! Calls with Rust's own types: serde on both sides, one line each.
//!
//! ```
//! use yue_rpc::Error;
//! use yue_rpc::typed::{Client, Server, peer};
//!
//! yue_io::run(|| -> Result<(), Error> {
//!     let listener = Server::new()
//!         .handler("add", |(a, b): (i64, i64)| Ok(a + b))
//!         .handler("greet", |()| {
//!             // Asks the caller back, in the middle of its call.
//!             let name: String = peer().ok_or("no peer")?.call("name", ())?;
//!             Ok(format!("hello {name}"))
//!         })
//!         .listen("tcp://127.0.0.1:0")?;
//!
//!     let us = Server::new().handler("name", |()| Ok("world"));
//!     let client = Client::open_with(&listener.address().to_string(), us, Default::default())?;
//!     let sum: i64 = client.call("add", (1, 2))?;
//!     assert_eq!(sum, 3);
//!     let greeting: String = client.call("greet", ())?;
//!     assert_eq!(greeting, "hello world");
//!     Ok(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Arguments: a tuple (or a list) holds one value for each argument; `()` means no arguments; anything else is a single
//! argument. Results: one value, or a tuple if the peer returns several. Structs are sent as maps with their fields'
//! names, as other languages expect, and are accepted both as maps and as arrays.

mod client;
mod server;
mod values;

pub use client::{Caller, Client, encode_call, peer};
pub use server::Server;

//! Calls with Rust's own types: serde on both sides, one line each.
//!
//! ```
//! use yue_rpc::typed::{Client, Server, peer};
//! use yue_scheduler::{Config, Loop};
//!
//! let config = Config { driver: yue_io::driver(yue_io::Choice::Auto).unwrap(), ..Config::default() };
//! Loop::new(config).unwrap().run(|| {
//!     let listener = Server::new()
//!         .handler("add", |(a, b): (i64, i64)| Ok(a + b))
//!         .handler("greet", |()| {
//!             // Asks the caller back, in the middle of its call.
//!             let name: String = peer().ok_or("no peer")?.call("name", ())?;
//!             Ok(format!("hello {name}"))
//!         })
//!         .listen("tcp://127.0.0.1:0")
//!         .unwrap();
//!
//!     let us = Server::new().handler("name", |()| Ok("world"));
//!     let client = Client::open_with(&listener.address().to_string(), us, Default::default()).unwrap();
//!     assert_eq!(client.call::<_, i64>("add", (1, 2)).unwrap(), 3);
//!     assert_eq!(client.call::<_, String>("greet", ()).unwrap(), "hello world");
//!     listener.close();
//! });
//! ```
//!
//! Arguments: a tuple (or a list) holds one value for each argument; `()` is none; anything else is a single argument.
//! Results: one value; several from a peer that returns several, as a tuple. Structs travel as maps with their fields'
//! names, which is what other languages expect, and are understood as maps and as arrays.

mod client;
mod server;
mod values;

pub use client::{Caller, Client, peer};
pub use server::Server;

//! Counts primes in processes of its own program: `cargo run --example nodes`.
//!
//! A node that crashes takes nothing with it but its call, and another one follows.

use yue::nalloc::{Node, Restart, serve};
use yue::rpc::typed::Server;
use yue::rpc::{Error, ErrorKind};

/// The server of a node.
fn primes() -> Server {
    Server::new()
        .handler("count", |(from, to): (u64, u64)| {
            Ok((from..to).filter(|n| is_prime(*n)).count())
        })
        .handler("crash", |()| -> Result<(), _> { std::process::abort() })
}

fn is_prime(n: u64) -> bool {
    n > 1
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In a node this does not return.
    serve(&[("primes", primes)]);
    yue::Runtime::new()?.run(|| {
        let parts: Vec<_> = (0..4u64)
            .map(|part| {
                yue::spawn(move || -> Result<usize, Error> {
                    let node = Node::allocate("primes")?;
                    node.call("count", (part * 25_000, (part + 1) * 25_000))
                })
            })
            .collect();
        let mut sum = 0;
        for part in parts {
            sum += part.join()??;
        }
        println!("{sum} primes below 100000");

        let node = Node::builder("primes")
            .restart(Restart::AtCall)
            .allocate()?;
        let error = node.call::<_, ()>("crash", ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        println!("{}", error.message());
        let count: usize = node.call("count", (0, 10))?;
        println!("node {} counts {count}", node.epoch());

        let error = Node::allocate("nothing").unwrap_err();
        println!("{}", error.message());
        Ok(())
    })
}

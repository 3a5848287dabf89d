//! tarpc for row 9: a Rust client and a Rust server, each on tokio's current-thread runtime in a separate process.
//!
//! It uses bincode over length-delimited frames, and sends small messages at once. The limits on calls in flight are
//! raised to what the case needs: otherwise the row would measure the limits instead of the transport.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tarpc::serde_transport::Transport;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::{Framed, LengthDelimitedCodec};
use tarpc::{client, context};
use tokio::net::{TcpListener, TcpStream};

use super::served_load::ready;
use crate::harness::lua::Calls;
use crate::harness::process::{Running, cpu_of, own_program};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Effort, Problem, Sample};

#[tarpc::service]
trait Echo {
    async fn echo(value: i64) -> i64;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: context::Context, value: i64) -> i64 {
        value
    }
}

fn frames(stream: TcpStream) -> Result<Framed<TcpStream, LengthDelimitedCodec>, Problem> {
    stream.set_nodelay(true)?;
    Ok(Framed::new(stream, LengthDelimitedCodec::new()))
}

/// Serves until the process ends.
pub fn serve() -> Result<(), Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = crate::epoll::listen()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        ready(listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            let transport: Transport<_, _, _, _> =
                tarpc::serde_transport::new(frames(stream)?, Bincode::default());
            let calls = BaseChannel::with_defaults(transport).execute(Server.serve());
            tokio::spawn(calls.for_each(|call| async {
                tokio::spawn(call);
            }));
        }
    })
}

/// Measures calls per second in a closed loop, and their cost on each side.
pub fn measure(calls: Calls, effort: Effort) -> Result<Sample, Problem> {
    let processors = Processors::detect()?;
    let mut server = Running::start_bound(
        own_program(&["serve", "rpc-tarpc"])?,
        processors,
        Side::Server,
    )?;
    processors.bind(Side::Client)?;
    let port = server.port()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(
        &runtime,
        load(port, calls, effort.seconds(calls.seconds), &server),
    )
}

async fn load(port: u16, calls: Calls, seconds: f64, server: &Running) -> Result<Sample, Problem> {
    let answered = Rc::new(Cell::new(0_u64));
    let mut config = client::Config::default();
    config.max_in_flight_requests = calls.in_flight.max(config.max_in_flight_requests);
    config.pending_request_buffer = calls.in_flight.max(config.pending_request_buffer);
    let mut clients = Vec::with_capacity(calls.connections);
    for _ in 0..calls.connections {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let transport = tarpc::serde_transport::new(frames(stream)?, Bincode::default());
        clients.push(EchoClient::new(config.clone(), transport).spawn());
    }
    for (connection, client) in clients.iter().enumerate() {
        for index in 0..calls.in_flight {
            let value = ((connection + index) % 100) as i64;
            tokio::task::spawn_local(caller(client.clone(), value, Rc::clone(&answered)));
        }
    }
    tokio::time::sleep(Duration::from_secs_f64(seconds / 4.0)).await;
    let (before, own_before, server_before) = (answered.get(), cpu_of(0)?, server.cpu()?);
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let elapsed = start.elapsed();
    let count = (answered.get() - before) as f64;
    if count == 0.0 {
        return Err(Problem::failed("tarpc answered nothing"));
    }
    let per_million = |cpu: Duration| cpu.as_secs_f64() / count * 1e6;
    Ok(Sample::of(count / elapsed.as_secs_f64())
        .with(
            "client_cpu_s_per_million",
            per_million(cpu_of(0)?.saturating_sub(own_before)),
        )
        .with(
            "server_cpu_s_per_million",
            per_million(server.cpu()?.saturating_sub(server_before)),
        ))
}

async fn caller(client: EchoClient, value: i64, answered: Rc<Cell<u64>>) {
    // A wrong answer or an error ends this caller. A figure without answers is rejected.
    while client
        .echo(context::current(), value)
        .await
        .is_ok_and(|answer| answer == value)
    {
        answered.set(answered.get() + 1);
    }
}

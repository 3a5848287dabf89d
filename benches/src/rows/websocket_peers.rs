//! WebSocket peers for row 15: servers that answer each message with one of the size of an answer, and a client that
//! keeps a number of messages in flight.
//!
//! The client and one server are tokio-tungstenite on tokio's current-thread runtime; the other server is npm's `ws`.
//! Both sides write what they have to say together, as yue does: a message waits in the buffer until there is nothing
//! more to read.

use std::process::Command;
use std::time::{Duration, Instant};

use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, connect_async};

use super::rpc_tcp::{REQUEST_BYTES, RESPONSE_BYTES};
use super::served_load::ready;
use crate::epoll::allow_descriptors;
use crate::harness::lua::Calls;
use crate::harness::process::{Running, on_path, own_program, script};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Effort, Problem, Sample};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Returns the command of the server in Rust.
pub fn tungstenite() -> Result<Command, Problem> {
    own_program(&["serve", "ws-tungstenite"])
}

/// Returns the command of the server in JavaScript.
pub fn npm() -> Result<Command, Problem> {
    let node = on_path("node").ok_or_else(|| Problem::NotFound("node".to_owned()))?;
    let mut command = Command::new(node);
    command.arg(script("../js/ws_server.js"));
    Ok(command)
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::failed(error.to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

/// Serves with tokio-tungstenite until the process ends.
pub fn serve() -> Result<(), Problem> {
    runtime()?.block_on(async {
        let listener = crate::epoll::listen()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        ready(listener.local_addr()?.port())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // A client that breaks off ends its task.
                if let Ok(socket) = accept_async(stream).await {
                    let _ = answer(socket).await;
                }
            });
        }
    })
}

async fn answer(
    mut socket: WebSocketStream<TcpStream>,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let response = Bytes::from_static(&[b'r'; RESPONSE_BYTES]);
    while let Some(message) = socket.next().await {
        let mut next = Some(message);
        while let Some(message) = next {
            if message?.is_binary() {
                socket.feed(Message::Binary(response.clone())).await?;
            }
            next = socket.next().now_or_never().flatten();
        }
        socket.flush().await?;
    }
    Ok(())
}

struct Server {
    running: Running,
    port: u16,
}

fn start(server: Command) -> Result<Server, Problem> {
    let mut running = Running::start_bound(server, Processors::detect()?, Side::Server)?;
    let port = running.port()?;
    Ok(Server { running, port })
}

async fn connect(port: u16) -> Result<Client, Problem> {
    let (client, _) = connect_async(format!("ws://127.0.0.1:{port}/"))
        .await
        .map_err(failed)?;
    if let MaybeTlsStream::Plain(stream) = client.get_ref() {
        stream.set_nodelay(true)?;
    }
    Ok(client)
}

/// Measures messages per second in a closed loop, and their cost for the server.
pub fn measure(server: Command, calls: Calls, effort: Effort) -> Result<Sample, Problem> {
    let server = start(server)?;
    Processors::detect()?.bind(Side::Client)?;
    let seconds = effort.seconds(calls.seconds);
    runtime()?.block_on(async {
        let mut client = connect(server.port).await?;
        let request = Bytes::from_static(&[b'q'; REQUEST_BYTES]);
        for _ in 0..calls.in_flight {
            let message = Message::Binary(request.clone());
            client.feed(message).await.map_err(failed)?;
        }
        client.flush().await.map_err(failed)?;
        load(&mut client, &request, seconds / 4.0).await?;
        let cpu = server.running.cpu()?;
        let began = Instant::now();
        let answered = load(&mut client, &request, seconds).await?;
        let elapsed = began.elapsed().as_secs_f64();
        let cpu = server.running.cpu()?.saturating_sub(cpu);
        let count = answered as f64;
        Ok(Sample::of(count / elapsed)
            .with("server_cpu_s_per_million", cpu.as_secs_f64() / count * 1e6))
    })
}

/// Sends a request for each answer, until the time has passed. Returns the number of answers.
async fn load(client: &mut Client, request: &Bytes, seconds: f64) -> Result<u64, Problem> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut answered = 0;
    while Instant::now() < end {
        let mut next = client.next().await;
        loop {
            let message = next.ok_or_else(|| Problem::failed("the server has ended"))?;
            if message.map_err(failed)?.len() != RESPONSE_BYTES {
                return Err(Problem::failed("a wrong answer"));
            }
            answered += 1;
            let message = Message::Binary(request.clone());
            client.feed(message).await.map_err(failed)?;
            match client.next().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        client.flush().await.map_err(failed)?;
    }
    Ok(answered)
}

/// Measures the server's memory for a connection that has been used once.
pub fn idle(server: Command, count: usize) -> Result<Sample, Problem> {
    allow_descriptors(count)?;
    let server = start(server)?;
    Processors::detect()?.bind(Side::Client)?;
    runtime()?.block_on(async {
        let before = server.running.used_bytes()?;
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = connect(server.port).await?;
            let request = Bytes::from_static(&[b'q'; REQUEST_BYTES]);
            let message = Message::Binary(request);
            client.send(message).await.map_err(failed)?;
            client.next().await.transpose().map_err(failed)?;
            clients.push(client);
        }
        let grown = server.running.used_bytes()?.saturating_sub(before);
        Ok(Sample::of(grown as f64 / count as f64))
    })
}

//! Row 13: two of the example servers under established load generators, beside common alternatives.
//!
//! `examples/kvs.rs` is loaded by `redis-benchmark`, like `redis-server`; `examples/http.rs` is loaded by `wrk`, like a
//! small server on hyper. Every server is one process with one loop on the first processor; the generator has the
//! second.
//!
//! The figure is the number of requests that a processor would answer if it did nothing but serve: requests per second
//! of the server's CPU time, connecting included. The rate that the generator reports is shown beside it. That rate
//! depends on the generator as much as on the server: if the generator is slower, a faster server sleeps more often,
//! and waking it costs the generator.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::epoll::allow_descriptors;
use crate::harness::process::{Running, on_path};
use crate::harness::processors::{Processors, Side};
use crate::harness::{Against, Case, Effort, Problem, Row, Sample, Unit};

const URING: &str = "yue (io_uring)";
const MIO: &str = "yue (mio)";
/// The time limit for a server to start listening.
const START_MAX: Duration = Duration::from_secs(10);

/// Returns the row.
pub fn row() -> Row {
    let mut cases = Vec::new();
    for pipelined in [1, 32] {
        cases.extend([50, 1_000].map(|connections| store(connections, pipelined)));
    }
    cases.extend([50, 1_000].map(pages));
    Row {
        number: 13,
        title: "the example servers under redis-benchmark and wrk",
        method: "One unit: a request and its answer. Key-value server: as many SETs as GETs, 64 bytes, 10 000 keys. \
                 HTTP: GET of 13 bytes, keep-alive.",
        cases,
        notes: Vec::new(),
    }
}

/// Returns the case of the key-value server with `pipelined` commands at once per connection.
fn store(connections: usize, pipelined: usize) -> Case {
    let by = move |driver| {
        move |effort| {
            let server = example("kvs", driver)?;
            redis_benchmark(server, connections, pipelined, effort)
        }
    };
    let name =
        format!("key-value server, {connections} connections, {pipelined} in flight on each");
    let case = Case::new(name, Unit::rate("requests / CPU second of the server"))
        .ours(URING, by("uring"))
        .ours(MIO, by("mio"))
        .peer("redis-server", move |effort| {
            redis_benchmark(redis_server()?, connections, pipelined, effort)
        });
    with_goals(case)
}

/// Returns the case of the HTTP server.
fn pages(connections: usize) -> Case {
    let by = move |driver| move |effort| wrk(example("http", driver)?, connections, effort);
    let name = format!("HTTP server, {connections} connections");
    let case = Case::new(name, Unit::rate("requests / CPU second of the server"))
        .ours(URING, by("uring"))
        .ours(MIO, by("mio"));
    #[cfg(feature = "peers")]
    let case = case.peer("hyper on tokio (current thread)", move |effort| {
        wrk(peers::hyper_server()?, connections, effort)
    });
    with_goals(case)
}

fn with_goals(case: Case) -> Case {
    case.goal(URING, Against::EveryPeer, 1.0)
        .goal(MIO, Against::EveryPeer, 1.0)
}

/// A listening server.
struct Server {
    running: Running,
    port: u16,
}

fn start(command: Command) -> Result<Running, Problem> {
    Running::start_bound(command, Processors::detect()?, Side::Server)
}

/// Starts one of our example servers on a driver.
fn example(name: &str, driver: &str) -> Result<Server, Problem> {
    let program = std::env::current_exe()?;
    // Beside this program, or one level up if it is in the folder of benches.
    let found = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("examples").join(name))
        .find(|file| file.is_file());
    let file = found.ok_or_else(|| {
        Problem::failed(
            "found no examples beside this program (cargo build --release -p yue --examples)",
        )
    })?;
    let mut command = Command::new(file);
    command.arg("127.0.0.1:0").env("YUE_IO", driver);
    let mut running = start(command)?;
    let address = running.line_after("serving at")?;
    let port = address.trim_end_matches('/').rsplit(':').next();
    let port = port.and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| Problem::failed(format!("not an address: {address:?}")))?;
    Ok(Server { running, port })
}

fn installed(program: &str) -> Result<PathBuf, Problem> {
    on_path(program).ok_or_else(|| Problem::NotFound(program.to_owned()))
}

/// Starts Redis as a pure server that writes nothing to disk.
fn redis_server() -> Result<Server, Problem> {
    let mut command = Command::new(installed("redis-server")?);
    // If another process takes the port in between, the start fails; the figure cannot be wrong.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = free.local_addr()?.port();
    drop(free);
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no", "--loglevel", "warning"])
        .args(["--tcp-backlog", "4096"])
        .current_dir(std::env::temp_dir());
    let running = start(command)?;
    let deadline = Instant::now() + START_MAX;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline {
            return Err(Problem::failed("redis-server does not listen"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Server { running, port })
}

/// Runs a load generator on the other processor. Returns its output and the server's CPU time.
fn generate(
    server: &Server,
    program: &str,
    arguments: &[String],
) -> Result<(String, Duration), Problem> {
    let mut command = Command::new(installed(program)?);
    Processors::detect()?.bind_command(&mut command, Side::Client);
    let before = server.running.cpu()?;
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let cpu = server.running.cpu()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(Problem::failed(format!(
            "{program}: {} {text}",
            output.status
        )));
    }
    Ok((text, cpu))
}

/// Combines the figure with the rate that the generator reported.
fn sample(requests: f64, cpu: Duration, rate: f64) -> Sample {
    Sample::of(requests / cpu.as_secs_f64()).with("requests_per_s", rate)
}

fn redis_benchmark(
    server: Server,
    connections: usize,
    pipelined: usize,
    effort: Effort,
) -> Result<Sample, Problem> {
    /// Requests of each command, without and with pipelining: one to two seconds.
    const REQUESTS: usize = 150_000;
    const REQUESTS_PIPELINED: usize = 1_500_000;
    let requests = match pipelined {
        1 => effort.count(REQUESTS),
        _ => effort.count(REQUESTS_PIPELINED),
    };
    allow_descriptors(connections)?;
    let run = |requests: usize| {
        let text = format!(
            "-h 127.0.0.1 -p {} -c {connections} -P {pipelined} -n {requests} -r 10000 -d 64 -t set,get --csv",
            server.port
        );
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        generate(&server, "redis-benchmark", &arguments)
    };
    run(requests / 5)?;
    let (text, cpu) = run(requests)?;
    let (set, get) = (csv_rate(&text, "SET")?, csv_rate(&text, "GET")?);
    let rate = 2.0 / (1.0 / set + 1.0 / get);
    Ok(sample(2.0 * requests as f64, cpu, rate)
        .with("set_per_s", set)
        .with("get_per_s", get))
}

/// Returns the second field of the line `"GET","123456.78",…`.
fn csv_rate(text: &str, command: &str) -> Result<f64, Problem> {
    let found = text.lines().find_map(|line| {
        let mut words = line.split(',').map(|word| word.trim_matches('"'));
        (words.next()? == command).then(|| words.next()?.parse().ok())?
    });
    found.ok_or_else(|| {
        Problem::failed(format!(
            "redis-benchmark printed no rate of {command}: {text}"
        ))
    })
}

fn wrk(server: Server, connections: usize, effort: Effort) -> Result<Sample, Problem> {
    const SECONDS: f64 = 3.0;
    allow_descriptors(connections)?;
    let run = |seconds: f64| {
        let seconds = seconds.ceil();
        let text = format!(
            "-t 1 -c {connections} -d {seconds}s http://127.0.0.1:{}/",
            server.port
        );
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        generate(&server, "wrk", &arguments)
    };
    run(1.0)?;
    let (text, cpu) = run(effort.seconds(SECONDS))?;
    let (requests, rate) = wrk_result(&text)?;
    Ok(sample(requests, cpu, rate))
}

/// Parses the number of requests and the request rate from wrk's output.
fn wrk_result(text: &str) -> Result<(f64, f64), Problem> {
    let wrong = || Problem::failed(format!("wrk printed {text:?}"));
    // wrk prints these lines only if there were errors.
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(wrong());
    }
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let requests = text
        .lines()
        .find_map(|line| number(line.split_once(" requests in ")?.0));
    let rate = text
        .lines()
        .find_map(|line| number(line.trim().strip_prefix("Requests/sec:")?));
    requests.zip(rate).ok_or_else(wrong)
}

/// Runs the server of this name until the process ends. Returns `None` if this row has no such server.
pub fn serve(server: &str) -> Option<Result<(), Problem>> {
    match server {
        #[cfg(feature = "peers")]
        "http-hyper" => Some(peers::serve_hyper()),
        _ => None,
    }
}

#[cfg(feature = "peers")]
mod peers {
    use super::{Problem, Server, start};
    use crate::harness::process::own_program;
    use crate::rows::served_load::ready;
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    use hyper::header::{CONTENT_TYPE, HeaderValue};
    use hyper::{Method, Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;

    pub fn hyper_server() -> Result<Server, Problem> {
        let mut running = start(own_program(&["serve", "http-hyper"])?)?;
        let port = running.port()?;
        Ok(Server { running, port })
    }

    /// Serves with hyper on tokio's current-thread runtime, one task per connection. Like our example, it sends no date
    /// and flushes the answers to pipelined requests together.
    pub fn serve_hyper() -> Result<(), Problem> {
        let listener = crate::epoll::listen()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            ready(listener.local_addr()?.port())?;
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .auto_date_header(false)
                        .pipeline_flush(true)
                        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer)),
                );
            }
        })
    }

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body): (_, &[u8]) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => (StatusCode::OK, b"hello, world\n"),
            (_, "/") => (StatusCode::METHOD_NOT_ALLOWED, b""),
            _ => (StatusCode::NOT_FOUND, b"there is no such page\n"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(body)));
        *response.status_mut() = status;
        let kind = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_are_parsed_from_redis_benchmarks_output() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"1000.50\",\"0.2\"\n\"GET\",\"2000.00\",\"0.1\"\n";
        assert_eq!(csv_rate(text, "SET").ok(), Some(1000.5));
        assert_eq!(csv_rate(text, "GET").ok(), Some(2000.0));
        assert!(csv_rate(text, "PING").is_err());
    }

    #[test]
    fn a_run_of_wrk_counts_only_if_every_request_was_answered() {
        let good = "  2 threads\n  30105 requests in 3.01s, 4.2MB read\nRequests/sec:  10001.66\nTransfer/sec: 1MB\n";
        assert_eq!(wrk_result(good).ok(), Some((30_105.0, 10_001.66)));
        let errors = format!("{good}  Socket errors: connect 0, read 7, write 0, timeout 0\n");
        assert!(wrk_result(&errors).is_err());
        assert!(wrk_result(&format!("{good}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(wrk_result("unable to connect").is_err());
    }
}

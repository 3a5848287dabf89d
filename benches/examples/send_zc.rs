//! Measures whether a zero-copy send (`SEND_ZC`) is worth its second completion: sends of 4 KiB to 1 MiB on a bare ring
//! over the loopback, one in flight, with the reader on another processor. Also measures the sender's cost per
//! megabyte.
//!
//! ```text
//! cargo run --release -p yue-benches --example send_zc
//! ```
//!
//! The loopback is the worst case: the reader gets the sender's own pages, so the kernel copies them on the way after
//! all (the column `copied` shows for what share of sends). A real network card needs no copy. To measure one, name an
//! address that reads and discards, for example `nc -lk 9999 > /dev/null`:
//!
//! ```text
//! cargo run --release -p yue-benches --example send_zc -- 192.0.2.7:9999
//! ```

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use yue_benches::harness::processors::{Processors, Side};

/// Bytes of one measurement.
const TOTAL: usize = 128 << 20;
const ROUNDS: usize = 5;
const LARGEST: usize = 1 << 20;
/// `IORING_SEND_ZC_REPORT_USAGE`: the notification reports whether the bytes were copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`.
const COPIED: i32 = i32::MIN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Copy,
    ZeroCopy,
    /// Zero-copy from registered memory: the kernel need not look up its pages for each send.
    Registered,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    mib_per_s: f64,
    cpu_us_per_mib: f64,
    copied: f64,
}

fn main() -> io::Result<()> {
    let processors = Processors::detect()?;
    let address = match std::env::args().nth(1) {
        Some(address) => address,
        None => start_discarding_reader(processors)?,
    };
    processors.bind(Side::Server)?;
    println!(
        "  bytes/send   method       MiB/s   sender's CPU µs/MiB   copied   (medians of {ROUNDS})"
    );
    for shift in [12, 14, 16, 18, 20] {
        let mut measured = [const { Vec::new() }; 3];
        let methods = [Method::Copy, Method::ZeroCopy, Method::Registered];
        for _ in 0..ROUNDS {
            for (method, measured) in methods.iter().zip(&mut measured) {
                measured.push(measure(&address, *method, 1 << shift)?);
            }
        }
        for (method, measured) in methods.iter().zip(measured) {
            let median = |of: fn(&Measured) -> f64| {
                let mut all: Vec<f64> = measured.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!(
                "{:12}   {:10} {:7.0} {:21.1} {:7.0}%",
                1 << shift,
                format!("{method:?}"),
                median(|one| one.mib_per_s),
                median(|one| one.cpu_us_per_mib),
                median(|one| one.copied) * 100.0
            );
        }
    }
    Ok(())
}

/// Starts a thread that reads from its clients, one after another, and discards the bytes.
fn start_discarding_reader(processors: Processors) -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || -> io::Result<()> {
        processors.bind(Side::Client)?;
        let mut buffer = vec![0; LARGEST];
        loop {
            let mut stream = listener.accept()?.0;
            while stream.read(&mut buffer)? > 0 {}
        }
    });
    Ok(address)
}

fn measure(address: &str, method: Method, bytes: usize) -> io::Result<Measured> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"warm")?;
    // Declared before the ring, so that the ring is dropped first: the kernel reads this memory while the ring exists.
    let data = vec![7; bytes];
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)?;
    if method == Method::Registered {
        let slice = libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: bytes,
        };
        // SAFETY: the memory outlives the ring.
        unsafe { ring.submitter().register_buffers(&[slice])? };
    }
    let (began, cpu_before) = (Instant::now(), thread_cpu()?);
    let (mut sent, mut sends, mut copied) = (0, 0u32, 0u32);
    while sent < TOTAL {
        let entry = send(types::Fd(stream.as_raw_fd()), &data, method);
        // SAFETY: the memory outlives the ring.
        let (count, was_copied) = unsafe { send_once(&mut ring, &entry)? };
        sent += count;
        sends += 1;
        copied += u32::from(was_copied);
    }
    let (elapsed, cpu) = (began.elapsed(), thread_cpu()?.saturating_sub(cpu_before));
    let mib = sent as f64 / f64::from(1 << 20);
    Ok(Measured {
        mib_per_s: mib / elapsed.as_secs_f64(),
        cpu_us_per_mib: cpu.as_secs_f64() * 1e6 / mib,
        copied: f64::from(copied) / f64::from(sends),
    })
}

fn send(fd: types::Fd, data: &[u8], method: Method) -> squeue::Entry {
    let (start, length) = (data.as_ptr(), data.len() as u32);
    // The kernel itself continues after a short send.
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    match method {
        Method::Copy => opcode::Send::new(fd, start, length).flags(flags).build(),
        Method::ZeroCopy | Method::Registered => opcode::SendZc::new(fd, start, length)
            .flags(flags)
            .zc_flags(REPORT_USAGE)
            .buf_index((method == Method::Registered).then_some(0))
            .build(),
    }
}

/// Sends once and waits until the memory may be reused. Returns the bytes sent, and whether they were copied.
///
/// # Safety
///
/// The memory that the entry points to lives until then, or until the ring is dropped.
unsafe fn send_once(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<(usize, bool)> {
    // SAFETY: the caller upholds the contract.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    // A plain send copies. After a zero-copy send the last completion reports whether it did.
    let (mut count, mut copied, mut more) = (0, true, true);
    while more {
        ring.submit_and_wait(1)?;
        for completion in ring.completion() {
            let flags = completion.flags();
            more = cqueue::more(flags);
            if cqueue::notif(flags) {
                copied = completion.result() & COPIED != 0;
                continue;
            }
            match usize::try_from(completion.result()) {
                Ok(bytes) => count = bytes,
                Err(_) => return Err(io::Error::from_raw_os_error(-completion.result())),
            }
        }
    }
    Ok((count, copied))
}

/// Returns the CPU time of the calling thread, including the kernel's work on its behalf.
fn thread_cpu() -> io::Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live, writable timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

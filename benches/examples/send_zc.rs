//! Is a send without a copy (`SEND_ZC`) worth its second completion? Sends of 4 KiB to 1 MiB on a bare ring over the
//! loopback, one in flight, the reader on another processor; and what a megabyte costs the sender.
//!
//! ```text
//! cargo run --release -p yue-benches --example send_zc
//! ```
//!
//! The loopback is the worst case: the reader gets the sender's own pages, and the kernel copies them on the way, after
//! all (the column `copied` says how many sends it did that for). To a real network card it need not; run this against
//! one by naming an address that reads and throws away, `nc -lk 9999 > /dev/null` say:
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
/// `IORING_SEND_ZC_REPORT_USAGE`: the notification says whether the bytes were copied.
const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`.
const COPIED: i32 = i32::MIN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Copy,
    ZeroCopy,
    /// Without a copy, from memory that the ring knows: its pages need not be looked up for each send.
    Registered,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    mib_per_s: f64,
    cpu_us_per_mib: f64,
    copied: f64,
}

fn main() -> io::Result<()> {
    let processors = Processors::detect()?;
    let address = match std::env::args().nth(1) {
        Some(address) => address,
        None => read_and_throw_away(processors)?,
    };
    processors.bind(Side::Server)?;
    println!(
        "  bytes/send   way          MiB/s   sender's CPU µs/MiB   copied   (medians of {ROUNDS})"
    );
    for shift in [12, 14, 16, 18, 20] {
        let mut seen = [const { Vec::new() }; 3];
        let ways = [Way::Copy, Way::ZeroCopy, Way::Registered];
        for _ in 0..ROUNDS {
            for (way, seen) in ways.iter().zip(&mut seen) {
                seen.push(measure(&address, *way, 1 << shift)?);
            }
        }
        for (way, seen) in ways.iter().zip(seen) {
            let median = |of: fn(&Seen) -> f64| {
                let mut all: Vec<f64> = seen.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!(
                "{:12}   {:10} {:7.0} {:21.1} {:7.0}%",
                1 << shift,
                format!("{way:?}"),
                median(|seen| seen.mib_per_s),
                median(|seen| seen.cpu_us_per_mib),
                median(|seen| seen.copied) * 100.0
            );
        }
    }
    Ok(())
}

/// A thread that reads from all who connect, one after the other.
fn read_and_throw_away(processors: Processors) -> io::Result<String> {
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

fn measure(address: &str, way: Way, bytes: usize) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"warm")?;
    // Before the ring, which is so dropped first: the kernel reads the memory as long as there is a ring.
    let data = vec![7; bytes];
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)?;
    if way == Way::Registered {
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
        let entry = send(types::Fd(stream.as_raw_fd()), &data, way);
        // SAFETY: the memory outlives the ring.
        let (count, was_copied) = unsafe { one(&mut ring, &entry)? };
        sent += count;
        sends += 1;
        copied += u32::from(was_copied);
    }
    let (elapsed, cpu) = (began.elapsed(), thread_cpu()?.saturating_sub(cpu_before));
    let mib = sent as f64 / f64::from(1 << 20);
    Ok(Seen {
        mib_per_s: mib / elapsed.as_secs_f64(),
        cpu_us_per_mib: cpu.as_secs_f64() * 1e6 / mib,
        copied: f64::from(copied) / f64::from(sends),
    })
}

fn send(fd: types::Fd, data: &[u8], way: Way) -> squeue::Entry {
    let (start, length) = (data.as_ptr(), data.len() as u32);
    // The kernel itself goes on after a short send.
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    match way {
        Way::Copy => opcode::Send::new(fd, start, length).flags(flags).build(),
        Way::ZeroCopy | Way::Registered => opcode::SendZc::new(fd, start, length)
            .flags(flags)
            .zc_flags(REPORT_USAGE)
            .buf_index((way == Way::Registered).then_some(0))
            .build(),
    }
}

/// Does one send, up to the moment when its memory may be written again: bytes sent, and whether they were copied.
///
/// # Safety
///
/// The memory that the entry names lives until then, or until the ring is gone.
unsafe fn one(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<(usize, bool)> {
    // SAFETY: passed on to the caller.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    // A plain send copies; without a copy, the last completion tells how it went.
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

/// What the calling thread has used, the kernel's work on its behalf included.
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

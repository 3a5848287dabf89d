//! The position of a file that several fibers, loops and threads share: each byte is read once, and no bytes are
//! overwritten.

mod common;

use common::*;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};
use yue_io::fs;
use yue_scheduler::*;

const FIBERS: usize = 4;
const LINES: usize = 300;
/// Bytes in a line: so many that writing one takes the kernel a while.
const LENGTH: usize = 5_000;

fn line(writer: usize, number: usize) -> String {
    let start = format!("{writer}:{number}:");
    start + &"x".repeat(LENGTH) + "\n"
}

fn write_lines(file: &fs::File, writer: usize, vectored: bool) {
    for number in 0..LINES {
        let line = line(writer, number);
        let mut file = file;
        let written = match vectored {
            true => {
                let (start, end) = line.as_bytes().split_at(10);
                file.write_vectored(&[std::io::IoSlice::new(start), std::io::IoSlice::new(end)])
            }
            false => file.write(line.as_bytes()),
        };
        assert_eq!(written.unwrap(), line.len());
    }
}

/// Runs `work` on fibers of two loops and on a plain thread. Each gets a number and a handle of the same file.
fn share(file: &fs::File, work: fn(&fs::File, usize)) {
    let (handle, thread) = worker(this_choice());
    let clone = || file.try_clone().unwrap();
    let here: Vec<_> = (0..FIBERS)
        .map(|n| {
            let file = clone();
            spawn(move || work(&file, n))
        })
        .collect();
    let there: Vec<_> = (FIBERS..2 * FIBERS)
        .map(|n| {
            let file = clone();
            handle.spawn(move || work(&file, n))
        })
        .collect();
    let file = clone();
    let outside = std::thread::spawn(move || work(&file, 2 * FIBERS));
    here.into_iter().for_each(|fiber| fiber.join().unwrap());
    there.into_iter().for_each(|fiber| fiber.join().unwrap());
    blocking(move || outside.join()).unwrap().unwrap();
    handle.shutdown();
    thread.join().unwrap();
}

#[test]
fn lines_that_fibers_write_to_one_file_are_all_kept() {
    on_each_driver(|| {
        let mut file = fs::tempfile().unwrap();
        share(&file, |file, n| write_lines(file, n, n % 2 == 1));
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort();
        let writers = 0..2 * FIBERS + 1;
        let all = writers.flat_map(|n| (0..LINES).map(move |number| line(n, number)));
        let mut expected: Vec<_> = all.collect();
        expected.sort();
        assert_eq!(lines.len(), expected.len());
        assert!(
            lines
                .iter()
                .zip(&expected)
                .all(|(got, line)| *got == line.trim_end())
        );
    });
}

#[test]
fn fibers_reading_one_file_read_each_byte_once() {
    static READ: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    const NUMBERS: u32 = 20_000;
    on_each_driver(|| {
        let mut file = fs::tempfile().unwrap();
        let numbers: Vec<u8> = (0..NUMBERS).flat_map(u32::to_ne_bytes).collect();
        file.write_all(&numbers).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        READ.lock().unwrap().clear();
        share(&file, |file, _| {
            let mut bytes = [0; 4 * 64];
            loop {
                let mut file = file;
                let count = file.read(&mut bytes).unwrap();
                if count == 0 {
                    break;
                }
                let (numbers, rest) = bytes[..count].as_chunks::<4>();
                assert!(rest.is_empty());
                let numbers = numbers.iter().map(|bytes| u32::from_ne_bytes(*bytes));
                READ.lock().unwrap().extend(numbers);
            }
        });
        let mut read = READ.lock().unwrap().clone();
        read.sort();
        assert!(read.into_iter().eq(0..NUMBERS));
    });
}

#[test]
fn a_file_without_a_position_is_written_while_another_fiber_reads_it() {
    on_each_driver(|| {
        // A waiting reader and a writer share one descriptor, as with a terminal.
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = Arc::new(fs::File::from(std::os::fd::OwnedFd::from(one)));
        let reading = {
            let file = file.clone();
            spawn(move || {
                let mut byte = [0];
                let count = (&*file).read(&mut byte).unwrap();
                (count, byte)
            })
        };
        yield_now().unwrap();
        (&*file).write_all(b"question").unwrap();
        let mut question = [0; 8];
        (&other).read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        (&other).write_all(b"!").unwrap();
        assert_eq!(reading.join().unwrap(), (1, *b"!"));
    });
}

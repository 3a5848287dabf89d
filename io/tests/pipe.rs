//! Pipes, on both drivers.

mod common;

use common::*;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::rc::Rc;
use std::time::Duration;
use yue_io::pipe::{PipeReader, pipe};
use yue_scheduler::*;

#[test]
fn more_bytes_than_a_pipe_holds_arrive() {
    on_each_driver(|| {
        let (mut reader, mut writer) = pipe().unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let sent = bytes.clone();
        let fiber = spawn(move || writer.write_all(&sent).unwrap());
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got == bytes);
        fiber.join().unwrap();
    });
}

#[test]
fn a_cancelled_read_leaves_the_pipe_usable() {
    on_each_driver(|| {
        let (reader, mut writer) = pipe().unwrap();
        let reader = Rc::new(reader);
        let other = reader.clone();
        let fiber = spawn(move || (&*other).read(&mut [0; 16]));
        wait_until(|| operations() == 1);
        fiber.cancel();
        let error = fiber.join().unwrap().unwrap_err();
        assert_eq!(error.downcast::<Stopped>().unwrap(), Stopped::Cancelled);
        writer.write_all(b"late").unwrap();
        drop(writer);
        assert_eq!(io::read_to_string(&*reader).unwrap(), "late");
        assert_eq!(operations(), 0);
    });
}

#[test]
fn a_cancelled_read_keeps_the_bytes_it_got() {
    on_each_driver(|| {
        for _ in 0..100 {
            let (reader, mut writer) = pipe().unwrap();
            let reader = Rc::new(reader);
            let other = reader.clone();
            let fiber = spawn(move || {
                let mut byte = [0];
                (&*other)
                    .read(&mut byte)
                    .map(|count| byte[..count].to_vec())
            });
            yield_now().unwrap();
            writer.write_all(b"x").unwrap();
            fiber.cancel();
            let first = fiber.join().unwrap().unwrap_or_default();
            writer.write_all(b"y").unwrap();
            drop(writer);
            let mut rest = Vec::new();
            (&*reader).read_to_end(&mut rest).unwrap();
            assert_eq!([first, rest].concat(), b"xy");
        }
    });
}

#[test]
fn a_deadline_ends_a_write_into_a_full_pipe() {
    on_each_driver(|| {
        let (_reader, mut writer) = pipe().unwrap();
        let error = with_deadline(now().saturating_add(Duration::from_millis(5)), || {
            loop {
                if let Err(error) = writer.write_all(&[0; 4096]) {
                    return error;
                }
            }
        });
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(operations(), 0);
    });
}

#[test]
fn writing_to_a_pipe_without_a_reader_fails() {
    on_each_driver(|| {
        let (reader, mut writer) = pipe().unwrap();
        drop(reader);
        let error = writer.write_all(b"lost").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn several_buffers_are_transferred_at_once() {
    on_each_driver(|| {
        let (mut reader, mut writer) = pipe().unwrap();
        let slices = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        assert_eq!(writer.write_vectored(&slices).unwrap(), 7);
        let (mut first, mut second) = ([0; 3], [0; 9]);
        let mut buffers = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
        assert_eq!(reader.read_vectored(&mut buffers).unwrap(), 7);
        assert_eq!((&first, &second[..4]), (b"one", &b" two"[..]));
    });
}

#[test]
fn an_end_moves_to_a_thread_and_converts_to_the_standard_library() {
    on_each_driver(|| {
        let (reader, writer) = pipe().unwrap();
        let fiber = spawn(move || io::read_to_string(&reader).unwrap());
        yield_now().unwrap();
        std::thread::spawn(move || {
            (&writer).write_all(b"from a thread, ").unwrap();
            let mut standard = writer.into_std().unwrap();
            standard.write_all(b"twice").unwrap();
        });
        assert_eq!(fiber.join().unwrap(), "from a thread, twice");
    });
}

#[test]
fn a_fiber_whose_pipe_never_blocks_does_not_starve_others() {
    on_each_driver(|| {
        let (mut reader, mut writer) = pipe().unwrap();
        let fiber = spawn(move || {
            let mut rounds = 0u32;
            while !is_cancelled() {
                if writer
                    .write_all(b"x")
                    .and(reader.read_exact(&mut [0]))
                    .is_ok()
                {
                    rounds += 1;
                }
            }
            rounds
        });
        for _ in 0..20 {
            yield_now().unwrap();
            sleep(Duration::from_micros(10)).unwrap();
        }
        fiber.cancel();
        assert!(fiber.join().unwrap() > 0);
    });
}

#[test]
fn a_pipe_end_may_wrap_a_descriptor_that_is_always_ready() {
    on_each_driver(|| {
        let null = std::fs::File::open("/dev/zero").unwrap();
        let mut zero = PipeReader::from(std::os::fd::OwnedFd::from(null));
        let mut bytes = [1; 8];
        zero.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [0; 8]);
    });
}

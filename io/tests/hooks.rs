//! Operations of fibers that run in switch hooks.

mod common;

use common::*;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use yue_io::net::UnixStream;
use yue_scheduler::*;

#[test]
fn an_operation_ends_only_with_its_completion_whatever_a_switch_hook_does() {
    struct Hook;
    impl SwitchHook for Hook {
        fn leave(&self) -> Result<(), &'static str> {
            prepare_park().wake();
            Ok(())
        }
        fn enter(&self) {}
    }
    on_each_driver(|| {
        let (mut stream, mut peer) = UnixStream::pair().unwrap();
        let reader = spawn(move || {
            let mut buffer = [0; 16];
            let read = || with_switch_hook(Hook, |_| stream.read(&mut buffer));
            let outcome = catch_unwind(AssertUnwindSafe(read));
            // The call has returned, so the kernel has finished the operation.
            let in_flight = operations();
            peer.write_all(b"by the kernel?").unwrap();
            sleep(Duration::from_millis(5)).unwrap();
            (outcome.is_err(), in_flight, buffer)
        });
        assert_eq!(reader.join().unwrap(), (true, 0, [0; 16]));
    });
}

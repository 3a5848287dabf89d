//! The operations of a driver that use memory of fibers, and would outlive an abandoned fiber.

use std::io::{Read, Write};
use std::rc::Rc;
use yue_io::net::UnixStream;
use yue_scheduler::{Driver, spawn, this_loop, yield_now};

fn lent() -> (usize, &'static str) {
    this_loop::with_driver(|driver: &dyn Driver| (driver.lent(), driver.name()))
}

#[test]
fn a_read_in_the_ring_borrows_memory_and_a_wait_for_readiness_does_not() {
    yue_io::run(|| {
        let pair = UnixStream::pair().unwrap();
        let (ours, theirs) = (Rc::new(pair.0), pair.1);
        let (reads, waits) = (ours.clone(), ours);
        let reader = spawn(move || (&*reads).read(&mut [0; 8]).unwrap());
        let waiter = spawn(move || waits.writable().unwrap());
        (0..3).for_each(|_| yield_now().unwrap());
        let (count, driver) = lent();
        assert_eq!(count, usize::from(driver == "uring"), "{driver}");
        (&theirs).write_all(b"here").unwrap();
        assert_eq!(reader.join().unwrap(), 4);
        waiter.join().unwrap();
        assert_eq!(lent().0, 0);
    })
    .unwrap();
}

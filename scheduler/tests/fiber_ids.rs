//! A fiber id names one fiber of one loop, and no other.

mod common;

use common::run;
use std::collections::HashSet;
use std::thread;
use std::time::Duration;
use yue_scheduler::*;

#[test]
fn fibers_of_two_loops_have_different_ids() {
    let ids = || {
        run(|| {
            (0..3)
                .map(|_| spawn(current_id).join().unwrap())
                .chain([current_id()])
                .collect::<Vec<_>>()
        })
    };
    let all: HashSet<FiberId> = [ids(), ids(), thread::spawn(ids).join().unwrap()]
        .concat()
        .into_iter()
        .collect();
    assert_eq!(all.len(), 12);
    let loops: HashSet<u32> = all.iter().map(|id| id.loop_id()).collect();
    assert_eq!(loops.len(), 3);
    for id in all {
        assert_eq!(FiberId::from_bits(id.to_bits()), id);
    }
}

#[test]
fn the_id_of_another_loops_fiber_finds_no_fiber_here() {
    let stranger = run(current_id);
    run(move || {
        let mine = Builder::new()
            .name("mine")
            .spawn(|| sleep(Duration::from_secs(3600)))
            .unwrap();
        yield_now().unwrap();
        let found = [current_id(), mine.id()]
            .map(|id| FiberId::from_bits((id.to_bits() as u64).into()).to_bits());
        assert!(
            found.contains(&(u128::from(stranger.to_bits() as u64))),
            "they differ only in the loop"
        );
        assert!(!cancel(stranger));
        assert!(this_loop::fiber(stranger).is_none());
        assert!(this_loop::backtrace(stranger).is_none());
        assert!(this_loop::describe(stranger).is_empty());
        assert!(this_loop::handle().backtrace(stranger).unwrap().is_none());
        assert!(!is_cancelled() && !mine.is_done());
        assert!(cancel(mine.id()));
        assert_eq!(mine.join().unwrap(), Err(Stopped::Cancelled));
    });
}

#[test]
fn a_waker_and_a_listing_name_the_same_fiber() {
    run(|| {
        let waker = prepare_park();
        assert_eq!(waker.fiber(), current_id());
        let listed = this_loop::fibers();
        assert!(listed.iter().any(|fiber| fiber.id == current_id()));
        assert!(
            listed
                .iter()
                .all(|fiber| fiber.id.loop_id() == fiber.loop_id)
        );
    });
}

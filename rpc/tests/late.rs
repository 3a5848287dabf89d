//! Time limits of calls when a side was idle or busy for longer than the limit.

mod common;

use common::*;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::connector;
use yue_rpc::{ErrorKind, Options, Timeout};
use yue_scheduler::Instant;

const LIMIT: Duration = Duration::from_secs(1);
const LONGER: Duration = Duration::from_millis(1_200);

fn compute(length: Duration) {
    let end = Instant::system().saturating_add(length);
    while Instant::system() < end {}
}

#[test]
fn the_first_call_after_a_long_silence_is_answered() {
    for address in ["tcp://127.0.0.1:0", "thread://after-silence"] {
        let (server, handle, address) = worker(address);
        run_loop(move || {
            let client = Session::open(connector(&address), methods(), Options::default());
            for _ in 0..2 {
                let answer = client.call("sum", Timeout::After(LIMIT), ints(&[1, 2]));
                assert_eq!(read_ints(answer.unwrap().bytes()), [3]);
                // Both loops are idle. The time at which they fell asleep must not matter afterwards.
                yue_scheduler::sleep(LONGER).unwrap();
            }
            client.close();
        });
        handle.shutdown();
        server.join().unwrap();
    }
}

#[test]
fn a_call_after_a_long_computation_has_its_full_time() {
    over_each(|kind| {
        let server = serve(kind, methods(), Options::default());
        let client = server.client();
        call(&client, "sum", &[1]).unwrap();
        compute(LONGER);
        let left = client.call("time_left", Timeout::After(LIMIT), ints(&[]));
        let left = read_ints(left.unwrap().bytes())[0];
        assert!(left > 0 && left <= LIMIT.as_millis() as i64 + 10, "{left}");
    });
}

#[test]
fn a_request_whose_time_ran_out_behind_a_busy_handler_is_not_started() {
    over_each(|kind| {
        if kind == Kind::Bytes {
            return; // The second request arrives after the first has been served.
        }
        let started = Rc::new(Cell::new(0));
        let count = started.clone();
        let service = Service::new(Rc::new(
            move |call: &mut yue_rpc::session::Call, reply: yue_rpc::session::Reply| {
                let busy = read_ints(call.params().bytes)[0] as u64;
                count.set(count.get() + 1);
                compute(Duration::from_millis(busy));
                reply.results(ints(&[0]))
            },
        ));
        let server = serve(kind, service, Options::default());
        let client = server.client();
        client
            .call("compute", Timeout::Default, ints(&[0]))
            .unwrap();
        let (busy_over, outcome) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
        let place = busy_over.clone();
        client
            .call_async("compute", Timeout::Default, ints(&[300]), move |_| {
                place.set(true)
            })
            .unwrap();
        let place = outcome.clone();
        let limit = Timeout::After(Duration::from_millis(100));
        client
            .call_async("compute", limit, ints(&[0]), move |answer| {
                place.set(answer.err().map(|error| error.kind()))
            })
            .unwrap();
        eventually("both have ended", || {
            busy_over.get() && outcome.get().is_some()
        });
        assert_eq!(outcome.take(), Some(ErrorKind::Timeout));
        assert_eq!(started.get(), 2, "{kind:?}");
    });
}

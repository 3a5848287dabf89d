//! Time limits of calls when a side was idle or busy for longer than the limit.

mod common;

use common::*;
use std::time::Duration;
use yue_rpc::session::Session;
use yue_rpc::{Options, Timeout};
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

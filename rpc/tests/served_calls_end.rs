//! The recording of served calls ends by itself. One test, because the recording is that of the whole process.

use std::time::Duration;
use yue_rpc::Error;
use yue_rpc::inspect::calls;
use yue_rpc::typed::{Client, Server};
use yue_scheduler::sleep;

#[test]
fn a_recording_ends_after_its_time_and_a_new_one_counts_anew() {
    yue_io::run(|| -> Result<(), Error> {
        let fail_in_recording = |()| -> Result<(), _> {
            calls::watch(Duration::from_millis(1));
            Err("as it should".into())
        };
        let server = Server::new()
            .handler("ping", |()| Ok("pong"))
            .handler("fail_in_recording", fail_in_recording);
        let listener = server.listen("tcp://127.0.0.1:0")?;
        let client = Client::open(&listener.address().to_string())?;
        let ping = || client.call::<_, String>("ping", ()).map(drop);
        ping()?;
        assert!(!calls::are_watched() && calls::methods(0, 9).is_empty());
        // A recording that begins during a request does not record it, and no later one instead.
        client.call::<_, ()>("fail_in_recording", ()).unwrap_err();
        sleep(Duration::from_millis(5)).unwrap();
        ping()?;
        assert!(!calls::are_watched());

        // Long enough that a call ends within it, even on a busy machine.
        let short = Duration::from_secs(1);
        assert_eq!(calls::watch(short), Duration::ZERO);
        ping()?;
        let ping_stats = &calls::methods(0, 9)[0];
        assert_eq!((ping_stats.calls, ping_stats.errors), (1, 0));
        sleep(short).unwrap();
        assert!(calls::are_watched(), "no request has noticed yet");
        ping()?;
        assert!(!calls::are_watched(), "one has");

        assert_eq!(calls::watch(Duration::from_secs(60)), Duration::ZERO);
        assert!(calls::methods(0, 9).is_empty(), "it counts anew");
        ping()?;
        let since = calls::watch(Duration::ZERO);
        assert!(since > Duration::ZERO, "the time was not shortened");
        ping()?;
        assert_eq!(calls::methods(0, 9)[0].calls, 2);
        Ok(())
    })
    .unwrap()
    .unwrap();
}

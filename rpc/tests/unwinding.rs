//! Calls in a destructor that runs during a panic: an error, where a second panic would end the process. So the test
//! runs in a child.

mod common;

use common::*;
use std::process::Command;
use yue_rpc::session::Session;
use yue_rpc::transport::Hub;
use yue_rpc::{ErrorKind, Limits, Options};
use yue_scheduler::spawn;

const NAME: &str = "a_destructor_that_calls_during_a_panic_gets_an_error_and_the_session_goes_on";

struct Farewell(Session);

impl Drop for Farewell {
    fn drop(&mut self) {
        let error = call(&self.0, "sum", &[1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Client);
        assert!(error.message().contains("while unwinding"), "{error}");
        assert!(error.is_retryable());
        // The output is full, but a notification never waits.
        self.0.notify("sum", ints(&[1])).unwrap();
    }
}

#[test]
fn a_destructor_that_calls_during_a_panic_gets_an_error_and_the_session_goes_on() {
    if std::env::var("YUE_TEST_CHILD").as_deref() != Ok(NAME) {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child.args([NAME, "--exact"]).env("YUE_TEST_CHILD", NAME);
        let output = child.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    run_loop(|| {
        let hub = Hub::new(methods(), Options::default());
        let limits = Limits {
            output_bytes_high: 1000,
            ..Limits::default()
        };
        let options = Options {
            limits,
            ..Options::default()
        };
        let client = Session::open(hub, methods(), options);
        assert_eq!(call(&client, "sum", &[1, 2]).unwrap(), [3]);
        let farewell = Farewell(client.clone());
        let handler = spawn(move || {
            let farewell = farewell;
            farewell.0.notify("sum", ints(&[i64::MAX; 1000])).unwrap();
            panic!("a handler's bug");
        });
        let error = handler.join().unwrap_err().to_string();
        assert!(error.ends_with("a handler's bug"), "{error}");
        assert_eq!(call(&client, "sum", &[3, 4]).unwrap(), [7]);
        client.close();
    });
}

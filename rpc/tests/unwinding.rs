//! Calls in a destructor that runs during a panic: an error, where a second panic would end the process. So the test
//! runs in a child.

mod common;

use common::*;
use std::process::Command;
use std::rc::Rc;
use yue_rpc::session::{Call, Replied, Reply, Service, Session, peer};
use yue_rpc::{ErrorKind, Failure, Limits, MemoryListener, Options};
use yue_scheduler::spawn;

/// Runs a test's body in a child process, which a second panic would end.
fn in_child(name: &str, body: impl FnOnce() + 'static) {
    if std::env::var("YUE_TEST_CHILD").as_deref() == Ok(name) {
        return run_loop(body);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child = child.args([name, "--exact"]).env("YUE_TEST_CHILD", name);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// With an output that is soon full.
fn narrow() -> Options {
    let limits = Limits {
        output_bytes_high: 1000,
        ..Limits::default()
    };
    limited(limits)
}

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
fn a_destructor_that_calls_during_a_panic_gets_an_error_and_the_session_stays() {
    let name = "a_destructor_that_calls_during_a_panic_gets_an_error_and_the_session_stays";
    in_child(name, || {
        let listener = MemoryListener::new(methods(), Options::default());
        let client = Session::open(listener, methods(), narrow());
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

/// Answers when it is dropped.
struct Answer(Option<Reply>);

impl Drop for Answer {
    fn drop(&mut self) {
        let reply = self.0.take().unwrap();
        let _ = reply.fail(&Failure::new("the handler gave no answer"));
    }
}

#[test]
fn an_answer_that_a_destructor_gives_during_a_panic_is_sent_though_the_output_is_full() {
    let name = "an_answer_that_a_destructor_gives_during_a_panic_is_sent_though_the_output_is_full";
    in_child(name, || {
        let service = Service::new(Rc::new(|_: &mut Call, reply: Reply| -> Replied {
            let _answer = Answer(Some(reply));
            let caller = peer().unwrap();
            caller.notify("sum", ints(&[i64::MAX; 1000])).unwrap();
            panic!("a handler's bug");
        }));
        let client = Session::open(
            MemoryListener::new(service, narrow()),
            methods(),
            Options::default(),
        );
        let error = call(&client, "anything", &[]).unwrap_err();
        assert_eq!(error.message(), "the handler gave no answer");
        client.close();
    });
}

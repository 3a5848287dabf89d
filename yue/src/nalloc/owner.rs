//! The owner's side of a node's session: the requests that only a node may make.

use super::allocation::{Allocation, Stage};
use super::lease::clock;
use std::rc::Rc;
use yue_rpc::session::{Call, CallMethod, Dispatch, NODE, Replied, Reply, Session};

/// The name of the request by which a node asks for its work. It is the first renewal of the lease.
pub(crate) const JOB: &str = "$yue/node/job";

/// The name of the request that renews the lease.
pub(crate) const RENEW: &str = "$yue/node/renew";

/// Answers a node's requests; all others go to the program.
pub(crate) struct OwnerDispatch {
    program: Rc<dyn Dispatch>,
    allocation: Rc<Allocation>,
}

impl OwnerDispatch {
    pub(crate) fn new(program: Rc<dyn Dispatch>, allocation: &Rc<Allocation>) -> OwnerDispatch {
        OwnerDispatch {
            program,
            allocation: allocation.clone(),
        }
    }
}

impl Dispatch for OwnerDispatch {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        let CallMethod::Name(name) = call.method() else {
            return self.program.call(call, reply);
        };
        if !name.starts_with(NODE) {
            return self.program.call(call, reply);
        }
        if name == JOB.as_bytes() {
            self.allocation.set_stage(Stage::Code);
            self.allocation.lease.renew(clock());
        } else if name == RENEW.as_bytes() {
            self.allocation.lease.renew(clock());
            return reply.results(|out| {
                out.push(0xc0);
                Ok(1)
            });
        }
        self.program.call(call, reply)
    }

    fn release(&self, tokens: &[u64]) {
        self.program.release(tokens);
    }

    fn malformed(&self, session: &Session, text: &str) {
        self.program.malformed(session, text);
    }
}

//! Starts the nodes of an allocation, one after another, as links of one session.

use super::allocation::{Allocation, Stage};
use super::lease::clock;
use std::rc::Rc;
use yue_rpc::transport::{Connect, Events, Transport};
use yue_rpc::{Error, ErrorKind};
use yue_scheduler::sleep;

/// Gets a byte stream to a node.
pub(crate) trait Carrier {
    /// Starts a node, and its link. In a fiber.
    ///
    /// # Errors
    /// The reason why it could not be started.
    fn start(
        &self,
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
    ) -> Result<Rc<dyn Transport>, Error>;
}

/// Chooses the carrier of the next node: a provider may make a machine first.
pub(crate) type Prepare = dyn Fn(&Rc<Allocation>) -> Result<Rc<dyn Carrier>, Error>;

/// The connector of an allocation's session.
pub(crate) struct NodeConnector {
    allocation: Rc<Allocation>,
    prepare: Box<Prepare>,
    address: String,
}

impl NodeConnector {
    pub(crate) fn new(
        allocation: &Rc<Allocation>,
        prepare: impl Fn(&Rc<Allocation>) -> Result<Rc<dyn Carrier>, Error> + 'static,
    ) -> NodeConnector {
        NodeConnector {
            address: allocation.to_string(),
            allocation: allocation.clone(),
            prepare: Box::new(prepare),
        }
    }
}

impl Connect for NodeConnector {
    fn connect(&self, events: Rc<dyn Events>) -> Result<Rc<dyn Transport>, Error> {
        let allocation = &self.allocation;
        allocation.begin()?;
        // Never two: the node before may live on behind a cut network.
        while let Some(at) = allocation.lease.dead_at(clock()) {
            let left = at.saturating_sub(clock());
            sleep(left)?;
        }
        allocation.lease.end();
        allocation.set_stage(Stage::Machine);
        let carrier = (self.prepare)(allocation)?;
        if allocation.is_closed() {
            let text = format!("{allocation} was closed");
            return Err(Error::new(ErrorKind::ConnectionLost, text));
        }
        allocation.set_stage(Stage::Carrier);
        let link = carrier.start(allocation, events)?;
        allocation.set_stage(Stage::Hello);
        Ok(link)
    }

    fn address(&self) -> &str {
        &self.address
    }
}

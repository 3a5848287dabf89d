//! The scenario's hands on the clocks of its hosts, and on what their kernels can give.

use super::control::Control;
use super::recorder::MarkKind;
use super::{Fault, NetworkFaults};
use yue_io::simulation as network;
use yue_scheduler::simulation;

impl Control {
    /// Lets a host's wall clock jump by that many milliseconds, back if they are negative. Timers and deadlines do not
    /// follow it; [`simulation::wall_clock`] and the times of files do.
    pub fn jump_clock(&self, host: &str, by_ms: i64) {
        let number = self.hosts.number(host);
        let text = Fault::ClockJump(host.to_owned(), by_ms).to_string();
        self.mark(MarkKind::Instant, "jump-clock", &[number], text);
        simulation::jump_wall_clock(number, by_ms.saturating_mul(1_000_000));
    }

    /// Sets the probabilities that calls on a host's sockets fail for want of resources.
    pub fn set_network_faults(&self, host: &str, faults: NetworkFaults) {
        let number = self.hosts.number(host);
        let text = Fault::NetworkFaults(host.to_owned(), faults).to_string();
        match faults == NetworkFaults::default() {
            true => self.end("network-faults", &[number], format!("end {text}")),
            false => self.begin("network-faults", &[number], text),
        }
        network::set_network_faults(number, faults);
    }
}

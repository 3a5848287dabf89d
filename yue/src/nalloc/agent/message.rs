//! The messages of the channel: an owner's request, and the answers of the agent. They are msgpack; fields that one
//! side does not know are ignored.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The version of the messages. An agent serves an owner of a higher one, too: what it does not know it ignores.
pub const VERSION: u32 = 1;

/// An owner's request for a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The version of the owner's messages.
    pub version: u32,
    /// The library's name, for the agent's log.
    pub library: String,
    /// The cores that the node needs.
    pub cpu: f64,
    /// The bytes of memory that it needs.
    pub memory: u64,
    /// The seconds that the request may wait until the agent has them.
    pub wait: f64,
    /// The seconds of the node's grace, which the agent allows it when the owner is gone.
    pub grace: f64,
    /// The SHA-256 of the owner's program, in hexadecimal digits. The node runs that program.
    pub binary: String,
    /// The bytes of that program.
    pub binary_size: u64,
    /// Variables of the node's environment to set, or to remove.
    pub variables: Vec<(String, Option<String>)>,
    /// The folder that the node works in; empty for the agent's choice.
    pub folder: String,
}

impl Request {
    /// Whether its numbers are such that an agent can reckon with them.
    pub fn is_valid(&self) -> bool {
        let is_time = |seconds: f64| (0.0..=1e6).contains(&seconds);
        (0.0..=1e6).contains(&self.cpu) && is_time(self.wait) && is_time(self.grace)
    }

    /// The time that the request may wait.
    pub fn wait(&self) -> Duration {
        Duration::try_from_secs_f64(self.wait).unwrap_or_default()
    }

    /// The node's grace.
    pub fn grace(&self) -> Duration {
        Duration::try_from_secs_f64(self.grace).unwrap_or_default()
    }
}

/// The cores, the memory and the nodes of an agent, and the free part of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Free {
    /// Cores, free and in all.
    pub cpu: (f64, f64),
    /// Bytes of memory, free and in all.
    pub memory: (u64, u64),
    /// Nodes that may still be started, and in all.
    pub nodes: (u32, u32),
}

/// An agent's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The node's process runs; the bytes of its link follow.
    Started {
        /// Its process at the agent.
        pid: u32,
    },
    /// The agent does not have the owner's program: it is to be sent.
    SendBinary,
    /// The agent does not have what was asked for.
    Busy(Free),
    /// The agent does not serve this owner, or cannot start the node.
    Refused(String),
    /// The node has ended, and nothing of it is left: "was killed by signal 9".
    Ended(String),
}

/// The bytes of a message.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>, String> {
    rmp_serde::to_vec_named(message).map_err(|error| error.to_string())
}

/// The message of the bytes.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    rmp_serde::from_slice(bytes).map_err(|error| error.to_string())
}

impl Free {
    /// Describes what is free and what was asked for.
    pub fn describe(&self, request: &Request) -> String {
        let Free { cpu, memory, nodes } = self;
        if nodes.0 == 0 {
            return format!("runs {} of {} nodes", nodes.1, nodes.1);
        }
        let mut wants = Vec::new();
        if request.cpu > 0.0 {
            let unit = if request.cpu == 1.0 { "core" } else { "cores" };
            wants.push(format!("{} {unit}", Short(request.cpu)));
        }
        if request.memory > 0 {
            wants.push(Bytes(request.memory).to_string());
        }
        if wants.is_empty() {
            return format!("has {} of {} nodes free, but others wait", nodes.0, nodes.1);
        }
        let is_one = wants.len() == 1 && (request.cpu == 0.0 || request.cpu == 1.0);
        let verb = if is_one { "was" } else { "were" };
        format!(
            "has {} of {} cores, {} of {} free; {} {verb} asked for",
            Short(cpu.0),
            Short(cpu.1),
            Bytes(memory.0),
            Bytes(memory.1),
            wants.join(" and ")
        )
    }
}

/// A number with at most two decimals.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.0 * 100.0).round() / 100.0)
    }
}

/// Bytes with a unit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0 => return f.write_str("0"),
            1..0x10_0000 => (1 << 10, "KiB"),
            0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
            _ => (1_u64 << 30, "GiB"),
        };
        write!(f, "{} {name}", Short(self.0 as f64 / unit as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_later_version_is_understood() {
        #[derive(Serialize)]
        struct Later {
            version: u32,
            cpu: f64,
            colour: &'static str,
        }
        let later = Later {
            version: 9,
            cpu: 2.0,
            colour: "green",
        };
        let request: Request = decode(&encode(&later).unwrap()).unwrap();
        assert_eq!((request.version, request.cpu, request.memory), (9, 2.0, 0));
        assert!(request.is_valid());
        let mad = Request {
            cpu: f64::NAN,
            ..request
        };
        assert!(!mad.is_valid());
    }

    #[test]
    fn a_busy_agent_says_what_is_free() {
        let free = Free {
            cpu: (1.5, 8.0),
            memory: (2 << 30, 16 << 30),
            nodes: (3, 32),
        };
        let request = Request {
            cpu: 4.0,
            ..Request::default()
        };
        let expected = "has 1.5 of 8 cores, 2 GiB of 16 GiB free; 4 cores were asked for";
        assert_eq!(free.describe(&request), expected);
    }
}

//! The address of an agent: a host and a port.

use std::fmt;
use std::str::FromStr;
use yue_rpc::Address;

/// The port at which agents listen, unless they are told another.
pub const DEFAULT_PORT: u16 = 4510;

/// The host and the port of an agent: `10.0.0.1`, `host:4511`, `[::1]:4510`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAddress {
    /// A name or a number.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for AgentAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<AgentAddress, String> {
        let text = text.strip_prefix("yue://").unwrap_or(text);
        if text.contains('@') {
            // What stands before it may be a secret, so it is not repeated.
            let text = "an address of an agent has no key and no user; `yue key trust` pins keys";
            return Err(text.to_owned());
        }
        let parse = |text: &str| text.parse::<Address>();
        let parsed = parse(&format!("tcp://{text}"))
            .or_else(|_| parse(&format!("tcp://{text}:{DEFAULT_PORT}")));
        match parsed.as_ref().map(Address::host_and_port) {
            Ok(Some((host, port @ 1..))) => Ok(AgentAddress {
                host: host.to_owned(),
                port,
            }),
            _ => Err(format!(
                "'{}' is not an address of an agent, such as 10.0.0.1 or host:{DEFAULT_PORT}",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgentAddress { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1:4510"),
            ("yue://host", "host:4510"),
            ("host:1", "host:1"),
            ("[::1]", "[::1]:4510"),
            ("yue://[::1]:77", "[::1]:77"),
        ] {
            let address = text
                .parse::<AgentAddress>()
                .map(|address| address.to_string());
            assert_eq!(address.as_deref(), Ok(shown));
        }
    }

    #[test]
    fn a_wrong_address_is_refused_and_a_key_in_it_is_not_repeated() {
        for text in ["", "host:", "host:0", "host:x", "a b", "::1", "host:70000"] {
            assert!(text.parse::<AgentAddress>().is_err(), "{text}");
        }
        let error = "yue://KEY@host".parse::<AgentAddress>().unwrap_err();
        assert!(!error.contains("KEY"), "{error}");
    }
}

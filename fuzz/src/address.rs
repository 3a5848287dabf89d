//! The address parser: what it takes prints as an address that parses to the same, and what it refuses is shown with a
//! marker below the fault.

use yue_rpc::Address;

/// Parses the bytes, as text, and checks what comes of it.
///
/// # Panics
/// If the parser does not keep its promises.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Address>() {
        Ok(address) => {
            let printed = address.to_string();
            assert_eq!(printed.parse().as_ref(), Ok(&address), "{text:?}");
            assert!(!printed.contains(char::is_control), "{printed:?}");
            check_parts(&address);
        }
        Err(error) => {
            let characters = text.chars().count();
            assert!(error.at <= characters, "{error:?}");
            let shown = error.to_string();
            let lines: Vec<&str> = shown.split('\n').collect();
            let [reason, address, marker] = lines[..] else {
                panic!("three lines: {shown:?}");
            };
            assert_eq!(reason, format!("bad address: {}", error.reason));
            assert_eq!(address.chars().count(), 2 + characters);
            assert_eq!(marker.chars().count(), 2 + error.at + 1);
            assert_eq!(marker.trim(), "^");
        }
    }
}

fn check_parts(address: &Address) {
    match address {
        Address::Tcp { host, .. }
        | Address::Tls { host, .. }
        | Address::Udp { host, .. }
        | Address::Mcast { group: host, .. }
        | Address::Ws { host, .. }
        | Address::Wss { host, .. } => {
            assert!(!host.is_empty());
            // Only a numeric address, perhaps with a zone, has colons, and it is printed in brackets.
            let number = host.split_once('%').map_or(&host[..], |(number, _)| number);
            let numeric = number.parse::<std::net::Ipv6Addr>().is_ok();
            assert_eq!(host.contains(':'), numeric, "{host:?}");
            if let Address::Ws { path, .. } | Address::Wss { path, .. } = address {
                assert!(path.starts_with('/') && path.is_ascii(), "{path:?}");
            }
        }
        Address::Unix { path } => assert!(!path.is_empty()),
        Address::Thread { name } => assert!(!name.is_empty()),
        Address::Popen { command } => assert!(!command.trim().is_empty()),
        Address::Stdio => {}
    }
}

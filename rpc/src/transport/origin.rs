//! The pages that may call: a request's `Origin` and `Host`, against a listener's rules.
//!
//! A page of any site can make a visitor's browser send requests to any server that the browser reaches, and browsers
//! leave it to the server to refuse. So a request that a browser makes for a page (only browsers send `Origin`) must
//! come from a listed origin, or, if none are listed, from a page of this host. The second check alone could be
//! outwitted: a site whose name is made to resolve to the victim's machine is of the same host (DNS rebinding). So
//! without a list the host must be known to be this machine: a numeric address, `localhost`, or the name in the
//! listener's own address.

/// The rules of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The host in the listener's address; empty if it has none.
    pub(crate) host: &'a str,
    /// Origins whose pages may call, like `https://example.com`; `*` is any. `None`: pages of this host.
    pub(crate) origins: Option<&'a [String]>,
}

impl Site<'_> {
    /// Checks that a page of `origin` may call. `host` is the request's `Host`.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(crate) fn check_origin(&self, origin: &[u8], host: &str) -> Result<(), &'static str> {
        let origin = String::from_utf8_lossy(origin);
        if let Some(origins) = self.origins {
            let listed = |one: &String| one == "*" || one.eq_ignore_ascii_case(&origin);
            return match origins.iter().any(listed) {
                true => Ok(()),
                false => Err(
                    "Pages of this origin may not connect: it is not among the server's origins.",
                ),
            };
        }
        let name = host_name(host);
        let of_page = origin
            .split_once("://")
            .map(|(_, authority)| host_name(authority));
        if !of_page.is_some_and(|page| page.eq_ignore_ascii_case(name)) {
            return Err("Pages of another host may not connect: the server lists no origins.");
        }
        if !self.is_here(name) {
            return Err(
                "This host name is not known to be this server's. The server has to list the origins of pages that \
                 may connect.",
            );
        }
        Ok(())
    }

    /// Checks the `Host` of a request that carries no `Origin`: it must be this server's, or that of a listed origin.
    ///
    /// # Errors
    /// A sentence that says why not.
    #[cfg(feature = "http")]
    pub(crate) fn check_host(&self, host: &str) -> Result<(), &'static str> {
        let name = host_name(host);
        let listed = |one: &String| {
            let authority = one.split_once("://").map(|(_, authority)| authority);
            one == "*"
                || authority
                    .is_some_and(|authority| host_name(authority).eq_ignore_ascii_case(name))
        };
        if self.is_here(name)
            || self
                .origins
                .is_some_and(|origins| origins.iter().any(listed))
        {
            return Ok(());
        }
        Err(
            "This host name is not known to be this server's. The server has to list it among its origins, like \
             https://example.com.",
        )
    }

    fn is_here(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case("localhost")
            || (!name.is_empty() && name.eq_ignore_ascii_case(self.host))
            || is_numeric(name)
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_name(authority: &str) -> &str {
    if let Some(inner) = authority.strip_prefix('[') {
        return inner.split(']').next().unwrap_or(inner);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// Whether this is `host` or `host:port`, with an IPv6 address in brackets. A part behind the brackets that is neither
/// would be taken for a part of the name by one program, and be dropped by the next.
#[cfg(feature = "http")]
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("a", rest),
            _ => return false,
        },
        None => match text.find(':') {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        },
    };
    // RFC 3986, section 3.2.2.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    !host.is_empty()
        && host.bytes().all(is_name)
        && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_numeric(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::is_authority;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in [
            "a",
            "a.example",
            "a:",
            "a:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "a_b~c",
        ] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "[::1]evil",
            "[::1]:80x",
            "[::1",
            "[a]",
            "[]",
            "a:b",
            "a:123456",
            "u@a",
            "a b",
            "a/b",
            "a\\b",
            "a:80:80",
            "::1",
            "a,b:c",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}

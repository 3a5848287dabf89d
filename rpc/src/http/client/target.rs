//! The URL of a request: its parts, its origin, and the target of a redirect.

use crate::address::Address;
use crate::error::{Error, ErrorKind};
use hyper::Uri;
use percent_encoding::percent_decode_str;
use std::fmt;
use url::{Host, Position, Url};

/// An `http://` or `https://` URL.
///
/// ```
/// use yue_rpc::http::client::Target;
///
/// let here = Target::parse("https://example.com/a/b?q=1#part").unwrap();
/// assert_eq!(here.path_and_query(), "/a/b?q=1");
/// let there = here.join("../c").unwrap();
/// assert_eq!(there.as_str(), "https://example.com/c");
/// assert!(here.has_origin_of(&there));
/// assert!(Target::parse("example.com").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// `AddressError`, with the reason.
    pub fn parse(text: &str) -> Result<Target, Error> {
        check_characters(text)?;
        let url = Url::parse(text).map_err(|fault| {
            let advice = match fault {
                url::ParseError::RelativeUrlWithoutBase => {
                    "; it begins with http:// or https://".to_owned()
                }
                _ => format!(": {fault}"),
            };
            bad(text, &advice)
        })?;
        Target::of(url, text)
    }

    /// The URL that `reference` means at this one, such as the `Location` of a redirect.
    ///
    /// # Errors
    /// `AddressError`, with the reason.
    pub fn join(&self, reference: &str) -> Result<Target, Error> {
        check_characters(reference)?;
        let url = self.url.join(reference);
        let url = url.map_err(|fault| bad(reference, &format!(": {fault}")))?;
        Target::of(url, reference)
    }

    fn of(mut url: Url, text: &str) -> Result<Target, Error> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad(text, "; it begins with http:// or https://"));
        }
        // Both schemes have a host, or the parser refuses them. Nothing listens at port 0.
        if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
            return Err(bad(text, "; it has a host, and a port other than 0"));
        }
        // It is never sent.
        url.set_fragment(None);
        Ok(Target { url })
    }

    /// The whole text, without a fragment.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// The path and the query, as the request line has them.
    pub fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }

    /// Whether it is `https://`.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether scheme, host and port are the same.
    pub fn has_origin_of(&self, other: &Target) -> bool {
        self.url.origin() == other.url.origin()
    }

    /// Removes the user and the password, and returns them decoded.
    pub fn take_user(&mut self) -> Option<(String, String)> {
        if self.url.username().is_empty() && self.url.password().is_none() {
            return None;
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(self.url.username());
        let password = decoded(self.url.password().unwrap_or_default());
        // These cannot fail for a URL with a host.
        let _ = self.url.set_username("");
        let _ = self.url.set_password(None);
        Some((user, password))
    }

    /// The value of the header `Host`.
    pub(super) fn host(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// The target of the request line.
    pub(super) fn uri(&self) -> Result<Uri, Error> {
        let uri = self.path_and_query().parse();
        uri.map_err(|fault| bad(self.as_str(), &format!(": {fault}")))
    }

    /// The address of the server.
    pub(super) fn address(&self) -> Address {
        let host = match self.url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        let port = self.url.port_or_known_default().unwrap_or(80);
        match self.is_secure() {
            true => Address::Tls { host, port },
            false => Address::Tcp { host, port },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

/// Refuses control characters and spaces around. The parser would silently remove some of them, so that two readers of
/// the text would not mean the same URL.
fn check_characters(text: &str) -> Result<(), Error> {
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err(bad(text, "; it has a line break, or a space at its end"));
    }
    Ok(())
}

fn bad(text: &str, advice: &str) -> Error {
    let mut shown: String = text.chars().take(200).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Error::new(
        ErrorKind::Address,
        format!("{shown:?} is not the URL of an HTTP request{advice}"),
    )
}

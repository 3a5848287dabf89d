//! Descriptions of failed handshakes, with the remedy. A client gets them as the error of its call, a server's operator
//! as a line in the log.

use crate::error::ErrorKind;
use crate::transport::LinkRefused;
use crate::transport::tls_options::Side;
use std::io;
use yue_io::tls::rustls::pki_types::UnixTime;
use yue_io::tls::rustls::{AlertDescription, CertificateError, Error};

/// The error of a link whose bytes rustls refuses.
pub(super) fn of_rustls(side: Side, is_handshake: bool, error: &Error) -> io::Error {
    let is_final = is_handshake || matches!(error, Error::AlertReceived(alert) if judges(*alert));
    let text = describe(side, is_handshake, error);
    match is_final {
        true => LinkRefused::new(ErrorKind::Tls, text).into(),
        false => io::Error::new(io::ErrorKind::InvalidData, text),
    }
}

/// The peer closed the socket during the handshake. `heard`: it had sent something.
pub(super) fn closed_in_handshake(side: Side, heard: bool) -> io::Error {
    let text = match side {
        Side::Client => {
            "the server closed the connection during the TLS handshake; if it does not speak TLS, use tcp://"
        }
        Side::Server => "the client closed the connection during the TLS handshake",
    };
    io::Error::new(closed_kind(heard), text)
}

/// The connection broke during the handshake.
pub(super) fn broken_in_handshake(heard: bool, error: io::Error) -> io::Error {
    let kind = match heard {
        true => error.kind(),
        false => closed_kind(false),
    };
    io::Error::new(kind, format!("{error} (during the TLS handshake)"))
}

/// A peer that said nothing at all was perhaps only a probe of the port.
fn closed_kind(heard: bool) -> io::ErrorKind {
    match heard {
        true => io::ErrorKind::UnexpectedEof,
        false => io::ErrorKind::NotConnected,
    }
}

/// The peer closed the socket of an established connection without `close_notify`.
pub(super) fn truncated() -> io::Error {
    let text = "the peer closed the socket without ending the TLS connection (no close_notify); bytes may be missing";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

/// Whether an alert is the peer's judgement of this side, which does not change by another attempt. With TLS 1.3 a
/// client may receive it after its own handshake is complete.
fn judges(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // The signature of a certificate is wrong. (Of a later record it would be `BadRecordMac`.)
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
    )
}

fn describe(side: Side, is_handshake: bool, error: &Error) -> String {
    let (peer, own) = match side {
        Side::Client => ("server", "client"),
        Side::Server => ("client", "server"),
    };
    match error {
        Error::InvalidMessage(_) if is_handshake => match side {
            Side::Client => {
                "the server does not speak TLS; use a tcp:// address, or the server's TLS port".to_owned()
            }
            Side::Server => "the client does not speak TLS; it must use a tls:// address".to_owned(),
        },
        Error::InvalidCertificate(fault) => describe_certificate(peer, fault),
        Error::NoCertificatesPresented => {
            "the client has no certificate, which this server demands (client_ca); give it cert and key".to_owned()
        }
        Error::AlertReceived(alert) => describe_alert(side, peer, own, *alert),
        Error::PeerIncompatible(_) => {
            format!("the {peer} and this side have no TLS version or cipher in common: {error}")
        }
        _ => format!("TLS: {error}"),
    }
}

fn describe_certificate(peer: &str, fault: &CertificateError) -> String {
    let option = match peer {
        "server" => "ca",
        _ => "client_ca",
    };
    match fault {
        CertificateError::UnknownIssuer => format!(
            "the {peer}'s certificate is not signed by an authority that this side trusts; \
             give the certificate of its authority as the option {option}"
        ),
        // An authority of the same name has another key.
        CertificateError::BadSignature => format!(
            "the {peer}'s certificate is not signed by an authority that this side trusts, but by another one of the \
             same name; give the certificate of its authority as the option {option}"
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the {peer}'s certificate expired {} ago; renew it (or correct this machine's clock)",
            age(*not_after, *time)
        ),
        CertificateError::Expired => {
            format!(
                "the {peer}'s certificate has expired; renew it (or correct this machine's clock)"
            )
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the {peer}'s certificate is not valid before {} from now; correct this machine's clock, or the \
             certificate",
            age(*time, *not_before)
        ),
        CertificateError::NotValidYet => {
            format!(
                "the {peer}'s certificate is not valid yet; correct this machine's clock, or the certificate"
            )
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
            let names = match names.is_empty() {
                true => "no name".to_owned(),
                false => names.join(", "),
            };
            format!(
                "the {peer}'s certificate is for {names}, not for '{}'; use a name that it has, in the address or as \
                 the option server_name",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => format!(
            "the {peer}'s certificate is for another name; use a name that it has, in the address or as the option \
             server_name"
        ),
        // rustls keeps the reasons that have no variant of their own as webpki's errors.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            format!(
                "the {peer}'s certificate is that of an authority (CA:TRUE); sign a certificate for the {peer} with \
             it, or make one with basicConstraints=CA:FALSE"
            )
        }
        _ => format!("the {peer}'s certificate is not valid: {fault}"),
    }
}

/// rustls describes a name as `DnsName("localhost")` or `IpAddress(127.0.0.1)`.
fn bare_name(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, inner)| {
        inner.trim_end_matches(')').trim_matches('"')
    })
}

fn describe_alert(side: Side, peer: &str, own: &str, alert: AlertDescription) -> String {
    let what = match (alert, side) {
        (AlertDescription::CertificateRequired, Side::Client) => {
            "the server demands a certificate of this client; give the options cert and key".to_owned()
        }
        (AlertDescription::UnknownCA | AlertDescription::DecryptError, Side::Server) => {
            "the client does not trust this server's certificate; it must know the certificate's authority (its \
             option ca)"
                .to_owned()
        }
        (AlertDescription::UnknownCA | AlertDescription::DecryptError, Side::Client) => {
            "the server does not trust this client's certificate; an authority in the server's client_ca must have \
             signed it"
                .to_owned()
        }
        (AlertDescription::HandshakeFailure, _) => format!("the {peer} refuses the handshake"),
        (alert, _) if judges(alert) => {
            let why = reason(alert);
            format!("the {peer} does not accept this {own}'s certificate: {why}")
        }
        _ => format!("the {peer} ended the connection"),
    };
    format!("{what} (TLS alert: {alert:?})")
}

fn reason(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::BadCertificate => "it is for another name, or malformed",
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::CertificateRequired => "there is none",
        AlertDescription::AccessDenied => "access is denied",
        _ => "it is not of the right kind",
    }
}

/// A span of time, as a person says it.
fn age(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_expired_certificate_says_since_when() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        for (seconds, text) in [(1, "1 second"), (3_600, "60 minutes"), (864_000, "10 days")] {
            let fault = CertificateError::ExpiredContext {
                time: at(1_000_000 + seconds),
                not_after: at(1_000_000),
            };
            let error = of_rustls(Side::Client, true, &Error::InvalidCertificate(fault));
            assert!(
                error.to_string().contains(&format!("expired {text} ago")),
                "{error}"
            );
        }
    }
}

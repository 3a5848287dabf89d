//! The options of WebSocket listeners and connections.

use std::time::Duration;

/// The options of a WebSocket listener or connection.
///
/// ```
/// use yue_rpc::session::Service;
/// use yue_rpc::transport::{SocketOptions, WebSocketOptions};
/// use yue_rpc::{Listener, Options};
///
/// yue_io::run(|| -> Result<(), Box<dyn std::error::Error>> {
///     let origins = Some(vec!["https://game.example".to_owned()]);
///     let sockets = SocketOptions {
///         websocket: WebSocketOptions { origins, ..WebSocketOptions::default() },
///         ..SocketOptions::default()
///     };
///     let address = "ws://127.0.0.1:0/rpc".parse()?;
///     let listener = Listener::bind_with(&address, Service::none(), Options::default(), &sockets)?;
///     listener.close();
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WebSocketOptions {
    /// Listeners: the origins whose pages may connect, like `https://example.com`, or `*` for any. By default pages of
    /// the host that they connect to, if that is a numeric address, `localhost`, or the name in the listener's address.
    /// Clients other than browsers send no origin and may connect in any case.
    pub origins: Option<Vec<String>>,
    /// Listeners at `tcp://`, `tls://` and `unix://` addresses: clients may also connect by WebSocket, at the path `/`.
    /// The first bytes of a link tell which protocol it speaks; until they have arrived, the server says nothing.
    pub shares_port: bool,
    /// Connections: the time that the server has to answer the request for a WebSocket. A listener has
    /// [`Limits::handshake`](crate::Limits::handshake).
    pub upgrade_time: Duration,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        WebSocketOptions {
            origins: None,
            shares_port: false,
            upgrade_time: Duration::from_secs(30),
        }
    }
}

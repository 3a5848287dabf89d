//! TLS over any stream, by rustls (feature `tls`): implements [`Read`] and [`Write`] over another `Read` and `Write`.
//!
//! One [`Connector`] or [`Acceptor`], made from certificates in files or memory, serves all connections. For further
//! settings both can be made from rustls's configurations; [`rustls`] is re-exported here. The cryptography is *ring*,
//! which needs only a C compiler. In a [simulation](yue_scheduler::simulation) its random numbers are those of the
//! seed, sessions are not resumed, and certificates are still checked by the system's clock.
//!
//! ```
//! # use std::io::{Read, Write};
//! # use yue_io::net::{TcpListener, TcpStream};
//! # use yue_io::tls::{Acceptor, Connector, Identity, Roots};
//! # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
//! # let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
//! yue_io::run(move || -> std::io::Result<()> {
//!     let listener = TcpListener::bind("localhost:0")?;
//!     let address = listener.local_addr()?;
//!     let acceptor = Acceptor::new(Identity::from_pem(&certificate, &key)?)?;
//!     yue_scheduler::spawn(move || -> std::io::Result<()> {
//!         let (stream, _) = listener.accept()?;
//!         let mut stream = acceptor.accept(stream)?;
//!         stream.write_all(b"secret")?;
//!         stream.close()
//!     });
//!     let connector = Connector::new(Roots::from_pem(&certificate)?)?;
//!     let mut stream = connector.connect("localhost", TcpStream::connect(address)?)?;
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text)?;
//!     assert_eq!(text, "secret");
//!     Ok(())
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

mod certificate_name;
mod config;
mod halves;
mod insecure;
mod provider;
mod stream;

pub use certificate_name::certificate_name;
pub use config::{Acceptor, Connector, Identity, Roots};
pub use halves::{TlsReader, TlsWriter};
pub use rustls;
pub use stream::TlsStream;

#[allow(unused_imports)] // For the links above.
use std::io::{Read, Write};

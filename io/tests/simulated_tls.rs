//! TLS in a simulation: all that is visible of its connections is a function of the seed.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use yue_io::net::{TcpListener, TcpStream};
use yue_io::simulation::{self as network, Record};
use yue_io::tls::{Acceptor, Connector, Identity, Roots};
use yue_scheduler::simulation;

/// The settings of both sides, made outside of any simulation.
#[derive(Clone)]
struct Sides(Acceptor, Connector);

fn sides(algorithm: &'static rcgen::SignatureAlgorithm) -> Sides {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let settings = rcgen::CertificateParams::new(["server".to_owned()]).unwrap();
    let certificate = settings.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(&certificate, key.serialize_pem()).unwrap();
    let client = Identity::from_pem(&certificate, key.serialize_pem()).unwrap();
    let roots = Roots::from_pem(&certificate).unwrap();
    Sides(
        Acceptor::with(identity, Some(Roots::from_pem(&certificate).unwrap()), &[]).unwrap(),
        Connector::with(roots, Some(client), &[]).unwrap(),
    )
}

/// Connects several times, and returns all that happened on the network, and the hash of all choices.
fn run(seed: u64, sides: &Sides) -> (Vec<Record>, u64) {
    let Sides(acceptor, connector) = sides.clone();
    let main = move || {
        network::keep_trace();
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
        network::add_address(0, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let server = network::add_host(address);
        network::add_name("server", address);
        let serve = move || {
            let served = yue_io::run(move || -> io::Result<()> {
                let listener = TcpListener::bind("0.0.0.0:443")?;
                for _ in 0..4 {
                    let mut stream = acceptor.accept(listener.accept()?.0)?;
                    let mut bytes = [0; 5];
                    stream.read_exact(&mut bytes)?;
                    stream.write_all(&bytes)?;
                    stream.close()?;
                }
                Ok(())
            });
            served.unwrap().unwrap();
        };
        let server = simulation::spawn_thread(server, "server", serve).unwrap();
        let called = yue_io::run(move || -> io::Result<()> {
            yue_scheduler::sleep(std::time::Duration::from_millis(1)).unwrap();
            for _ in 0..4 {
                let stream = TcpStream::connect("server:443")?;
                let mut stream = connector.connect("server", stream)?;
                stream.write_all(b"hello")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                assert_eq!(text, "hello");
            }
            Ok(())
        });
        called.unwrap().unwrap();
        drop(server);
        network::take_trace()
    };
    simulation::run(seed, main).unwrap()
}

#[test]
fn two_runs_of_a_seed_send_the_same_packets() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ] {
        let sides = sides(algorithm);
        for seed in 0..8 {
            let (one, other) = (run(seed, &sides), run(seed, &sides));
            assert!(one.0.len() > 20);
            // Their records would fill a page.
            assert!(one == other, "seed {seed}, {algorithm:?}");
        }
        assert_ne!(run(1, &sides).1, run(2, &sides).1);
    }
}

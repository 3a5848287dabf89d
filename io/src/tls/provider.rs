//! The cryptography of TLS: *ring*, whose random numbers are those of the seed in a simulation.
//!
//! rustls takes its own random numbers from the provider. Two other uses of randomness are within *ring*, which lets
//! nobody replace it: the keys of an exchange, and the signatures of ECDSA. Neither the program nor the network sees
//! these bytes, only their number. An exchange's keys always have the same length. A signature of ECDSA consists of two
//! numbers, written without leading zeros, so its length varies by some bytes. In a simulation signatures are made
//! until one has the most frequent length. Then all that is visible of a connection is a function of the seed.

use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::sync::Arc;
use yue_scheduler::simulation;

/// The provider of all connections.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        secure_random: &SeededRandom,
        key_provider: &Keys,
        ..rustls::crypto::ring::default_provider()
    })
}

/// Random numbers: those of the simulation to which the calling thread belongs, or *ring*'s.
#[derive(Debug)]
struct SeededRandom;

impl SecureRandom for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        match simulation::is_on() {
            true => simulation::fill_random(bytes).map_err(|_| GetRandomFailed),
            false => rustls::crypto::ring::default_provider()
                .secure_random
                .fill(bytes),
        }
    }
}

/// Private keys, whose signatures have a fixed length in a simulation.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let keys = rustls::crypto::ring::default_provider().key_provider;
        Ok(Arc::new(Key(keys.load_private_key(key)?)))
    }
}

#[derive(Debug)]
struct Key(Arc<dyn SigningKey>);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(match simulation::is_on() {
            true => Box::new(FixedLength(signer)),
            false => signer,
        })
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

/// A signer whose signatures all have the same length.
#[derive(Debug)]
struct FixedLength(Box<dyn Signer>);

/// The attempts to get a signature of the length. Half of all signatures have it.
const ATTEMPTS_MAX: usize = 100;

impl Signer for FixedLength {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // Six bytes of structure, the two numbers, and a zero before one of them, whose highest bit is set.
        let length = match self.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => 6 + 2 * 32 + 1,
            SignatureScheme::ECDSA_NISTP384_SHA384 => 6 + 2 * 48 + 1,
            // Others have a fixed length anyway.
            _ => return self.0.sign(message),
        };
        let mut signature = self.0.sign(message)?;
        for _ in 0..ATTEMPTS_MAX {
            if signature.len() == length {
                break;
            }
            signature = self.0.sign(message)?;
        }
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

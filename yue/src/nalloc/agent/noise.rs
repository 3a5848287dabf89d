//! The primitives of the Noise handshake: X25519 of curve25519-dalek, ChaCha20-Poly1305 and SHA-256 of ring.
//!
//! `snow` brings primitives of its own, in versions that this program would have twice. So it gets these.

use curve25519_dalek::MontgomeryPoint;
use ring::aead::{self, LessSafeKey, UnboundKey};
use ring::digest;
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};

/// The pattern IK: the owner knows the agent's key beforehand, and shows its own, encrypted, in the first message.
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_SHA256";

/// The bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// The bytes that encryption adds to a message.
pub(super) const TAG_BYTES: usize = 16;

/// A builder of handshakes with the project's pattern, primitives and prologue.
pub(super) fn builder<'a>(
    prologue: &'a [u8],
    secret: &'a [u8],
) -> Result<snow::Builder<'a>, Error> {
    let params: NoiseParams = PATTERN.parse()?;
    snow::Builder::with_resolver(params, Box::new(Primitives))
        .prologue(prologue)?
        .local_private_key(secret)
}

/// The public half of a secret key.
pub(super) fn public_of(secret: [u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    MontgomeryPoint::mul_base_clamped(secret).to_bytes()
}

struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(System))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<X25519>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::<Sha256>::default() as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly)
            .then(|| Box::<ChaChaPoly>::default() as Box<dyn Cipher>)
    }
}

/// The system's random numbers.
struct System;

impl Random for System {
    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(into).map_err(|_| Error::Rng)
    }
}

/// The key exchange (RFC 7748).
#[derive(Default)]
struct X25519 {
    secret: [u8; KEY_BYTES],
    public: [u8; KEY_BYTES],
}

impl X25519 {
    fn set_secret(&mut self, secret: [u8; KEY_BYTES]) {
        self.secret = secret;
        self.public = public_of(secret);
    }
}

impl Drop for X25519 {
    fn drop(&mut self) {
        self.secret.fill(0);
        // The compiler must not leave the write out.
        std::hint::black_box(&self.secret);
    }
}

/// The first 32 bytes; zeros if there are fewer, which `snow` never passes.
fn key_of(bytes: &[u8]) -> [u8; KEY_BYTES] {
    bytes
        .first_chunk::<KEY_BYTES>()
        .copied()
        .unwrap_or_default()
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_BYTES
    }

    fn priv_len(&self) -> usize {
        KEY_BYTES
    }

    fn set(&mut self, secret: &[u8]) {
        self.set_secret(key_of(secret));
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut secret = [0; KEY_BYTES];
        random.try_fill_bytes(&mut secret)?;
        self.set_secret(secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let shared = MontgomeryPoint(key_of(public))
            .mul_clamped(self.secret)
            .to_bytes();
        // A point of low order yields zeros whatever the secret is (RFC 7748, 6.1).
        if shared == [0; KEY_BYTES] {
            return Err(Error::Dh);
        }
        match out.get_mut(..KEY_BYTES) {
            Some(out) => out.copy_from_slice(&shared),
            None => return Err(Error::Dh),
        }
        Ok(())
    }
}

/// The cipher (RFC 8439); `None` before it has a key.
#[derive(Default)]
struct ChaChaPoly(Option<LessSafeKey>);

/// The nonce of a message: four zeros and its number, the lower bytes first (Noise, 12.3).
fn nonce_of(number: u64) -> aead::Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    aead::Nonce::assume_unique_for_key(nonce)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_BYTES]) {
        let unbound = UnboundKey::new(&aead::CHACHA20_POLY1305, key);
        self.0 = unbound.ok().map(LessSafeKey::new);
    }

    fn encrypt(&self, number: u64, also: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let also = aead::Aad::from(also);
        let key = self.0.as_ref();
        let tag = key.and_then(|key| {
            key.seal_in_place_separate_tag(nonce_of(number), also, text)
                .ok()
        });
        match tag {
            Some(tag) => rest[..TAG_BYTES].copy_from_slice(tag.as_ref()),
            // Messages are far below ring's limit, and `snow` sets the key first. The plaintext must not leave.
            None => {
                text.fill(0);
                rest[..TAG_BYTES].fill(0);
            }
        }
        plain.len() + TAG_BYTES
    }

    fn decrypt(
        &self,
        number: u64,
        also: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let mut copy = sealed.to_vec();
        let plain = key
            .open_in_place(nonce_of(number), aead::Aad::from(also), &mut copy)
            .map_err(|_| Error::Decrypt)?;
        let out = out.get_mut(..plain.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(plain);
        Ok(plain.len())
    }
}

/// The hash.
struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self = Sha256::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| (digit(pair[0]) << 4) | digit(pair[1]))
            .collect()
    }

    /// A vector of cacophony, another implementation of Noise.
    #[test]
    fn handshake_and_messages_are_those_of_another_implementation() {
        let prologue = bytes("4a6f686e2047616c74");
        let secret = bytes("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1");
        let ephemeral = bytes("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a");
        let peer = bytes("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62");
        let mut initiator = builder(&prologue, &secret)
            .unwrap()
            .remote_public_key(&peer)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&ephemeral)
            .build_initiator()
            .unwrap();
        let mut out = [0; 200];
        let count = initiator
            .write_message(&bytes("4c756477696720766f6e204d69736573"), &mut out)
            .unwrap();
        let expected = "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944\
            718da798efbcd91528520204f904b9bd6c7413dccdc214d951e15253e39987f18146e8cd0873654207148333\
            479d4d16c289f0294b29960a72f48e0b7bba2e89083169825e59642148d492020664ccf7";
        assert_eq!(out[..count], bytes(expected));
        let answer = "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088435361e70b2ed446e6c9\
            ec387d1d6b3b840f194e373979d241b203c4acafccf5";
        let count = initiator.read_message(&bytes(answer), &mut out).unwrap();
        assert_eq!(out[..count], bytes("4d757272617920526f746862617264"));
        let mut transport = initiator.into_transport_mode().unwrap();
        let count = transport
            .write_message(&bytes("462e20412e20486179656b"), &mut out)
            .unwrap();
        let expected = "050e9f3c8fac16b68dbce8f8c4bfbf6617c897f9ada4aa29aa19c8";
        assert_eq!(out[..count], bytes(expected));
    }

    #[test]
    fn a_key_of_low_order_is_refused() {
        let mut pair = X25519::default();
        pair.generate(&mut System).unwrap();
        assert!(pair.dh(&[0; KEY_BYTES], &mut [0; KEY_BYTES]).is_err());
    }
}

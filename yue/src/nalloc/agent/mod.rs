//! The channel between an owner and an agent, which starts nodes on another machine, and the owner's side of it.
//!
//! ```text
//!   owner                                                            agent (`yue agent`)
//!   Session ── LifeLink ── Filter ── socket ═══ Noise, frames ═══ socket ── relay ── socket pair ── `yue node`
//! ```
//!
//! 1. The client sends eight bytes, [`PREFACE`], and a [`Hello`]: a Noise handshake, a question for the agent's public
//!    key, or (Unix sockets only) that there is no encryption.
//! 2. The handshake is Noise's pattern IK. The owner knows the agent's static key and shows its own: a frame each way.
//!    The first frame can be replayed, so the agent believes nothing before the first message behind the handshake.
//! 3. That is the owner's [`Request`]. The agent answers with [`Answer`]s: it is busy, it wants the owner's binary, the
//!    node has been started.
//! 4. From then on both sides send the bytes of the node's link. The agent adds the node's output, and how it ended.
//!
//! A frame is its length, two bytes with the higher one first, and so many bytes: a Noise message, whose plaintext is a
//! payload and, in one byte, its [`Kind`].
//!
//! `noise.rs` has the cryptography, `keys.rs` the files with keys, `address.rs` the addresses, `message.rs` requests
//! and answers, `codec.rs` the frames, `channel.rs` the conversation over a stream. `carrier.rs` and `filter.rs` are
//! the owner's side; the agent's is in the command.

mod address;
mod carrier;
mod channel;
mod codec;
mod filter;
mod keys;
mod message;
mod noise;
mod own_binary;

pub use address::{AgentAddress, DEFAULT_PORT};
pub use carrier::fetch_key;
pub(crate) use carrier::{Agent, AgentCarrier};
pub use channel::{
    Channel, HANDSHAKE_TIME, Hello, PREFACE, accept, answer_key, query_key, read_hello,
};
pub use codec::{Codec, FRAME_MAX, Kind, PAYLOAD_MAX};
pub use keys::{
    AUTHORIZED_OWNERS, AuthorizedOwners, KNOWN_AGENTS, KnownAgents, PublicKey, SecretKey,
    agent_key, config_folder, owner_key,
};
pub use message::{Answer, Free, Request, VERSION};
pub use own_binary::{Binary, is_hash, own_binary};

//! Keys, and the files that hold them, in `~/.config/yue`.
//!
//! | file | |
//! |---|---|
//! | `key` | the owner's secret key |
//! | `known_agents` | agents that the owner trusts: address and public key in a line |
//! | `agent_key` | the agent's secret key |
//! | `authorized_owners` | owners that the agent serves: a public key in a line |
//!
//! A secret key is in a file that only its user can read, and nowhere else: nothing here prints it. In files of public
//! keys a `#` begins a comment, and so does whatever stands behind a key.

use super::address::AgentAddress;
use super::noise::{KEY_BYTES, public_of};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The file of the agents that an owner trusts.
pub const KNOWN_AGENTS: &str = "known_agents";
/// The file of the owners that an agent serves.
pub const AUTHORIZED_OWNERS: &str = "authorized_owners";

const OWNER_KEY: &str = "key";
const AGENT_KEY: &str = "agent_key";

/// No file of keys is as long.
const FILE_MAX: u64 = 1 << 20;

/// A public key: 44 characters of Base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub(super) [u8; KEY_BYTES]);

impl PublicKey {
    /// The key of these bytes; `None` if they are not as many as a key has.
    pub fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        bytes.try_into().ok().map(PublicKey)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PublicKey, String> {
        let bytes = STANDARD.decode(text).ok();
        // The text is not repeated: it may be a secret.
        bytes
            .and_then(|bytes| PublicKey::from_bytes(&bytes))
            .ok_or_else(|| "it is not a public key, which is 44 characters of Base64".to_owned())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret key. It is never printed.
#[derive(Clone)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// A new key.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn generate() -> io::Result<SecretKey> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(SecretKey(bytes))
    }

    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> SecretKey {
        SecretKey(bytes)
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(public_of(self.0))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.fill(0);
        // The compiler must not leave the write out.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

/// The folder of the files: `yue` in `XDG_CONFIG_HOME`, or in `~/.config`.
///
/// # Errors
/// If neither that variable nor `HOME` is set.
pub fn config_folder() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
    base.map(|base| base.join("yue")).ok_or_else(|| {
        "there is no folder for keys: neither XDG_CONFIG_HOME nor HOME is set".to_owned()
    })
}

/// The owner's key, which is made when it is first needed.
///
/// # Errors
/// If the file cannot be read or made, does not hold a key, or can be read by others.
pub fn owner_key() -> Result<SecretKey, String> {
    secret_key(&config_folder()?, OWNER_KEY)
}

/// The agent's key, which is made when it is first needed.
///
/// # Errors
/// See [`owner_key`].
pub fn agent_key() -> Result<SecretKey, String> {
    secret_key(&config_folder()?, AGENT_KEY)
}

fn secret_key(folder: &Path, name: &str) -> Result<SecretKey, String> {
    let path = folder.join(name);
    match read_secret(&path) {
        Err(Failure::Missing) => {}
        Err(Failure::Other(text)) => return Err(text),
        Ok(key) => return Ok(key),
    }
    make_secret(folder, name)
        .map_err(|error| format!("cannot make the key {}: {error}", path.display()))?;
    // Another process may have made it in the meantime.
    read_secret(&path).map_err(|failure| match failure {
        Failure::Missing => format!("the key {} has vanished", path.display()),
        Failure::Other(text) => text,
    })
}

enum Failure {
    Missing,
    Other(String),
}

fn read_secret(path: &Path) -> Result<SecretKey, Failure> {
    let other = |text: String| Failure::Other(text);
    let shown = path.display();
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing,
        _ => Failure::Other(format!("cannot read the key {shown}: {error}")),
    };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    if facts.mode() & 0o077 != 0 {
        return Err(other(format!(
            "the secret key {shown} can be read by others; run: chmod 600 {shown}"
        )));
    }
    let mut text = String::new();
    (&mut file)
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let bytes = STANDARD.decode(text.trim_end()).unwrap_or_default();
    let bytes: [u8; KEY_BYTES] = bytes[..]
        .try_into()
        .map_err(|_| other(format!("the file {shown} does not hold a secret key")))?;
    Ok(SecretKey(bytes))
}

/// Makes a key in one step, so that nobody finds a part of it, and two processes do not make two.
fn make_secret(folder: &Path, name: &str) -> io::Result<()> {
    make_folder(folder)?;
    let key = SecretKey::generate()?;
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    let text = format!("{}\n", STANDARD.encode(key.0));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    let linked = written.and_then(|()| match fs::hard_link(&temporary, folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&temporary);
    linked
}

fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// The lines of a file of public keys without their comments, with their numbers; none if there is no file.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, String> {
    let unreadable = |error: io::Error| format!("cannot read {}: {error}", path.display());
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => file
            .take(FILE_MAX)
            .read_to_string(&mut text)
            .map_err(unreadable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let lines = text.lines().enumerate().map(|(at, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (at + 1, line.to_owned())
    });
    Ok(lines.filter(|(_, line)| !line.is_empty()).collect())
}

/// The owners that an agent serves.
#[derive(Debug, Clone, Default)]
pub struct AuthorizedOwners(Vec<(PublicKey, String)>);

impl AuthorizedOwners {
    /// Reads the file of that folder; there are none if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, or a line does not begin with a public key.
    pub fn read(folder: &Path) -> Result<AuthorizedOwners, String> {
        let path = folder.join(AUTHORIZED_OWNERS);
        let mut owners = Vec::new();
        for (number, line) in lines(&path)? {
            let (key, name) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
            let key = key
                .parse()
                .map_err(|error| format!("{}, line {number}: {error}", path.display()))?;
            owners.push((key, name.trim().to_owned()));
        }
        Ok(AuthorizedOwners(owners))
    }

    /// Whether nobody is authorized.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name behind a key, which may be empty; `None` if its owner is not authorized.
    pub fn name_of(&self, key: &PublicKey) -> Option<&str> {
        let mut owners = self.0.iter();
        owners
            .find(|(known, _)| known == key)
            .map(|(_, name)| &name[..])
    }
}

/// The agents that an owner trusts.
#[derive(Debug, Clone, Default)]
pub struct KnownAgents(Vec<(AgentAddress, PublicKey)>);

impl KnownAgents {
    /// Reads the file of that folder; there are none if there is no file.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is not an address and a public key.
    pub fn read(folder: &Path) -> Result<KnownAgents, String> {
        let path = folder.join(KNOWN_AGENTS);
        let mut agents = Vec::new();
        for (number, line) in lines(&path)? {
            let wrong = |error: String| format!("{}, line {number}: {error}", path.display());
            let mut words = line.split_whitespace();
            let address = words.next().unwrap_or_default().parse().map_err(wrong)?;
            let key = words.next().unwrap_or_default().parse().map_err(wrong)?;
            agents.push((address, key));
        }
        Ok(KnownAgents(agents))
    }

    /// The key of the agent at an address; the last line counts.
    pub fn key_of(&self, address: &AgentAddress) -> Option<PublicKey> {
        let mut agents = self.0.iter().rev();
        agents
            .find(|(known, _)| known == address)
            .map(|(_, key)| *key)
    }

    /// Adds a line to the file of that folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(folder: &Path, address: &AgentAddress, key: &PublicKey) -> Result<(), String> {
        let path = folder.join(KNOWN_AGENTS);
        let add = || {
            make_folder(folder)?;
            let mut file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            // A line that somebody has written by hand may lack its end.
            let before = fs::read(&path)?;
            let end = match before.last() {
                None | Some(b'\n') => "",
                Some(_) => "\n",
            };
            // One write, so that lines of two processes do not mix.
            file.write_all(format!("{end}{address} {key}\n").as_bytes())
        };
        add().map_err(|error| format!("cannot write to {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> yue_io::fs::TempDir {
        yue_io::fs::TempDir::new().unwrap()
    }

    #[test]
    fn a_key_is_made_once_and_is_its_users_alone() {
        let folder = folder();
        let inner = folder.path().join("yue");
        let first = secret_key(&inner, "key").unwrap();
        let second = secret_key(&inner, "key").unwrap();
        assert_eq!(first.public(), second.public());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&inner), mode(&inner.join("key"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
        assert!(!format!("{first:?}").contains(&STANDARD.encode(first.0)));
    }

    #[test]
    fn a_secret_key_that_others_can_read_is_refused() {
        let folder = folder();
        secret_key(folder.path(), "key").unwrap();
        let path = folder.path().join("key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = secret_key(folder.path(), "key").unwrap_err();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn files_of_public_keys_have_comments_and_the_last_line_counts() {
        let folder = folder();
        let keys = [1, 2, 3].map(|byte| SecretKey([byte; KEY_BYTES]).public());
        let text = format!("# owners\n\n{} frodo at home\n{}\n", keys[0], keys[1]);
        fs::write(folder.path().join(AUTHORIZED_OWNERS), text).unwrap();
        let owners = AuthorizedOwners::read(folder.path()).unwrap();
        assert_eq!(owners.name_of(&keys[0]), Some("frodo at home"));
        assert_eq!(owners.name_of(&keys[1]), Some(""));
        assert_eq!(owners.name_of(&keys[2]), None);
        let address: AgentAddress = "10.0.0.1".parse().unwrap();
        for key in &keys[..2] {
            KnownAgents::add(folder.path(), &address, key).unwrap();
        }
        let agents = KnownAgents::read(folder.path()).unwrap();
        assert_eq!(agents.key_of(&address), Some(keys[1]));
        assert_eq!(agents.key_of(&"10.0.0.1:4511".parse().unwrap()), None);
    }

    #[test]
    fn a_wrong_line_is_named_without_its_text() {
        let folder = folder();
        fs::write(folder.path().join(AUTHORIZED_OWNERS), "# a\nsecret\n").unwrap();
        let error = AuthorizedOwners::read(folder.path()).unwrap_err();
        assert!(
            error.contains("line 2") && !error.contains("secret"),
            "{error}"
        );
    }
}

//! Passwords: Argon2id on the pool of blocking threads, so that the loop continues.
//!
//! Each hash takes memory and a processor on purpose. So few run at a time, and the rest wait in their order: a burst
//! of logins would otherwise take all memory, and all threads of the pool from files and names.

use crate::lua::host::errors::{error, stopped};
use crate::lua::native::{native, register};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error as HashError, PasswordHasher, PasswordVerifier};
use argon2::{Argon2, Params};
use std::sync::Arc;
use std::thread;
use yue_luajit::{Error, Stack};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::{self, PerHost};
use yue_scheduler::sync::Semaphore;
use yue_scheduler::{BlockingError, blocking};

/// More at a time would take the memory of a small machine: each takes 19 MiB, the default that OWASP recommends
/// (<https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html>).
const HASHES_MAX: usize = 4;

/// Limits for hashes that are verified. They state their own cost, and may come from strangers.
const MEMORY_KIB_MAX: u32 = 256 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// The permits of running hashes, of the whole process.
fn permits() -> Arc<Semaphore> {
    static PERMITS: PerHost<Arc<Semaphore>> = PerHost::new(|| {
        // The machine's processors must not decide what a simulation does.
        let processors = match simulation::is_on() {
            true => HASHES_MAX,
            false => thread::available_parallelism().map_or(1, usize::from),
        };
        Arc::new(Semaphore::new(processors.min(HASHES_MAX)))
    });
    PERMITS.get().clone()
}

/// A permit that was taken. Dropping it releases it.
struct Taken(Arc<Semaphore>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.add(1);
    }
}

/// Runs `work` on a blocking thread when there is a permit. A work that has begun keeps its permit when its fiber is
/// cancelled, because it still runs.
fn run_limited<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let permits = permits();
    permits.acquire(1).map_err(stopped)?.forget();
    let permit = Taken(permits);
    let outcome = blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    outcome.map_err(|failure| match failure {
        BlockingError::Stopped(reason) => stopped(reason),
        other => error(ErrorKind::Runtime, other.to_string()),
    })
}

native! {
    PasswordHashOf = "password_hash", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(password) -> String {
        let password = password.to_vec();
        let hashed = run_limited(move || Argon2::default().hash_password(&password).map(|hash| hash.to_string()))?;
        hashed.map_err(|failure| error(ErrorKind::Runtime, format!("the password cannot be hashed: {failure}")))
    }
}

native! {
    /// `password_verify(hash, password)`.
    PasswordVerify = "password_verify", suspends: true;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((hash, password)) -> bool {
        let hash = std::str::from_utf8(hash).ok()
            .and_then(|text| PasswordHash::new(text).ok())
            .filter(|hash| hash.algorithm.as_str().starts_with("argon2"))
            .ok_or_else(|| {
                error(ErrorKind::Argument, "the first argument is not a hash of password_hash ($argon2id$…)")
            })?;
        let cost = Params::try_from(&hash)
            .map_err(|failure| error(ErrorKind::Argument, format!("the hash is malformed: {failure}")))?;
        if cost.m_cost() > MEMORY_KIB_MAX || cost.t_cost() > PASSES_MAX || cost.p_cost() > LANES_MAX {
            let text = format!(
                "the hash is too expensive: at most {MEMORY_KIB_MAX} KiB, {PASSES_MAX} passes and {LANES_MAX} lanes \
                 are allowed"
            );
            return Err(error(ErrorKind::Argument, text));
        }
        let password = password.to_vec();
        let verified = run_limited(move || Argon2::default().verify_password(&password, &hash))?;
        match verified {
            Ok(()) => Ok(true),
            Err(HashError::PasswordInvalid) => Ok(false),
            Err(failure) => Err(error(ErrorKind::Argument, format!("the hash cannot be verified: {failure}"))),
        }
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; PasswordHashOf, PasswordVerify);
}

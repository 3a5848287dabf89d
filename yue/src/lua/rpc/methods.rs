//! Counters of a service's methods: calls, errors and time of each, for `listener:stats()`.
//!
//! Only names that were found are counted, so that invented names take no memory. A program that makes up names without
//! end fills the table only up to a limit, above which all are counted together.
//!
//! It is on the path of every call, so it is cheap: the method that was called last is found by one comparison, another
//! by its hash, and the clock is read for a share of the calls once there are many.

use crate::lua::native::Results;
use crate::lua::number_hash::NumberHash;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::time::Duration;
use yue_luajit::{Stack, ffi};
use yue_scheduler::{Instant, now};

/// The number of names that are counted separately.
const NAMES_MAX: usize = 1000;

/// The entry that counts all other names, and calls of functions that were passed as values.
const OTHERS: &[u8] = b"(others)";
pub(crate) const FUNCTIONS: &[u8] = b"(functions)";

/// The first calls of a method are all timed, up to this number; of later ones one in 16, at pseudo-random positions.
const TIMED_ALL: u64 = 1000;

struct Method {
    name: Box<[u8]>,
    calls: u64,
    errors: u64,
    /// Calls that were timed, and their total time.
    timed: u64,
    time: Duration,
}

/// The methods of one service.
#[derive(Default)]
pub(crate) struct Methods {
    methods: RefCell<Vec<Method>>,
    by_hash: RefCell<HashMap<u64, usize, NumberHash>>,
    /// The index of the method that was called last.
    last: Cell<usize>,
}

/// A call that is being served.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    /// The method's index, if it has been called before.
    index: Option<usize>,
    /// The start time, if the call is timed.
    began: Option<Instant>,
}

impl Methods {
    /// Called before a request of that name is looked up.
    #[inline]
    pub(crate) fn begin(&self, name: &[u8]) -> Begun {
        let methods = self.methods.borrow();
        let last = self.last.get();
        let index = match methods.get(last) {
            Some(method) if *method.name == *name => Some(last),
            _ => {
                let known = self.by_hash.borrow().get(&hash(name)).copied();
                known.filter(|index| *methods[*index].name == *name)
            }
        };
        let calls = index.map_or(0, |index| methods[index].calls);
        let chosen = calls < TIMED_ALL || calls.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 == 0;
        Begun {
            index,
            began: chosen.then(now),
        }
    }

    /// Records a call of an existing method that has ended.
    #[inline]
    pub(crate) fn end(&self, name: &[u8], begun: Begun, failed: bool) {
        let mut methods = self.methods.borrow_mut();
        let index = match begun.index {
            Some(index) => index,
            None => self.find(&mut methods, name),
        };
        self.last.set(index);
        let method = &mut methods[index];
        method.calls += 1;
        method.errors += u64::from(failed);
        if let Some(began) = begun.began {
            method.timed += 1;
            method.time += now().saturating_since(began);
        }
    }

    /// The index of the name; a new one gets an index if there is room.
    fn find(&self, methods: &mut Vec<Method>, name: &[u8]) -> usize {
        let mut by_hash = self.by_hash.borrow_mut();
        for name in [name, OTHERS] {
            let next = methods.len();
            // Above the limit there is room for that one only.
            let limit = NAMES_MAX + usize::from(name == OTHERS);
            let known = match by_hash.get(&hash(name)) {
                Some(index) => *index,
                None if next >= limit => continue,
                None => {
                    by_hash.insert(hash(name), next);
                    methods.push(Method {
                        name: name.into(),
                        calls: 0,
                        errors: 0,
                        timed: 0,
                        time: Duration::ZERO,
                    });
                    next
                }
            };
            // Another name with the same hash occupies it: that does not happen by chance.
            if *methods[known].name == *name {
                return known;
            }
        }
        0
    }

    /// Calls, errors and seconds of each method, for Lua.
    pub(crate) fn table(&self) -> MethodTable {
        let methods = self.methods.borrow();
        let row = |method: &Method| MethodRow {
            name: method.name.clone(),
            calls: method.calls as f64,
            errors: method.errors as f64,
            time: method.time.as_secs_f64() / method.timed.max(1) as f64 * method.calls as f64,
        };
        MethodTable(methods.iter().map(row).collect())
    }
}

/// Hashes eight bytes at a time. The names are the program's own, so nobody chooses them to collide.
fn hash(name: &[u8]) -> u64 {
    let mut hash = name.len() as u64;
    for chunk in name.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // Both halves of the product: every bit of the word reaches every bit of the hash.
        let word = hash ^ u64::from_le_bytes(word) ^ 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(word) * 0xa076_1d64_78bd_642f_u128;
        hash = (product >> 64) as u64 ^ product as u64;
    }
    hash
}

struct MethodRow {
    name: Box<[u8]>,
    calls: f64,
    errors: f64,
    time: f64,
}

/// `{ name = { calls = …, errors = …, time = … }, … }`
pub(crate) struct MethodTable(Vec<MethodRow>);

impl Results for MethodTable {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        stack.reserve(6);
        // SAFETY: `Stack` promises a valid state where errors may be raised; there is room.
        unsafe {
            ffi::lua_createtable(state, 0, self.0.len() as c_int);
            for row in &self.0 {
                stack.push_bytes(&row.name);
                ffi::lua_createtable(state, 0, 3);
                for (name, value) in [
                    (c"calls", row.calls),
                    (c"errors", row.errors),
                    (c"time", row.time),
                ] {
                    stack.push_number(value);
                    ffi::lua_setfield(state, -2, name.as_ptr());
                }
                ffi::lua_rawset(state, -3);
            }
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(methods: &Methods, name: &[u8]) -> f64 {
        let table = methods.table();
        let mut rows = table.0.iter();
        rows.find(|row| *row.name == *name)
            .map_or(0.0, |row| row.calls)
    }

    fn call(methods: &Methods, name: &str, failed: bool) -> bool {
        let begun = methods.begin(name.as_bytes());
        methods.end(name.as_bytes(), begun, failed);
        begun.began.is_some()
    }

    #[test]
    fn each_name_is_counted_for_itself_up_to_the_limit() {
        let methods = Methods::default();
        for round in 0..3 {
            for n in 0..2 * NAMES_MAX {
                call(&methods, &format!("method{n}"), round == 0);
            }
        }
        let table = methods.table();
        assert_eq!(table.0.len(), NAMES_MAX + 1);
        assert_eq!(calls(&methods, b"method0"), 3.0);
        assert_eq!(calls(&methods, OTHERS), 3.0 * NAMES_MAX as f64);
        assert_eq!(table.0[7].errors, 1.0);
    }

    #[test]
    fn a_share_of_many_calls_is_timed() {
        let methods = Methods::default();
        let timed = |count: u64| (0..count).filter(|_| call(&methods, "busy", false)).count();
        assert_eq!(timed(TIMED_ALL), TIMED_ALL as usize);
        let share = timed(160_000);
        assert!((9_000..11_000).contains(&share), "{share}");
        // A method that is called seldom is timed, too.
        assert!(call(&methods, "rare", false));
    }

    #[test]
    fn hashes_of_similar_names_differ() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..100_000 {
            assert!(seen.insert(hash(format!("player.{n}.move").as_bytes())));
        }
        assert_ne!(hash(b"a"), hash(b"a\0"));
    }
}

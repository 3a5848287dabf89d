//! The identity of a fiber.

use std::fmt;

/// The id of one fiber of one loop of this process. No other fiber, of this loop or another, ever gets the same id.
///
/// It is displayed without its loop, as `index.generation`; lists and reports name the loop beside it.
///
/// ```
/// use yue_scheduler::{Config, FiberId, Loop, current_id, spawn};
///
/// Loop::new(Config::default()).unwrap().run(|| {
///     let fiber = spawn(|| current_id());
///     let id = fiber.id();
///     assert_eq!(FiberId::from_bits(id.to_bits()), id);
///     assert_eq!(fiber.join().unwrap(), id);
/// });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiberId {
    pub(crate) loop_id: u32,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl FiberId {
    /// Returns the number of the fiber's loop; see [`this_loop::id`](crate::this_loop::id).
    pub fn loop_id(self) -> u32 {
        self.loop_id
    }

    /// Returns the id as a number, for tables in other languages: the index in bits 0 to 31, the generation (which
    /// counts the fibers that had that index) in bits 32 to 63, the number of the loop in bits 64 to 95.
    pub fn to_bits(self) -> u128 {
        u128::from(self.loop_id) << 64 | u128::from(self.generation) << 32 | u128::from(self.index)
    }

    /// Returns the id whose number [`to_bits`](FiberId::to_bits) returned. Any number is allowed; most belong to no
    /// fiber.
    pub fn from_bits(bits: u128) -> FiberId {
        FiberId {
            loop_id: (bits >> 64) as u32,
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl fmt::Display for FiberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

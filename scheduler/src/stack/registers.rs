//! The registers from which a walk of a stack starts.

/// The registers of a suspended or interrupted thread of execution, from which a walk starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) instruction: u64,
    pub(crate) stack: u64,
    pub(crate) frame: u64,
    /// The link register of a function that has not saved it, on machines that have one.
    pub(crate) link: u64,
    /// Whether `instruction` is a return address, rather than the address of an interrupted instruction.
    pub(crate) after_call: bool,
}

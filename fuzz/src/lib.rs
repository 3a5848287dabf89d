//! The work of the fuzz targets on one input. Each module has a `check` that panics if the input shows a fault.
//! libFuzzer calls it through `fuzz_targets/`, and `tests/corpus.rs` calls it with every input in `corpus/`.

pub mod address;
pub mod agent;
pub mod decoder;
pub mod frames;
pub mod http;
pub mod json;
pub mod rig;
pub mod scanner;
pub mod script;
pub mod session;
pub mod upgrade;

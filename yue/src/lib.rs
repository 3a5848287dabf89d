//! Real-time stateful network servers on fibers

#[cfg(feature = "lua")]
pub mod lua;

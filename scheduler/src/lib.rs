//! Stackful fibers, event loops, timers, cancellation

//! Tests of how the parts work together, on the driver that only sleeps.
use crate::*;

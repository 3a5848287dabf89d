//! Real-time stateful network servers on fibers

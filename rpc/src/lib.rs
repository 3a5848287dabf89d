//! Symmetric, pipelined msgpack-rpc on fibers

//! WebSocket, so that browsers can call.

pub mod frame;

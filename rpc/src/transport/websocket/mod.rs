//! WebSocket, so that browsers can call.

pub mod frame;
pub mod upgrade;

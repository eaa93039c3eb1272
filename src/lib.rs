//! wharf

pub mod os;
pub mod server;

//! wharf

pub mod os;

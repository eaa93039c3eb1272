//! The commands of the binary. They may use every layer, and print for people or scripts.

pub mod standalone;

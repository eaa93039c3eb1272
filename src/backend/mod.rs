//! What a local volume is made of: images and directories, their content, and how they are attached.

pub mod attachment;
pub mod content;
pub mod directory;
pub mod image;
pub mod limits;

//! Promised space and full pools.

use std::{fs::File, io::Write, path::Path};

/// Writes a file until nothing more fits: in ever smaller pieces, synced, so that nothing is left.
pub fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for piece in [1 << 20, 64 << 10, 4096] {
        let content = vec![0xaa; piece];
        loop {
            if file.write_all(&content).is_err() {
                break;
            }
        }
        let _ = file.sync_all();
    }
}

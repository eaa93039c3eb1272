//! Bytes in volumes: written so that they are on disk, read back as checksums.

use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
};

const CHUNK: usize = 1 << 20;

/// The SHA-256 of a file's or device's whole content.
pub fn sha256(path: &Path) -> String {
    try_sha256(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// As [`sha256`], of a file that may be gone.
pub fn try_sha256(path: &Path) -> io::Result<String> {
    Ok(sha256_of(File::open(path)?, u64::MAX))
}

/// Of its first `length` bytes.
pub fn sha256_head(path: &Path, length: u64) -> String {
    sha256_of(File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), length)
}

fn sha256_of(file: File, length: u64) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut file = file.take(length);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `length` bytes that `seed` determines and that do not compress.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Writes a file and its directory entry through to the disk.
pub fn write_durably(path: &Path, content: &[u8]) {
    let mut file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
    File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
}

/// Writes to a block device or file at an offset, past the page cache (O_DIRECT), then syncs. Offset and
/// length are multiples of 4096.
pub fn write_direct(path: &Path, offset: u64, content: &[u8]) {
    assert!(offset.is_multiple_of(4096) && content.len().is_multiple_of(4096));
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap());
    // O_DIRECT wants an aligned buffer: a slice of one that is a block longer.
    let mut buffer = vec![0u8; content.len() + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    let aligned = &mut buffer[start..start + content.len()];
    aligned.copy_from_slice(content);
    file.write_all_at(aligned, offset).unwrap();
    file.sync_all().unwrap();
}

/// The size of a file or device by seeking to its end.
pub fn size(path: &Path) -> u64 {
    File::open(path).unwrap().seek(SeekFrom::End(0)).unwrap()
}

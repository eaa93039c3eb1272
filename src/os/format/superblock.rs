//! The superblocks of ext4 and XFS, as bytes. Whoever wrote them may mean harm: all arithmetic is checked.

use uuid::Uuid;

/// What the first and last bytes of an image say.
#[derive(Debug)]
pub(super) enum Superblock {
    Blank,
    Foreign,
    Ext4(Ext4),
    Xfs(Xfs),
}

#[derive(Debug)]
pub(super) struct Ext4 {
    /// In bytes.
    pub size: u64,
    pub uuid: Uuid,
    /// compatible, incompatible, read-only compatible.
    pub features: [u32; 3],
    /// No error is noted, and no tool was stopped halfway.
    pub sound: bool,
}

#[derive(Debug)]
pub(super) struct Xfs {
    /// In bytes.
    pub size: u64,
    pub uuid: Uuid,
    /// compatible, incompatible, read-only compatible.
    pub features: [u32; 3],
}

/// ext4: the journal has to be replayed.
pub(super) const EXT4_RECOVER: u32 = 0x4;
const EXT4_EXTENTS: u32 = 0x40;
const EXT4_64BIT: u32 = 0x80;

/// `s_state`: unmounted cleanly, without its neighbours "errors detected" and "orphans being recovered".
const EXT4_VALID: u16 = 1;
const EXT4_STATES: u16 = 0b111;

/// Where ext4's superblock begins.
const EXT4_START: usize = 1024;

/// `head` is the first 68 KiB, `tail` the last 64 KiB.
pub(super) fn parse(head: &[u8], tail: &[u8]) -> Superblock {
    let ext4_magic = bytes(head, EXT4_START + 0x38) == Some([0x53, 0xef]);
    let xfs_magic = bytes(head, 0) == Some(*b"XFSB");
    let found = match (ext4_magic, xfs_magic) {
        // Both places belong to whichever filesystem is there, so no user of it can have written the
        // other signature: two of them mean that something went wrong.
        (true, true) => None,
        (true, false) => ext4(head).map(Superblock::Ext4),
        (false, true) => xfs(head).map(Superblock::Xfs),
        (false, false) => {
            let zeroes = head.iter().chain(tail).all(|byte| *byte == 0);
            zeroes.then_some(Superblock::Blank)
        }
    };
    found.unwrap_or(Superblock::Foreign)
}

fn ext4(head: &[u8]) -> Option<Ext4> {
    // The boot sector, which mke2fs clears: a LUKS header, a partition table or another filesystem.
    if head.get(..EXT4_START)?.iter().any(|byte| *byte != 0) {
        return None;
    }
    let word = |offset| bytes(head, EXT4_START + offset).map(u32::from_le_bytes);
    let features = [word(0x5c)?, word(0x60)?, word(0x64)?];
    // Without extents it is ext2 or ext3.
    if features[1] & EXT4_EXTENTS == 0 {
        return None;
    }
    let high = if features[1] & EXT4_64BIT == 0 { 0 } else { word(0x150)? };
    let blocks = u64::from(high) << 32 | u64::from(word(0x4)?);
    let shift = word(0x18)?;
    if shift > 6 {
        return None;
    }
    let size = blocks.checked_mul(1024 << shift)?;
    let uuid = Uuid::from_bytes(bytes(head, EXT4_START + 0x68)?);
    let state = bytes(head, EXT4_START + 0x3a).map(u16::from_le_bytes)?;
    (size > 0).then_some(Ext4 { size, uuid, features, sound: state & EXT4_STATES == EXT4_VALID })
}

fn xfs(head: &[u8]) -> Option<Xfs> {
    let word = |offset| bytes(head, offset).map(u32::from_be_bytes);
    let block = word(4)?;
    if !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return None;
    }
    // The feature words exist from version 5 on.
    if bytes(head, 100).map(u16::from_be_bytes)? & 0xf != 5 {
        return None;
    }
    let size = u64::from_be_bytes(bytes(head, 8)?).checked_mul(u64::from(block))?;
    let features = [word(208)?, word(216)?, word(212)?];
    (size > 0).then_some(Xfs { size, uuid: Uuid::from_bytes(bytes(head, 32)?), features })
}

fn bytes<const N: usize>(from: &[u8], offset: usize) -> Option<[u8; N]> {
    from.get(offset..)?.first_chunk().copied()
}

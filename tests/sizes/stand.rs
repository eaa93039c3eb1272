//! Pools and a driver, and how large a volume is from inside.

use crate::support::{
    co::{Co, Spec, csi},
    driver::Driver,
    places::Places,
    pool::{Kind, Pool},
    unique,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};
use tonic::{Code, Status};

pub const GIB: u64 = 1 << 30;

/// Pools and a driver. Fields are dropped in this order.
pub struct Stand {
    pub co: Co,
    _driver: Driver,
    pub places: Places,
    pub pools: BTreeMap<&'static str, Pool>,
}

impl Stand {
    /// The first one is the pool `default`.
    pub fn new(kinds: &[(&'static str, Kind)], size: u64) -> Self {
        let pools: BTreeMap<_, _> =
            kinds.iter().map(|(name, kind)| (*name, Pool::new(*kind, size))).collect();
        let named: Vec<_> = pools.iter().map(|(name, pool)| (*name, pool.path())).collect();
        let driver = Driver::start(&named, &[]);
        Self { co: driver.co(), _driver: driver, places: Places::new(), pools }
    }

    pub fn create(&mut self, spec: &Spec) -> csi::Volume {
        self.co.create(&unique("v"), spec).unwrap()
    }

    pub fn snapshot(&mut self, volume: &str) -> csi::Snapshot {
        self.co.snapshot(&unique("s"), volume).unwrap()
    }

    pub fn image(&self, pool: &str, id: &str) -> PathBuf {
        let key = &id["local-".len()..][..36];
        self.pools[pool].path().join("volumes").join(key).join("data/disk.img")
    }

    /// Works in a volume that is staged for it.
    pub fn inside<T>(&mut self, id: &str, spec: &Spec, work: impl FnOnce(&mut Co, &Path) -> T) -> T {
        let staging = self.places.staging(&unique("stage"));
        self.co.stage(id, &staging, spec).unwrap();
        let place = if spec.block { staging.join("device") } else { staging.clone() };
        let result = work(&mut self.co, &place);
        self.co.unstage(id, &staging).unwrap();
        result
    }

    /// How large a volume is from inside: its filesystem by its own superblock, its device, its limit.
    pub fn size(&mut self, pool: &str, id: &str, spec: &Spec) -> u64 {
        let image = self.image(pool, id);
        // Staging may grow it.
        let total = self.inside(id, spec, |co, place| co.stats(id, place).unwrap().usage[0].total);
        if spec.block || !image.exists() {
            return u64::try_from(total).unwrap();
        }
        let size = filesystem_size(&image);
        // Journals of small ones take up to a half.
        assert!(u64::try_from(total).unwrap() > size / 3, "{total} of {size} bytes can be used");
        size
    }
}

/// ext4: s_blocks_count and s_log_block_size; XFS: sb_dblocks and sb_blocksize.
pub fn filesystem_size(image: &Path) -> u64 {
    let head = head(image, 4096);
    if head.starts_with(b"XFSB") {
        let block = u32::from_be_bytes(head[4..8].try_into().unwrap());
        return u64::from_be_bytes(head[8..16].try_into().unwrap()) * u64::from(block);
    }
    let number = |at: usize| u64::from(u32::from_le_bytes(head[1024 + at..1028 + at].try_into().unwrap()));
    assert_eq!(head[1080..1082], [0x53, 0xef]);
    (number(4) | number(0x150) << 32) * (1024 << number(24))
}

pub fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

pub fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap()
}

/// The tail of a device may be too short for a group of its own.
pub fn assert_fills(size: u64, wanted: u64, what: &str) {
    assert!(size <= wanted && size >= wanted / 100 * 95, "{what}: {size} of {wanted}");
}

/// The first bytes of a file or device.
pub fn head(path: &Path, length: usize) -> Vec<u8> {
    let mut head = vec![0; length];
    File::open(path).unwrap().read_exact(&mut head).unwrap();
    head
}

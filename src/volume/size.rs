//! Sizes: what is asked for, and what it is rounded to.

use crate::{
    error::{Error, Result},
    os::format::Filesystem,
};

/// Every size is a multiple of this: the loop's logical block and the filesystems' block.
pub const BLOCK: u64 = 4096;
/// Given when nothing is asked for, bounded by the limit.
pub const DEFAULT: u64 = 1 << 30;
/// Nobody has a larger disk, and arithmetic below cannot overflow.
pub const MAX: u64 = 1 << 62;

/// The smallest volume with this filesystem (`None`: raw block or a directory).
pub fn minimum(filesystem: Option<Filesystem>) -> u64 {
    filesystem.map_or(BLOCK, Filesystem::minimum)
}

/// `required_bytes` and `limit_bytes`, checked: `required ≤ limit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapacityRange {
    /// 0: nothing asked for.
    pub required: u64,
    /// `None`: no limit.
    pub limit: Option<u64>,
}

impl CapacityRange {
    /// From the request's signed fields, where 0 means "not set".
    pub fn new(required: i64, limit: i64) -> Result<Self> {
        let (Ok(required), Ok(limit)) = (u64::try_from(required), u64::try_from(limit)) else {
            return Err(Error::Invalid("capacity_range holds a negative size".into()));
        };
        if limit != 0 && required > limit {
            return Err(Error::Invalid(format!(
                "capacity_range asks for at least {required} and at most {limit} bytes, which no size satisfies"
            )));
        }
        if required > MAX {
            return Err(Error::OutOfRange(format!(
                "{required} bytes are more than any volume may have ({MAX})"
            )));
        }
        Ok(Self { required, limit: (limit != 0).then_some(limit) })
    }

    /// The size to give: what is asked for (else `floor`, the size of a source; else the default),
    /// rounded up to the filesystem's minimum and to whole blocks, if the limit leaves room for that.
    pub fn choose(&self, filesystem: Option<Filesystem>, floor: u64) -> Result<u64> {
        let wish = match self.required {
            0 if floor > 0 => floor,
            0 => DEFAULT.min(self.limit.unwrap_or(MAX)),
            required => required,
        };
        let size = round_up(wish.max(minimum(filesystem)));
        let size = match self.limit {
            // Nothing was asked for: the largest whole block below the limit will do.
            Some(limit) if self.required == 0 && size > limit => limit / BLOCK * BLOCK,
            _ => size,
        };
        let least = round_up(minimum(filesystem)).max(BLOCK);
        if size < least || self.limit.is_some_and(|limit| size > limit) {
            return Err(Error::OutOfRange(format!(
                "limit_bytes {} is too small: with this filesystem and blocks of {BLOCK} bytes the volume needs {}",
                self.limit.unwrap_or(0),
                size.max(least),
            )));
        }
        Ok(size)
    }

    /// Whether an existing size satisfies the range.
    pub fn admits(&self, size: u64) -> bool {
        size >= self.required && self.limit.is_none_or(|limit| size <= limit)
    }
}

/// To whole blocks.
pub fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_that_users_write() {
        let choose = |required, limit, fs| CapacityRange::new(required, limit).unwrap().choose(fs, 0);
        assert_eq!(choose(0, 0, None).unwrap(), 1 << 30);
        assert_eq!(choose(1_000_000_000, 0, Some(Filesystem::Ext4)).unwrap(), 1_000_001_536);
        assert_eq!(choose(5 << 20, 0, Some(Filesystem::Ext4)).unwrap(), 8 << 20);
        assert_eq!(choose((300 << 20) - 1, 0, Some(Filesystem::Xfs)).unwrap(), 300 << 20);
        assert_eq!(choose(0, 10_000, None).unwrap(), 8192);
        assert!(matches!(choose(5 << 20, 6 << 20, Some(Filesystem::Ext4)), Err(Error::OutOfRange(_))));
        assert!(matches!(choose(0, 100, None), Err(Error::OutOfRange(_))));
        assert!(matches!(choose(4097, 8000, None), Err(Error::OutOfRange(_))));
    }

    #[test]
    fn absurd_ranges() {
        assert!(matches!(CapacityRange::new(-1, 0), Err(Error::Invalid(_))));
        assert!(matches!(CapacityRange::new(2, 1), Err(Error::Invalid(_))));
        assert!(matches!(CapacityRange::new(i64::MAX, 0), Err(Error::OutOfRange(_))));
        assert!(matches!(CapacityRange::new(0, i64::MIN), Err(Error::Invalid(_))));
    }

    proptest! {
        #[test]
        fn a_chosen_size_is_in_range(required in 0..=i64::MAX, limit in 0..=i64::MAX) {
            if let Ok(range) = CapacityRange::new(required, limit) {
                for fs in [None, Some(Filesystem::Ext4), Some(Filesystem::Xfs)] {
                    if let Ok(size) = range.choose(fs, 0) {
                        prop_assert!(range.admits(size) && size % BLOCK == 0 && size >= minimum(fs));
                    }
                }
            }
        }
    }
}

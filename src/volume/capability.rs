//! How a volume is to be used: access mode, access type, mount options.

use crate::{
    error::{Error, Result},
    os::{format::Filesystem, mount::Attributes},
};
use std::fmt;

/// CSI's access modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessMode {
    /// One publication, or several by an older CO's idea: treated as once (CSI 1.13, NodePublishVolume).
    SingleNodeWriter,
    /// One publication, read-only.
    SingleNodeReaderOnly,
    /// Any number of read-only publications.
    MultiNodeReaderOnly,
    /// Not for local volumes.
    MultiNodeSingleWriter,
    /// Not for local volumes.
    MultiNodeMultiWriter,
    /// One publication on one node (ReadWriteOncePod).
    SingleNodeSingleWriter,
    /// Any number of publications on one node.
    SingleNodeMultiWriter,
}

impl AccessMode {
    /// Nobody may write.
    pub fn is_read_only(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }

    /// A second target path on the node is allowed.
    pub fn allows_many_targets(self) -> bool {
        matches!(
            self,
            Self::MultiNodeReaderOnly
                | Self::MultiNodeSingleWriter
                | Self::MultiNodeMultiWriter
                | Self::SingleNodeMultiWriter
        )
    }

    /// Whether a volume that lies on one node can offer it.
    pub fn is_possible_locally(self) -> bool {
        !matches!(self, Self::MultiNodeSingleWriter | Self::MultiNodeMultiWriter)
    }
}

/// The access type as a request spells it.
#[derive(Clone, PartialEq, Eq)]
pub enum AccessType {
    /// A device node.
    Block,
    /// A directory.
    Mount {
        /// Empty: the volume's own.
        fs_type: String,
        /// Possibly sensitive: never printed.
        flags: Vec<String>,
    },
}

/// One capability of a request. It has no `Debug`: mount flags may be sensitive (CSI 1.13).
#[derive(Clone, PartialEq, Eq)]
pub struct Capability {
    /// How many may use it how.
    pub mode: AccessMode,
    /// As what.
    pub access: AccessType,
}

/// What a local volume offers: the access type, with its options proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// A device node.
    Block,
    /// A directory.
    Mount,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "a raw block volume",
            Self::Mount => "a mounted volume",
        })
    }
}

impl Capability {
    /// The access type without its options.
    pub fn access(&self) -> Access {
        match self.access {
            AccessType::Block => Access::Block,
            AccessType::Mount { .. } => Access::Mount,
        }
    }

    /// The filesystem that the capability names; an unknown one is an error.
    pub fn filesystem(&self) -> Result<Option<Filesystem>> {
        match &self.access {
            AccessType::Mount { fs_type, .. } if !fs_type.is_empty() => parse_filesystem(fs_type).map(Some),
            _ => Ok(None),
        }
    }

    /// The mount options, checked against the allow-list.
    pub fn options(&self) -> Result<MountOptions> {
        match &self.access {
            AccessType::Mount { flags, .. } => MountOptions::parse(flags),
            AccessType::Block => Ok(MountOptions::default()),
        }
    }

    /// Refuses what no local volume can do.
    pub fn check_local(&self) -> Result<()> {
        if !self.mode.is_possible_locally() {
            return Err(Error::Invalid(
                "a local volume lies on one node: MULTI_NODE_*_WRITER access modes need an NFS class".into(),
            ));
        }
        self.filesystem()?;
        self.options().map(drop)
    }
}

/// `ext4` or `xfs`.
pub fn parse_filesystem(text: &str) -> Result<Filesystem> {
    match text {
        "ext4" => Ok(Filesystem::Ext4),
        "xfs" => Ok(Filesystem::Xfs),
        other => Err(Error::Invalid(format!("filesystem {other:?} is unknown; known are ext4 and xfs"))),
    }
}

/// Mount options that passed the allow-list: flags of the mount, and options of the filesystem.
///
/// It has no `Debug`: mount flags may be sensitive.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// `ro` was asked for.
    pub read_only: bool,
    noexec: bool,
    noatime: bool,
    suid: bool,
    /// For the filesystem itself, as mount(2)'s data.
    data: Vec<String>,
}

/// Options without a value that the filesystem gets: harmless to other tenants and to the kernel.
const PLAIN: [&str; 10] = [
    "discard",
    "nodiscard",
    "lazytime",
    "nolazytime",
    "sync",
    "dirsync",
    "inode64",
    "largeio",
    "noalign",
    "swalloc",
];
/// Options with a number.
const NUMBERS: [&str; 4] = ["commit", "stripe", "logbufs", "inode_readahead_blks"];
/// Options with a size.
const SIZES: [&str; 2] = ["allocsize", "logbsize"];
/// Options that mean the default.
const DEFAULTS: [&str; 8] = ["defaults", "rw", "exec", "relatime", "nosuid", "nodev", "async", "auto"];

impl MountOptions {
    /// Every flag must be known. A comma inside a flag is not a second flag: it is refused, so that
    /// nothing is smuggled into mount(2)'s data (the lesson of CVE-2026-6437).
    pub fn parse(flags: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for (at, flag) in flags.iter().enumerate() {
            if !options.accept(flag) {
                // The flag itself may be sensitive; its place in the list is enough to find it.
                return Err(Error::Invalid(format!(
                    "mount option number {} is not allowed; allowed are ro, noatime, noexec, suid, {}, {}=NUMBER, \
                     {}=SIZE, data=ordered|writeback|journal and errors=remount-ro",
                    at + 1,
                    PLAIN.join(", "),
                    NUMBERS.join("=NUMBER, "),
                    SIZES.join("=SIZE, "),
                )));
            }
        }
        Ok(options)
    }

    fn accept(&mut self, flag: &str) -> bool {
        let digits =
            |text: &str| !text.is_empty() && text.len() < 12 && text.bytes().all(|c| c.is_ascii_digit());
        match flag.split_once('=') {
            None if DEFAULTS.contains(&flag) => return true,
            None if flag == "ro" => self.read_only = true,
            None if flag == "noexec" => self.noexec = true,
            None if flag == "noatime" => self.noatime = true,
            None if flag == "suid" => self.suid = true,
            None if PLAIN.contains(&flag) => self.data.push(flag.to_owned()),
            Some((key, value)) if NUMBERS.contains(&key) && digits(value) => self.data.push(flag.to_owned()),
            Some((key, value)) if SIZES.contains(&key) && digits(value.trim_end_matches(['k', 'm', 'g'])) => {
                self.data.push(flag.to_owned());
            }
            Some(("data", "ordered" | "writeback" | "journal")) => self.data.push(flag.to_owned()),
            Some(("errors", "remount-ro")) => {}
            _ => return false,
        }
        true
    }

    /// Restrictions of the mount: nosuid unless `suid` was asked for, nodev always (design invariant 9).
    pub fn attributes(&self, read_only: bool) -> Attributes {
        Attributes {
            read_only: read_only || self.read_only,
            nosuid: !self.suid,
            nodev: true,
            noexec: self.noexec,
            noatime: self.noatime,
        }
    }

    /// mount(2)'s data for this filesystem. ext4 never panics the kernel over a tenant's image; XFS
    /// may meet its own uuid again in a clone.
    pub fn data(&self, filesystem: Filesystem) -> String {
        let own = match filesystem {
            Filesystem::Ext4 => "errors=remount-ro",
            Filesystem::Xfs => "nouuid",
        };
        self.data.iter().map(String::as_str).chain([own]).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(flags: &[&str]) -> Result<MountOptions> {
        MountOptions::parse(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_that_would_break_out_are_refused() {
        for bad in [
            "dev",
            "context=system_u:object_r:x",
            "loop",
            "noatime,dev",
            "remount",
            "bind",
            "user_xattr=,suid",
            "data=ordered,errors=panic",
            "errors=panic",
            "commit=5\n",
            "commit=",
            "-o",
            "x-mount.mkdir",
            "",
            "ro ",
            "allocsize=64k,dev",
            "norecovery",
            "fsc",
        ] {
            let Err(error) = parse(&[bad]) else { panic!("{bad:?} was accepted") };
            // What follows is the list of what is allowed, which may well hold a part of the flag.
            let said = error.to_string();
            let said = said.split("; allowed are").next().unwrap();
            assert!(bad.len() < 4 || !said.contains(bad), "leaks the flag: {said}");
        }
    }

    #[test]
    fn nosuid_and_nodev_are_always_there() {
        let plain = parse(&["noatime", "discard", "commit=30"]).unwrap();
        let attributes = plain.attributes(false);
        assert!(attributes.nosuid && attributes.nodev && attributes.noatime && !attributes.read_only);
        assert_eq!(plain.data(Filesystem::Ext4), "discard,commit=30,errors=remount-ro");
        assert!(!parse(&["suid"]).unwrap().attributes(false).nosuid);
        assert!(parse(&["suid"]).unwrap().attributes(false).nodev);
        assert!(parse(&["ro"]).unwrap().attributes(false).read_only);
    }
}

//! StorageClass parameters: a closed list, matched without case.

use crate::{
    error::{Error, Result},
    os::format::Filesystem,
    volume::capability::parse_filesystem,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a class without `pool` gets.
pub const DEFAULT_POOL: &str = "default";

/// A directory of the pool's filesystem, or a file behind a loop device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Hard limit on any filesystem, raw block too.
    #[default]
    Image,
    /// Limited by what the pool's filesystem can enforce.
    Directory,
}

impl Layout {
    /// As it stands in parameters, metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Directory => "directory",
        }
    }
}

/// Whether an image owns its space from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provisioning {
    /// Allocated at creation; stays promised.
    #[default]
    Thick,
    /// Sparse; promised all the same.
    Thin,
}

/// How a directory's size is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitMode {
    /// By the pool's filesystem.
    Enforced,
    /// Not at all: asked for, reported.
    Advisory,
}

/// Owner and mode of the volume's root, set once at creation; what is `None` is left as made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Numeric user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Numeric group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl Owner {
    /// Nothing to set.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A class's parameters for a local volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// `None`: the pool called `default`.
    pub pool: Option<String>,
    /// Image or directory.
    pub layout: Layout,
    /// Only for images.
    pub provisioning: Option<Provisioning>,
    /// Only for directories.
    pub limit: Option<LimitMode>,
    /// Root's owner.
    pub owner: Owner,
    /// `csi.storage.k8s.io/fstype`.
    pub filesystem: Option<Filesystem>,
}

const KNOWN: &str = "pool, layout (image, directory), provisioning (thick, thin), limit (enforced, advisory), \
                     uid, gid, mode, csi.storage.k8s.io/fstype (ext4, xfs)";

/// Keys that the orchestrator adds.
pub fn is_orchestrators(key: &str) -> bool {
    key.starts_with("csi.storage.k8s.io/") || key.starts_with("storage.kubernetes.io/")
}

impl Class {
    /// Reads the parameters of a StorageClass.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let mut class = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in parameters {
            let lower = key.to_ascii_lowercase();
            if !seen.insert(lower.clone()) {
                return Err(Error::Invalid(format!("parameter {key:?} is given twice (keys ignore case)")));
            }
            class.set(&lower, key, value)?;
        }
        class.check()?;
        Ok(class)
    }

    fn set(&mut self, lower: &str, key: &str, value: &str) -> Result<()> {
        match lower {
            "pool" => self.pool = Some(value.to_owned()),
            "layout" => {
                self.layout =
                    choice(key, value, &[("image", Layout::Image), ("directory", Layout::Directory)])?
            }
            "provisioning" => {
                let known = [("thick", Provisioning::Thick), ("thin", Provisioning::Thin)];
                self.provisioning = Some(choice(key, value, &known)?);
            }
            "limit" => {
                let known = [("enforced", LimitMode::Enforced), ("advisory", LimitMode::Advisory)];
                self.limit = Some(choice(key, value, &known)?);
            }
            "uid" => self.owner.uid = Some(number(key, value, 10, u32::MAX - 1)?),
            "gid" => self.owner.gid = Some(number(key, value, 10, u32::MAX - 1)?),
            "mode" => self.owner.mode = Some(number(key, value, 8, 0o7777)?),
            "csi.storage.k8s.io/fstype" if !value.is_empty() => {
                self.filesystem = Some(parse_filesystem(value)?)
            }
            _ if is_orchestrators(lower) => {}
            "server" | "share" => {
                return Err(Error::Invalid(format!(
                    "parameter {key:?} makes this an NFS class, which this build does not serve"
                )));
            }
            _ => return Err(Error::Invalid(format!("parameter {key:?} is unknown; known are {KNOWN}"))),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let misplaced = match self.layout {
            Layout::Image if self.limit.is_some() => {
                "limit is for layout directory; an image always has a hard limit"
            }
            Layout::Directory if self.provisioning.is_some() => "provisioning is for layout image",
            Layout::Directory if self.filesystem.is_some() => {
                "a filesystem can only be chosen for layout image; a directory has its pool's"
            }
            _ => return Ok(()),
        };
        Err(Error::Invalid(misplaced.into()))
    }

    /// The parameters of which [`Self::parse`] makes this class, without the pool and the filesystem.
    pub fn to_parameters(&self) -> BTreeMap<String, String> {
        let layout = Some(self.layout.as_str().to_owned());
        let provisioning = self.provisioning.map(|provisioning| match provisioning {
            Provisioning::Thick => "thick".to_owned(),
            Provisioning::Thin => "thin".to_owned(),
        });
        let limit = self.limit.map(|limit| match limit {
            LimitMode::Enforced => "enforced".to_owned(),
            LimitMode::Advisory => "advisory".to_owned(),
        });
        let pairs = [
            ("layout", layout),
            ("provisioning", provisioning),
            ("limit", limit),
            ("uid", self.owner.uid.map(|uid| uid.to_string())),
            ("gid", self.owner.gid.map(|gid| gid.to_string())),
            ("mode", self.owner.mode.map(|mode| format!("{mode:04o}"))),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }
}

pub(super) fn choice<T: Copy>(key: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
    known.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        Error::Invalid(format!("parameter {key:?} is {value:?}; known values are {}", names.join(", ")))
    })
}

pub(super) fn number(key: &str, value: &str, radix: u32, max: u32) -> Result<u32> {
    let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric());
    u32::from_str_radix(value, radix).ok().filter(|n| digits && *n <= max).ok_or_else(|| {
        let kind = if radix == 8 { "an octal mode up to 7777" } else { "a number below 4294967295" };
        Error::Invalid(format!("parameter {key:?} is {value:?}; it must be {kind}"))
    })
}

/// csi-driver-nfs's parameters of a VolumeSnapshotClass. They mean nothing here: a snapshot lies where its volume lies.
const OF_SNAPSHOTS: [&str; 3] = ["server", "share", "mountoptions"];

/// A VolumeSnapshotClass needs no parameters; csi-driver-nfs's are accepted.
pub fn check_snapshot_parameters(parameters: &BTreeMap<String, String>) -> Result<()> {
    let is_known = |key: &str| is_orchestrators(key) || OF_SNAPSHOTS.contains(&key);
    match parameters.keys().find(|key| !is_known(&key.to_ascii_lowercase())) {
        Some(key) => Err(Error::Invalid(format!(
            "snapshot parameter {key:?} is unknown; a VolumeSnapshotClass of this driver needs none"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Class> {
        Class::parse(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_snapshot_class_of_csi_driver_nfs_is_accepted() {
        let check = |key: &str| check_snapshot_parameters(&[(key.to_owned(), "x".to_owned())].into());
        for known in ["server", "Share", "mountOptions", "csi.storage.k8s.io/snapshotter-secret-name"] {
            assert!(check(known).is_ok(), "{known}");
        }
        assert!(matches!(check("pool"), Err(Error::Invalid(_))));
    }

    #[test]
    fn keys_ignore_case_and_the_orchestrator_is_let_through() {
        let class = parse(&[
            ("Pool", "fast"),
            ("LAYOUT", "directory"),
            ("limit", "advisory"),
            ("mode", "0770"),
            ("csi.storage.k8s.io/pvc/name", "x"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "y"),
        ])
        .unwrap();
        assert_eq!(
            (class.pool(), class.layout, class.limit),
            ("fast", Layout::Directory, Some(LimitMode::Advisory))
        );
        assert_eq!(class.owner.mode, Some(0o770));
    }

    #[test]
    fn parameters_are_written_as_they_are_read() {
        for pairs in [
            &[][..],
            &[("layout", "image"), ("provisioning", "thin"), ("uid", "7"), ("gid", "0"), ("mode", "750")],
            &[("layout", "directory"), ("limit", "advisory"), ("mode", "0")],
        ] {
            let class = parse(pairs).unwrap();
            assert_eq!(Class::parse(&class.to_parameters()).unwrap(), class);
        }
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_is_known() {
        for bad in [
            [("colour", "red")],
            [("layout", "Image")],
            [("mode", "999")],
            [("mode", "+7")],
            [("uid", "-1")],
            [("uid", "4294967295")],
            [("csi.storage.k8s.io/fstype", "ntfs")],
            [("limit", "advisory")],
            [("server", "a")],
        ] {
            assert!(matches!(parse(&bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        assert!(parse(&[("colour", "red")]).unwrap_err().to_string().contains("provisioning (thick, thin)"));
        assert!(parse(&[("pool", "a"), ("POOL", "b")]).is_err());
        assert!(parse(&[("layout", "directory"), ("provisioning", "thin")]).is_err());
    }
}

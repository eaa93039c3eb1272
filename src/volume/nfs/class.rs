//! StorageClass parameters of NFS volumes: a closed list, matched without case.

use super::{
    options::Settings,
    server::Server,
    share::{ExportPath, Share},
    subdir::{Directory, Metadata, Template},
};
use crate::{
    error::{Error, Result},
    volume::{
        id::Key,
        parameters::{Owner, is_orchestrators, number},
    },
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What becomes of a volume's directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It goes with the volume.
    #[default]
    Delete,
    /// It stays where it is.
    Retain,
    /// It stays under another name.
    Archive,
}

impl OnDelete {
    /// Without case, as csi-driver-nfs reads it.
    pub fn named(text: &str) -> Option<Self> {
        [Self::Delete, Self::Retain, Self::Archive]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(text))
    }

    /// As it stands in parameters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Retain => "retain",
            Self::Archive => "archive",
        }
    }
}

impl fmt::Display for OnDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A class's parameters for a volume on a share, with what the provisioner has added to them.
///
/// It has no `Debug`: mount options may be sensitive.
#[derive(Clone, PartialEq, Eq)]
pub struct Class {
    /// Where.
    pub share: Share,
    /// `None`: the volume's own name.
    pub sub_dir: Option<Template>,
    /// In the end.
    pub on_delete: OnDelete,
    /// Root's owner and mode.
    pub owner: Owner,
    /// Of the parameter `mountOptions`; those of the class itself come with the capability.
    pub options: Settings,
    /// What templates are filled in with.
    pub metadata: Metadata,
}

/// What a class asks for one volume, normalised: a retry has to ask for the same. Mount options and the
/// orchestrator's own keys do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Where.
    pub share: Share,
    /// Below the share.
    pub directory: Directory,
    /// In the end.
    pub on_delete: OnDelete,
    /// Root's owner and mode.
    #[serde(default, skip_serializing_if = "Owner::is_default")]
    pub owner: Owner,
}

const KNOWN: &str = "server, share, subDir, onDelete (delete, retain, archive), mountPermissions, uid, gid, mode, \
                     mountOptions";
/// Of local classes.
const LOCAL: [&str; 4] = ["pool", "layout", "provisioning", "limit"];

/// Whether parameters, or a volume context, are of an NFS volume.
pub fn is_nfs(parameters: &BTreeMap<String, String>) -> bool {
    parameters.keys().any(|key| key.eq_ignore_ascii_case("server") || key.eq_ignore_ascii_case("share"))
}

/// The mount options in the secrets of a request, which are stronger than all others.
pub fn secret_options(secrets: &BTreeMap<String, String>) -> Result<Settings> {
    let texts = secrets.iter().filter(|(key, _)| key.eq_ignore_ascii_case("mountOptions"));
    texts
        .map(|(_, text)| Settings::parse_list(text))
        .try_fold(Settings::default(), |settings, more| Ok(settings.overridden_by(more?)))
}

impl Class {
    /// Reads the parameters of a StorageClass.
    pub fn parse(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let given = Given::read(parameters)?;
        let missing = |key: &str| {
            Error::Invalid(format!("parameter {key:?} is missing; an NFS class has server and share"))
        };
        let server = given.server.filter(|text| !text.is_empty()).ok_or_else(|| missing("server"))?;
        let path = given.share.filter(|text| !text.is_empty()).ok_or_else(|| missing("share"))?;
        Ok(Self {
            share: Share { server: Server::parse(server)?, path: ExportPath::parse(path)? },
            sub_dir: given.sub_dir.filter(|text| !text.is_empty()).map(Template::parse).transpose()?,
            on_delete: given.on_delete,
            owner: given.owner()?,
            options: given.options,
            metadata: Metadata::of(parameters),
        })
    }

    /// What one volume is to be.
    pub fn wish(&self, key: Key) -> Result<Wish> {
        let directory = match &self.sub_dir {
            Some(template) => template.resolve(&self.metadata)?,
            None => self.metadata.default_directory(key)?,
        };
        // A node mounts the directory itself.
        self.share.below(&directory)?;
        Ok(Wish { share: self.share.clone(), directory, on_delete: self.on_delete, owner: self.owner })
    }
}

/// The parameters one by one.
#[derive(Default)]
struct Given<'a> {
    server: Option<&'a str>,
    share: Option<&'a str>,
    sub_dir: Option<&'a str>,
    on_delete: OnDelete,
    owner: Owner,
    /// `Some(0)`: the mode is left as it is.
    permissions: Option<u32>,
    options: Settings,
}

impl<'a> Given<'a> {
    fn read(parameters: &'a BTreeMap<String, String>) -> Result<Self> {
        let mut given = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in parameters {
            let lower = key.to_ascii_lowercase();
            if is_orchestrators(&lower) {
                continue;
            }
            if !seen.insert(lower.clone()) {
                return Err(Error::Invalid(format!("parameter {key:?} is given twice (keys ignore case)")));
            }
            given.set(&lower, key, value)?;
        }
        Ok(given)
    }

    fn set(&mut self, lower: &str, key: &str, value: &'a str) -> Result<()> {
        match lower {
            "server" => self.server = Some(value),
            "share" => self.share = Some(value),
            "subdir" => self.sub_dir = Some(value),
            "ondelete" if value.is_empty() => {}
            "ondelete" => {
                self.on_delete = OnDelete::named(value).ok_or_else(|| {
                    Error::Invalid(format!(
                        "parameter {key:?} is {value:?}; known values are delete, retain, archive"
                    ))
                })?;
            }
            "mountpermissions" if value.is_empty() => {}
            "mountpermissions" => self.permissions = Some(number(key, value, 8, 0o7777)?),
            "uid" => self.owner.uid = Some(number(key, value, 10, u32::MAX - 1)?),
            "gid" => self.owner.gid = Some(number(key, value, 10, u32::MAX - 1)?),
            "mode" => self.owner.mode = Some(number(key, value, 8, 0o7777)?),
            "mountoptions" => self.options = Settings::parse_list(value)?,
            _ if LOCAL.contains(&lower) => {
                return Err(Error::Invalid(format!(
                    "parameter {key:?} is for local volumes, but server and share make this an NFS class; \
                     known are {KNOWN}"
                )));
            }
            _ => return Err(Error::Invalid(format!("parameter {key:?} is unknown; known are {KNOWN}"))),
        }
        Ok(())
    }

    /// `mountPermissions` is csi-driver-nfs's word for `mode`.
    fn owner(&self) -> Result<Owner> {
        let permissions = self.permissions.filter(|mode| *mode != 0);
        match (self.owner.mode, permissions) {
            (Some(mode), Some(permissions)) if mode != permissions => Err(Error::Invalid(
                "parameters mode and mountPermissions are the same thing, but have different values".into(),
            )),
            (mode, _) => Ok(Owner { mode: mode.or(permissions), ..self.owner }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::volume::id::Name;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn with(more: &[(&str, &str)]) -> Result<Class> {
        let mut pairs = map(&[("server", "nas"), ("share", "/data")]);
        pairs.extend(map(more));
        Class::parse(&pairs)
    }

    #[track_caller]
    fn refusal(more: &[(&str, &str)]) -> String {
        let Err(error) = with(more) else { panic!("{more:?} passed") };
        assert!(matches!(error, Error::Invalid(_)));
        error.to_string()
    }

    fn key() -> Key {
        Key::of(&Name::new("pvc-1").unwrap())
    }

    #[test]
    fn a_class_of_csi_driver_nfs_works_unchanged() {
        let class = Class::parse(&map(&[
            ("Server", "NFS.example"),
            ("SHARE", "/export//data/"),
            ("subDir", "${pvc.metadata.namespace}/${pvc.metadata.name}"),
            ("onDelete", "Retain"),
            ("mountPermissions", "0770"),
            ("csi.storage.k8s.io/provisioner-secret-name", "s"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
            ("csi.storage.k8s.io/pvc/namespace", "space"),
            ("csi.storage.k8s.io/pv/name", "pvc-1"),
        ]))
        .unwrap();
        let wish = class.wish(key()).unwrap();
        assert_eq!(wish.share.to_string(), "nfs.example:/export/data");
        assert_eq!(wish.directory.as_str(), "space/claim");
        assert_eq!((wish.on_delete, wish.owner.mode), (OnDelete::Retain, Some(0o770)));
        let empty = with(&[("subDir", ""), ("onDelete", ""), ("mountPermissions", ""), ("mountOptions", "")])
            .unwrap();
        let wish = empty.wish(key()).unwrap();
        assert_eq!((wish.directory.as_str(), wish.on_delete), (&*key().to_string(), OnDelete::Delete));
        assert!(wish.owner.is_default());
        assert_eq!(
            with(&[("csi.storage.k8s.io/pv/name", "pvc-1")]).unwrap().wish(key()).unwrap().directory.as_str(),
            "pvc-1"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (more, why) in [
            (&[("colour", "red")][..], "known are server, share, subDir"),
            (&[("pool", "fast")], "for local volumes"),
            (&[("Layout", "directory")], "for local volumes"),
            (&[("server", "")], "\"server\" is missing"),
            (&[("share", "")], "\"share\" is missing"),
            (&[("SERVER", "nas2")], "given twice"),
            (&[("server", "nas:2049")], "port"),
            (&[("share", "data")], "absolute"),
            (&[("share", "/a/../b")], ".."),
            (&[("onDelete", "shred")], "delete, retain, archive"),
            (&[("mountPermissions", "rwx")], "octal"),
            (&[("mountPermissions", "17777")], "octal"),
            (&[("mode", "")], "octal"),
            (&[("uid", "-1")], "number"),
            (&[("mode", "0700"), ("mountPermissions", "0770")], "different values"),
            (&[("subDir", "${pvc.metadata.uid}")], "unknown variable"),
            (&[("mountOptions", "hard,dev")], "dev is not allowed"),
        ] {
            assert!(refusal(more).contains(why), "{more:?}: {}", refusal(more));
        }
        assert!(Class::parse(&map(&[("server", "nas")])).is_err());
        assert!(with(&[("subDir", "${pvc.metadata.name}")]).unwrap().wish(key()).is_err());
        let deep = with(&[("share", &"/aaaa".repeat(200)), ("subDir", &"bbbb/".repeat(10))]).unwrap();
        assert!(matches!(deep.wish(key()), Err(Error::Invalid(_))));
    }

    #[test]
    fn modes_of_both_names() {
        let mode = |more: &[(&str, &str)]| with(more).unwrap().owner.mode;
        assert_eq!(mode(&[("mountPermissions", "0")]), None);
        assert_eq!(mode(&[("mountPermissions", "0"), ("mode", "0700")]), Some(0o700));
        assert_eq!(mode(&[("mountPermissions", "700"), ("mode", "0700")]), Some(0o700));
        assert_eq!(mode(&[("mode", "0")]), Some(0));
    }

    #[test]
    fn a_retry_is_compared_by_what_matters() {
        let wish = |more: &[(&str, &str)]| with(more).unwrap().wish(key()).unwrap();
        let first = wish(&[]);
        assert_eq!(first, wish(&[("mountOptions", "hard"), ("csi.storage.k8s.io/x", "y"), ("subDir", "")]));
        assert_eq!(first, wish(&[("share", "/data/"), ("onDelete", "delete"), ("mountPermissions", "0")]));
        for other in [
            [("share", "/b")],
            [("subDir", "b")],
            [("onDelete", "retain")],
            [("uid", "0")],
            [("server", "b")],
        ] {
            assert_ne!(first, wish(&other), "{other:?}");
        }
        let json = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Wish>(&json).unwrap(), first);
        assert!(!json.contains("owner"), "{json}");
    }

    #[test]
    fn server_or_share_make_it_nfs() {
        for (key, nfs) in [("Server", true), ("SHARE", true), ("pool", false), ("subDir", false), ("", false)]
        {
            assert_eq!(is_nfs(&map(&[(key, "x")])), nfs, "{key}");
        }
    }

    #[test]
    fn secrets_carry_mount_options() {
        let read = |pairs: &[(&str, &str)]| secret_options(&map(pairs)).map(|s| s.to_list());
        assert_eq!(
            read(&[("MountOptions", "nfsvers=3,nolock"), ("password", "x,y=z")]).unwrap(),
            "vers=3,nolock"
        );
        assert_eq!(read(&[]).unwrap(), "");
        let error = read(&[("mountoptions", "password=hunter2")]).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && !error.contains("password"), "{error}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(pairs in proptest::collection::btree_map("server|share|subDir|mode|uid|onDelete|mountOptions|\\PC{0,5}", "/?\\PC{0,9}", 0..6)) {
            if let Ok(class) = Class::parse(&pairs) {
                let _ = class.wish(Key::from_uuid(uuid::Uuid::nil()));
            }
            let _ = (is_nfs(&pairs), secret_options(&pairs));
        }
    }
}

//! The volume context: what a node is told about an NFS volume.
//!
//! It comes from this driver, from csi-driver-nfs or from a person who wrote a PV by hand; whatever the
//! volume's id is, the node needs nothing else.

use super::{
    options::Settings,
    server::Server,
    share::{ExportPath, Share},
    subdir::{Directory, Metadata, Template},
};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// What to mount, and how.
///
/// It has no `Debug`: mount options may be sensitive.
#[derive(Clone, PartialEq, Eq)]
pub struct Context {
    /// Where.
    pub share: Share,
    /// `None`: the share itself.
    pub directory: Option<Directory>,
    /// Those of `mountOptions`; the capability has its own, and `settings` puts both together.
    pub options: Settings,
    /// The inode number that the root must have; `None`: not one of this driver's volumes.
    pub fileid: Option<u64>,
    /// No other volume has this directory or one around it: it may have a superblock of its own.
    pub exclusive: bool,
}

const SERVER: &str = "server";
const SHARE: &str = "share";
const SUB_DIR: &str = "subDir";
const OPTIONS: &str = "mountOptions";
const FILEID: &str = "fileid";
const EXCLUSIVE: &str = "exclusive";

impl Context {
    /// Keys ignore case; unknown ones, `mountPermissions` among them, are of no use to a node.
    pub fn parse(context: &BTreeMap<String, String>) -> Result<Self> {
        let server = required(context, SERVER)?;
        let path = required(context, SHARE)?;
        let share = Share { server: Server::parse(server)?, path: ExportPath::parse_relative(path)? };
        let directory = directory(context)?;
        if let Some(directory) = &directory {
            share.below(directory)?;
        }
        let fileid = find(context, FILEID)?
            .map(str::parse)
            .transpose()
            .map_err(|_| Error::Invalid(format!("volume_context {FILEID:?} is no inode number")))?;
        let options =
            find(context, OPTIONS)?.map_or_else(|| Ok(Settings::default()), Settings::parse_list)?;
        let exclusive = find(context, EXCLUSIVE)? == Some("true");
        Ok(Self { share, directory, options, fileid, exclusive })
    }

    /// What CreateVolume answers, and `parse` reads.
    pub fn entries(&self) -> BTreeMap<String, String> {
        let options = Some(self.options.to_list()).filter(|list| !list.is_empty());
        let entries = [
            (SERVER, Some(self.share.server.to_string())),
            (SHARE, Some(self.share.path.to_string())),
            (SUB_DIR, self.directory.as_ref().map(Directory::to_string)),
            (OPTIONS, options),
            (FILEID, self.fileid.map(|fileid| fileid.to_string())),
            (EXCLUSIVE, self.exclusive.then(|| "true".to_owned())),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// What is mounted.
    pub fn source(&self) -> Result<Share> {
        self.directory
            .as_ref()
            .map_or_else(|| Ok(self.share.clone()), |directory| self.share.below(directory))
    }

    /// The options of a node's mount: those of the capability, and over them those written into the context,
    /// which csi-driver-nfs puts last, too.
    pub fn settings(&self, flags: &[String]) -> Result<Settings> {
        Ok(Settings::parse(flags)?.overridden_by(self.options.clone()))
    }
}

/// A PV that was written by hand may hold a template; what it resolves to is there already.
fn directory(context: &BTreeMap<String, String>) -> Result<Option<Directory>> {
    match find(context, SUB_DIR)? {
        None => Ok(None),
        Some(text) if text.contains("${pv") => {
            Template::parse(text)?.resolve(&Metadata::of(context)).map(Some)
        }
        Some(text) => Directory::parse_existing(text),
    }
}

fn required<'a>(context: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str> {
    find(context, key)?.filter(|text| !text.is_empty()).ok_or_else(|| {
        Error::Invalid(format!("volume_context {key:?} is missing; an NFS volume needs server and share"))
    })
}

fn find<'a>(context: &'a BTreeMap<String, String>, key: &str) -> Result<Option<&'a str>> {
    let mut found = context.iter().filter(|(given, _)| given.eq_ignore_ascii_case(key));
    match (found.next(), found.next()) {
        (Some((_, one)), Some((_, other))) if one != other => {
            Err(Error::Invalid(format!("volume_context {key:?} is given twice (keys ignore case)")))
        }
        (one, _) => Ok(one.map(|(_, value)| value.as_str())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn parse(pairs: &[(&str, &str)]) -> Result<Context> {
        Context::parse(&map(pairs))
    }

    #[test]
    fn what_create_answers_is_read_back() {
        let context = Context {
            share: Share::parse("[fd00::1]:/data").unwrap(),
            directory: Some(Directory::parse("a/b").unwrap()),
            options: Settings::parse_list("hard,vers=4.1").unwrap(),
            fileid: Some(u64::MAX),
            exclusive: true,
        };
        let entries = context.entries();
        assert_eq!(
            entries,
            map(&[
                ("server", "fd00::1"),
                ("share", "/data"),
                ("subDir", "a/b"),
                ("mountOptions", "vers=4.1,hard"),
                ("fileid", "18446744073709551615"),
                ("exclusive", "true"),
            ])
        );
        assert!(Context::parse(&entries).unwrap() == context);
        assert_eq!(context.source().unwrap().to_string(), "[fd00::1]:/data/a/b");
    }

    #[test]
    fn volumes_of_csi_driver_nfs_and_of_people() {
        let context = parse(&[
            ("SERVER", "nas"),
            ("Share", "/data"),
            ("subdir", "pvc-1"),
            ("mountPermissions", "rwx"),
            ("onDelete", "whatever"),
            ("colour", "red"),
            ("csi.storage.k8s.io/pvc/name", "claim"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "x"),
        ])
        .unwrap();
        assert_eq!(context.source().unwrap().to_string(), "nas:/data/pvc-1");
        assert!(context.fileid.is_none() && !context.exclusive && context.options.is_empty());
        let sources = [
            (&[("server", "nas"), ("share", "/")][..], "nas:/"),
            (&[("server", "nas"), ("share", "data"), ("subDir", "")], "nas:/data"),
            (&[("server", "[fd00::1]"), ("share", "/data"), ("subDir", "/a//b/")], "[fd00::1]:/data/a/b"),
            (&[("server", "nas"), ("share", "/d"), ("subDir", "${x}")], "nas:/d/${x}"),
            (
                &[
                    ("server", "nas"),
                    ("share", "/d"),
                    ("subDir", "a/${pvc.metadata.name}"),
                    ("csi.storage.k8s.io/pvc/name", "c"),
                ],
                "nas:/d/a/c",
            ),
        ];
        for (pairs, source) in sources {
            assert_eq!(parse(pairs).unwrap().source().unwrap().to_string(), source);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (more, why) in [
            (&[("server", "")][..], "\"server\" is missing"),
            (&[("share", "")], "\"share\" is missing"),
            (&[("Server", "other")], "given twice"),
            (&[("subDir", "../x")], ".."),
            (&[("subDir", ".wharf/volumes")], "records"),
            (&[("subDir", "${pvc.metadata.name}")], "--extra-create-metadata"),
            (&[("share", "/a\nb")], "control"),
            (&[("fileid", "x")], "inode number"),
            (&[("fileid", "-1")], "inode number"),
            (&[("mountOptions", "hunter2")], "number 1 is unknown"),
        ] {
            let mut pairs = map(&[("server", "nas"), ("share", "/data")]);
            pairs.extend(map(more));
            let Err(error) = Context::parse(&pairs) else { panic!("{more:?} passed") };
            assert!(matches!(error, Error::Invalid(_)));
            assert!(error.to_string().contains(why), "{more:?}: {error}");
        }
    }

    #[test]
    fn options_of_the_context_are_stronger_than_those_of_the_capability() {
        let context =
            parse(&[("server", "nas"), ("share", "/data"), ("MountOptions", "soft,vers=3")]).unwrap();
        let flags = ["hard".to_owned(), "timeo=5".into()];
        assert_eq!(context.settings(&flags).unwrap().to_list(), "vers=3,soft,timeo=5");
        assert!(context.settings(&["dev".to_owned()]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_answered_the_same(
            pairs in proptest::collection::btree_map("server|share|subDir|mountOptions|fileid|exclusive|\\PC{0,5}", "nas|/?[a./]{1,9}|true|[0-9]{1,3}|hard,ro|\\PC{0,9}", 0..7)
        ) {
            if let Ok(context) = Context::parse(&pairs) {
                prop_assert!(Context::parse(&context.entries()).unwrap() == context);
                prop_assert!(!context.source().unwrap().path.as_str().split('/').any(|part| part == ".."));
            }
        }
    }
}

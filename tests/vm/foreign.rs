//! What pods leave in a volume that is not the driver's own, and how all of it is told apart.

use crate::support::host::run;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, makedev, mknodat, setxattr};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

/// The owner that a class may give to a volume's root.
pub const OWNER: (u32, u32, &str) = (1000, 2000, "2770");

/// What an unprivileged pod writes into a volume that belongs to it, and what others do: files that nobody else may
/// read, set-id bits, sticky directories of strangers, hard links to strangers' files, pipes and devices.
/// `attributes`: those of users, too.
pub fn furnish(root: &Path, attributes: bool) {
    let (uid, gid, _) = OWNER;
    let script = "umask 077; mkdir private locked tmp && echo secret >private/f && echo x >locked/f && \
                  chmod 0400 private/f && chmod 0 locked/f && chmod 0500 locked && chmod 1777 tmp && \
                  mkdir tmp/own && echo y >tmp/own/f";
    let as_pod = format!("cd {} && {script}", root.display());
    let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
    run("setpriv", user.iter().map(|word| &**word).chain(["sh", "-c", &as_pod]));
    let file = |name: &str, owner: u32, mode: u32| {
        let path = root.join(name);
        fs::write(&path, name).unwrap();
        own(&path, owner, mode);
        path
    };
    // In a directory of another user where only a file's owner may remove it.
    file("tmp/of-another", 1001, 0o600);
    fs::create_dir(root.join("tmp/below")).unwrap();
    file("tmp/below/f", 1001, 0o400);
    own(&root.join("tmp/below"), 1001, 0o700);
    let noted = file("private/of-another", 1001, 0o400);
    // What a stranger may not link to: it is set-id, or no file.
    fs::hard_link(file("set-id", 1002, 0o6711), root.join("private/set-id")).unwrap();
    node(&root.join("pipe"), FileType::Fifo, 0);
    fs::hard_link(root.join("pipe"), root.join("tmp/pipe")).unwrap();
    node(&root.join("null"), FileType::CharacterDevice, makedev(1, 3));
    node(&root.join("disk"), FileType::BlockDevice, makedev(7, 200));
    fs::create_dir(root.join("shared")).unwrap();
    own(&root.join("shared"), 1002, 0o2775);
    file("shared/f", 1001, 0o2755);
    symlink("nowhere", root.join("private/symlink")).unwrap();
    lchown(root.join("private/symlink"), Some(1001), Some(1001)).unwrap();
    if attributes {
        for path in [&noted, &root.join("tmp")] {
            setxattr(path, "user.note", b"of somebody", XattrFlags::empty()).unwrap();
        }
    }
}

/// Lets whoever runs a file listen on ports below 1024 (capabilities(7)); no NFS server would keep it.
pub fn give_capability(path: &Path) {
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    [1u32 << 10, 0, 0, 0].iter().for_each(|word| value.extend(word.to_le_bytes()));
    setxattr(path, "security.capability", &value, XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, device).unwrap();
    own(path, 1001, 0o640);
}

fn own(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(owner)).unwrap();
    // A change of owner takes set-id bits away.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
}

/// Every name below `root` and all that a copy has to have in common with it.
pub fn described(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut all, mut rest) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let seen = fs::symlink_metadata(&path).unwrap();
            if seen.is_dir() {
                rest.push(path.clone());
            }
            all.insert(path.strip_prefix(root).unwrap().to_owned(), describe(&path, &seen));
        }
    }
    all
}

fn describe(path: &Path, seen: &fs::Metadata) -> String {
    let content = match seen.is_file() {
        true => format!("{:?}", String::from_utf8_lossy(&fs::read(path).unwrap())),
        false => fs::read_link(path).map(|to| format!("{to:?}")).unwrap_or_default(),
    };
    let attributes: Vec<_> =
        attributes_of(path).into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!(
        "{:o} {}:{} links {} device {:x} at {}.{} {content} {}",
        seen.mode(),
        seen.uid(),
        seen.gid(),
        if seen.is_dir() { 0 } else { seen.nlink() },
        seen.rdev(),
        seen.mtime(),
        seen.mtime_nsec(),
        attributes.join(" ")
    )
}

fn attributes_of(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 1 << 10];
    let Ok(length) = llistxattr(path, &mut names) else { return BTreeMap::new() };
    let names = String::from_utf8(names[..length].to_vec()).unwrap();
    let read = |name: &str| {
        let mut value = vec![0; 1 << 10];
        let length = lgetxattr(path, name, &mut value).unwrap();
        (name.to_owned(), value[..length].to_vec())
    };
    names.split_terminator('\0').filter(|name| !name.starts_with("system.")).map(read).collect()
}

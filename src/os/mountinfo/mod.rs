//! What is mounted where: statx(2) and statmount(2) for one path, /proc/self/mountinfo for all.

mod statmount;
mod table;

pub use table::{of_device, of_root};

use super::{At as _, Error, Result, file::Inode};
use linux_raw_sys::general::STATX_MNT_ID_UNIQUE;
use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, makedev, statx},
    io::Errno,
};
use statmount::Answer;
use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of /proc/self/mountinfo (proc_pid_mountinfo(5)), unescaped. Bytes of paths that are not UTF-8 are
/// kept; in the other fields they become U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u64,
    /// Device number of the superblock, as `st_dev`.
    pub device: u64,
    /// What of the filesystem is mounted; `//deleted` is appended when that has been removed.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Per-mount options, `rw,nosuid,…`.
    pub options: String,
    /// Filesystem type.
    pub fstype: String,
    /// Source.
    pub source: String,
    /// Per-superblock options.
    pub super_options: String,
    /// `shared:N` and the other optional fields.
    pub propagation: String,
}

impl Mount {
    /// Whether this mount, or its superblock, is read-only. ext4 on newer kernels calls what it does after
    /// an error `emergency_ro`, and statfs(2) does not show that.
    pub fn is_read_only(&self) -> bool {
        self.has("ro") || self.super_options.split(',').any(|option| matches!(option, "ro" | "emergency_ro"))
    }

    /// Whether a per-mount option is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|each| each == option)
    }
}

/// All mounts of this mount namespace, in the kernel's order (a later one at the same point is on top).
pub fn read() -> Result<Vec<Mount>> {
    Ok(parse(&fs::read(MOUNTINFO).at("read", MOUNTINFO)?))
}

/// The mount on top at exactly this path; `None` when the path is absent or is no mountpoint.
pub fn at(path: &Path) -> Result<Option<Mount>> {
    match look(path)? {
        Some(place) if place.mount_root => describe(path, &place),
        _ => Ok(None),
    }
}

/// The mount on top at a path, found by its name alone: nothing is asked of the filesystem there, which may be that
/// of a server that does not answer. The directory that holds the path is looked at.
pub fn named(path: &Path) -> Result<Option<Mount>> {
    let Some(point) = resolved(path) else { return Ok(None) };
    // A later one is on top.
    Ok(read()?.into_iter().rfind(|mount| mount.point == point))
}

/// A path as mountinfo shows it, with every symlink above its last name resolved.
fn resolved(path: &Path) -> Option<PathBuf> {
    let (parent, name) = (path.parent()?, path.file_name()?);
    Some(parent.canonicalize().unwrap_or(parent.to_owned()).join(name))
}

/// The mount that a path lies in, its root or below; `None` when nothing is there.
pub fn of(path: &Path) -> Result<Option<Mount>> {
    match look(path)? {
        Some(place) => describe(path, &place),
        None => Ok(None),
    }
}

fn describe(path: &Path, place: &Place) -> Result<Option<Mount>> {
    if place.unique {
        match statmount::mount(place.mount_id)? {
            Answer::Found(mount) => return Ok(Some(mount)),
            Answer::Gone => return Ok(None),
            Answer::Unknown => {}
        }
    }
    // mountinfo has the other kind of ids.
    let Some(place) = look_for(path, StatxFlags::MNT_ID)? else { return Ok(None) };
    Ok(read()?.into_iter().find(|mount| mount.id == place.mount_id))
}

/// Whether the path is the root of a mount (statx, STATX_ATTR_MOUNT_ROOT, never waiting for a server);
/// `None` when nothing is there.
pub fn is_mount_root(path: &Path) -> Result<Option<bool>> {
    Ok(look(path)?.map(|place| place.mount_root))
}

/// STATX_MNT_ID_UNIQUE, Linux 6.8: asks for an id that is never given twice.
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);

struct Place {
    mount_id: u64,
    /// The id is of the kind that is never given twice.
    unique: bool,
    mount_root: bool,
    inode: Inode,
}

fn look(path: &Path) -> Result<Option<Place>> {
    look_for(path, StatxFlags::MNT_ID | MNT_ID_UNIQUE)
}

fn look_for(path: &Path, id: StatxFlags) -> Result<Option<Place>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = match statx(CWD, path, flags, id | StatxFlags::INO) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => {
            let error = Err(e).at("examine", path);
            return match error {
                Err(e) if e.is_filesystem_down() => look_in_table(path),
                error => error,
            };
        }
    };
    let given = StatxFlags::from_bits_retain(stat.stx_mask);
    if !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) || !given.intersects(id) {
        return Err(Error::Unexpected(format!(
            "the kernel does not say whether {path:?} is a mount: Linux 5.12 or newer is needed"
        )));
    }
    let device = makedev(stat.stx_dev_major, stat.stx_dev_minor);
    Ok(Some(Place {
        mount_id: stat.stx_mnt_id,
        unique: given.contains(MNT_ID_UNIQUE),
        mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        inode: Inode { device, number: stat.stx_ino },
    }))
}

/// A filesystem that has shut down tells nothing about itself, and must be unmounted all the same: its
/// mount is found by its name. What lies below it can no longer be reached, and is no mount.
fn look_in_table(path: &Path) -> Result<Option<Place>> {
    Ok(named(path)?.map(|mount| Place {
        mount_id: mount.id,
        unique: false,
        mount_root: true,
        // No inode has this number; its own cannot be asked for.
        inode: Inode { device: mount.device, number: 0 },
    }))
}

/// A line that cannot be understood is left out: it must not hide all the others.
fn parse(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    // Exactly one space between two fields: an empty source makes two in a row.
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let device = device(fields.next()?)?;
    let root = path(fields.next()?);
    let point = path(fields.next()?);
    let options = text(fields.next()?);
    let optional: Vec<&[u8]> = fields.by_ref().take_while(|field| *field != b"-").collect();
    Some(Mount {
        id,
        device,
        root,
        point,
        options,
        propagation: text(&optional.join(&b' ')),
        fstype: text(fields.next()?),
        source: text(fields.next()?),
        super_options: text(fields.next()?),
    })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<u64> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some(makedev(number(&field[..colon])?, number(&field[colon + 1..])?))
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\040` (space, tab, line feed, backslash and in newer kernels `#`). A backslash
/// without three octal digits stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::{
        loopdev::scratch::{Mounted, Scratch, unmounted},
        mount::{self, Attributes},
    };
    use proptest::prelude::*;
    use std::{
        ffi::OsStr,
        os::unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, symlink},
        },
    };

    fn escape(plain: &[u8]) -> Vec<u8> {
        plain.iter().fold(Vec::new(), |mut escaped, byte| {
            if b" \t\n\\#".contains(byte) {
                escaped.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            } else {
                escaped.push(*byte);
            }
            escaped
        })
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        // Often the odd ones, and digits that could be taken for a part of an escape.
        let byte = prop_oneof![
            proptest::sample::select(b" \t\n\\#0123478/-".to_vec()),
            any::<u8>().prop_filter("never in a path", |byte| *byte != 0)
        ];
        proptest::collection::vec(byte, 1..20)
    }

    proptest! {
        #[test]
        fn unescaping_undoes_the_kernels_escaping(plain in name()) {
            prop_assert_eq!(unescape(&escape(&plain)), plain);
        }

        #[test]
        fn a_line_says_what_was_put_into_it(
            point in name(),
            root in name(),
            source in name(),
            optional in proptest::collection::vec("(shared|master):[0-9]{1,3}", 0..3),
            id: u32,
            major in 0u32..4096,
            minor in 0u32..1_048_576,
        ) {
            let mut line = format!("{id} 7 {major}:{minor} ").into_bytes();
            line.extend([escape(&root), escape(&point), b"rw,nosuid".to_vec()].join(&b' '));
            for field in &optional {
                line.extend(format!(" {field}").into_bytes());
            }
            line.extend(b" - ext4 ");
            line.extend(escape(&source));
            line.extend(b" ro,seclabel");
            let mount = parse_line(&line).unwrap();
            prop_assert_eq!(mount, Mount {
                id: id.into(),
                device: makedev(major, minor),
                root: OsString::from_vec(root).into(),
                point: OsString::from_vec(point).into(),
                options: "rw,nosuid".to_owned(),
                fstype: "ext4".to_owned(),
                source: String::from_utf8_lossy(&source).into_owned(),
                super_options: "ro,seclabel".to_owned(),
                propagation: optional.join(" "),
            });
        }

        #[test]
        fn odd_lines_hide_no_others(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            let good = b"36 35 98:0 / /mnt rw - ext3 /dev/root rw";
            let bytes = [good.as_slice(), &junk, good].join(&b'\n');
            let found = parse(&bytes).iter().filter(|mount| mount.point == Path::new("/mnt")).count();
            prop_assert!(found >= 2);
        }
    }

    #[test]
    fn odd_but_possible_lines() {
        let empty_source = parse_line(b"1 0 0:5 / /a rw - tmpfs  rw,size=4k").unwrap();
        assert_eq!((empty_source.source.as_str(), empty_source.super_options.as_str()), ("", "rw,size=4k"));
        assert_eq!(unescape(br"\04 \9999 \777 \"), br"\04 \9999 \777 \");
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"x 0 0:5 / /a rw - tmpfs none rw"), None);
        assert_eq!(parse_line(b"1 0 05 / /a rw - tmpfs none rw"), None);
        assert_eq!(parse_line(b"1 0 0:5 / /a rw"), None);
    }

    #[test]
    fn read_only_by_mount_or_by_superblock_but_not_by_resemblance() {
        let of = |options: &str, super_options: &str| {
            let line = format!("1 0 0:5 / /a {options} - ext4 none {super_options}");
            parse_line(line.as_bytes()).unwrap()
        };
        assert!(of("ro,nosuid", "rw").is_read_only());
        assert!(of("rw,nosuid", "rw,ro").is_read_only());
        assert!(of("rw,nosuid", "rw,emergency_ro").is_read_only());
        assert!(!of("rw,norecovery", "rw,errors=remount-ro").is_read_only());
        assert!(of("rw,nosuid", "rw").has("nosuid"));
        assert!(!of("rw,nosuid", "rw,nodev").has("nodev"));
        assert!(!of("rw,nosuid", "rw").has("no"));
    }

    #[test]
    fn odd_names_are_found() {
        let scratch = Scratch::new();
        let source = scratch.directory("source");
        for name in [
            b"plain".as_slice(),
            b"a b",
            b"tab\there",
            b"line\nfeed",
            br"back\slash",
            br"not\040escaped",
            b"hash#",
            b"not \xff utf-8",
        ] {
            let point = scratch.directory(OsStr::from_bytes(name));
            assert_eq!(at(&point).unwrap(), None);
            let _mounted = Mounted::guard(&point);
            mount::bind(&source, &point, Attributes { nosuid: true, ..Attributes::default() }).unwrap();
            let mount = at(&point).unwrap().unwrap();
            assert_eq!(mount.point, point);
            assert!(mount.root.ends_with("source") && mount.has("nosuid"), "{mount:?}");
            assert_eq!(mount.device, source.metadata().unwrap().dev());
            assert!(read().unwrap().contains(&mount));
        }
    }

    #[test]
    fn the_mount_on_top_counts() {
        let scratch = Scratch::new();
        let [a, b, point] = ["a", "b", "point"].map(|name| scratch.directory(name));
        let _mounted = Mounted::guard(&point);
        mount::bind(&a, &point, Attributes::default()).unwrap();
        mount::bind(&b, &point, Attributes::default()).unwrap();
        assert!(at(&point).unwrap().unwrap().root.ends_with("b"));
        unmounted(&point);
        assert!(at(&point).unwrap().unwrap().root.ends_with("a"));
        unmounted(&point);
        assert_eq!(at(&point).unwrap(), None);
    }

    #[test]
    fn a_path_lies_in_a_mount() {
        let scratch = Scratch::new();
        let [source, point] = ["source", "point"].map(|name| scratch.directory(name));
        let inside = source.join("inside");
        fs::create_dir(&inside).unwrap();
        let _mounted = Mounted::guard(&point);
        mount::bind(&source, &point, Attributes { noexec: true, ..Attributes::default() }).unwrap();
        for path in [&point, &point.join("inside")] {
            let mount = of(path).unwrap().unwrap();
            assert!(mount.point == point && mount.has("noexec"), "{mount:?}");
        }
        assert_ne!(of(&inside).unwrap().unwrap().point, point);
        assert_eq!(of(&scratch.path("absent")).unwrap(), None);
    }

    #[test]
    fn what_is_no_mount() {
        let scratch = Scratch::new();
        let point = scratch.directory("point");
        let file = scratch.empty_file("file");
        assert_eq!(is_mount_root(&point).unwrap(), Some(false));
        assert_eq!(is_mount_root(&scratch.path("absent")).unwrap(), None);
        assert_eq!(is_mount_root(&file.join("below a file")).unwrap(), None);
        assert_eq!(at(&scratch.path("absent")).unwrap(), None);

        let _mounted = Mounted::guard(&point);
        mount::bind(&point, &point, Attributes::default()).unwrap();
        assert_eq!(is_mount_root(&point).unwrap(), Some(true));
        let link = scratch.path("link");
        symlink(&point, &link).unwrap();
        assert_eq!(is_mount_root(&link).unwrap(), Some(false), "the link itself");

        let _file_mounted = Mounted::guard(&file);
        mount::bind(&file, &file, Attributes::default()).unwrap();
        assert_eq!(is_mount_root(&file).unwrap(), Some(true));
        assert_eq!(is_mount_root(Path::new("/")).unwrap(), Some(true));
    }
}

//! Which mount options there are, what each may be, and what it decides.
//!
//! Names and ranges are those of nfs(5) and of the kernel's own parser (fs/nfs/fs_context.c). The kernel
//! gets nothing but what this table spells: no text of a user reaches mount(2).

use crate::error::{Error, Result};

/// What an option decides. Two options of one slot contradict each other, unless they say the same.
/// The order is the order in which the kernel gets them: `actimeo` before what refines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    Version,
    Minor,
    Lock,
    Proto,
    Port,
    MountProto,
    MountPort,
    Security,
    Tls,
    ReadOnly,
    Exec,
    Suid,
    AccessTime,
    Sync,
    Recovery,
    Timeo,
    Retrans,
    Rsize,
    Wsize,
    Nconnect,
    MaxConnect,
    AttributeCache,
    Actimeo,
    Acregmin,
    Acregmax,
    Acdirmin,
    Acdirmax,
    LookupCache,
    Cto,
    Acl,
    Rdirplus,
    Sharecache,
    Resvport,
    Fscache,
    Write,
    /// Is the default already, or means nothing to a mount by the driver.
    Nothing,
}

/// What stands behind the `=` of an option.
pub enum Kind {
    /// Nothing: the text says what the slot becomes.
    Flag(&'static str),
    /// A number of these and a multiple of `step`.
    Number { min: u32, max: u32, step: u32 },
    /// One of these, each with what it means.
    Word(&'static [(&'static str, &'static str)]),
    /// Some of these with colons between them.
    List(&'static [(&'static str, &'static str)]),
}

/// The value of an option, read.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Word(&'static str),
    Number(u32),
    List(Vec<&'static str>),
}

/// One option.
pub struct Rule {
    pub name: &'static str,
    pub slot: Slot,
    pub kind: Kind,
}

const fn flag(name: &'static str, slot: Slot) -> Rule {
    Rule { name, slot, kind: Kind::Flag(name) }
}

const fn means(name: &'static str, slot: Slot, meaning: &'static str) -> Rule {
    Rule { name, slot, kind: Kind::Flag(meaning) }
}

const fn number(name: &'static str, slot: Slot, min: u32, max: u32) -> Rule {
    Rule { name, slot, kind: Kind::Number { min, max, step: 1 } }
}

const fn word(name: &'static str, slot: Slot, known: &'static [(&'static str, &'static str)]) -> Rule {
    Rule { name, slot, kind: Kind::Word(known) }
}

/// The kernel's parser takes no more.
const INT_MAX: u32 = 0x7fff_ffff;
/// A year of seconds: the kernel multiplies them by its clock's rate.
const LONGEST: u32 = 31_536_000;
/// What an RPC may carry at most.
const LARGEST: u32 = 1 << 20;

/// `4` is not 4.0: mount.nfs takes it for "the best 4.x that both sides have", and so do its users.
const VERSIONS: &[(&str, &str)] = &[("4.2", "4.2"), ("4.1", "4.1"), ("4.0", "4.0"), ("4", "4"), ("3", "3")];
const PROTOS: &[(&str, &str)] = &[("tcp", "tcp"), ("tcp6", "tcp6"), ("rdma", "rdma"), ("rdma6", "rdma6")];
const MOUNT_PROTOS: &[(&str, &str)] = &[("tcp", "tcp"), ("tcp6", "tcp6"), ("udp", "udp"), ("udp6", "udp6")];
const FLAVORS: &[(&str, &str)] = &[
    ("sys", "sys"),
    ("krb5", "krb5"),
    ("krb5i", "krb5i"),
    ("krb5p", "krb5p"),
    ("none", "none"),
    ("null", "none"),
];
const TLS: &[(&str, &str)] = &[("none", "none"), ("tls", "tls"), ("mtls", "mtls")];
const LOOKUP: &[(&str, &str)] = &[("all", "all"), ("none", "none"), ("pos", "pos"), ("positive", "pos")];
/// All locks local is what `nolock` is; the other three need the server's.
const LOCAL_LOCK: &[(&str, &str)] =
    &[("all", "nolock"), ("none", "lock"), ("flock", "lock"), ("posix", "lock")];
const WRITE: &[(&str, &str)] = &[("lazy", "lazy"), ("eager", "eager"), ("wait", "wait")];

/// Every option that is accepted.
pub const RULES: &[Rule] = &[
    word("vers", Slot::Version, VERSIONS),
    word("nfsvers", Slot::Version, VERSIONS),
    means("v4.2", Slot::Version, "4.2"),
    means("v4.1", Slot::Version, "4.1"),
    means("v4.0", Slot::Version, "4.0"),
    means("v4", Slot::Version, "4"),
    means("v3", Slot::Version, "3"),
    number("minorversion", Slot::Minor, 0, 2),
    flag("nolock", Slot::Lock),
    flag("lock", Slot::Lock),
    word("local_lock", Slot::Lock, LOCAL_LOCK),
    word("proto", Slot::Proto, PROTOS),
    means("tcp", Slot::Proto, "tcp"),
    means("rdma", Slot::Proto, "rdma"),
    number("port", Slot::Port, 1, 65535),
    word("mountproto", Slot::MountProto, MOUNT_PROTOS),
    number("mountport", Slot::MountPort, 1, 65535),
    // Version 3 speaks no other mount protocol, and the kernel knows that.
    number("mountvers", Slot::Nothing, 3, 3),
    Rule { name: "sec", slot: Slot::Security, kind: Kind::List(FLAVORS) },
    word("xprtsec", Slot::Tls, TLS),
    flag("ro", Slot::ReadOnly),
    flag("rw", Slot::ReadOnly),
    flag("noexec", Slot::Exec),
    flag("exec", Slot::Exec),
    flag("suid", Slot::Suid),
    flag("nosuid", Slot::Suid),
    flag("nodev", Slot::Nothing),
    flag("noatime", Slot::AccessTime),
    flag("atime", Slot::AccessTime),
    // The server keeps access times, whatever a client's mount says about them: nfs(5).
    flag("relatime", Slot::Nothing),
    flag("norelatime", Slot::Nothing),
    flag("strictatime", Slot::Nothing),
    flag("nostrictatime", Slot::Nothing),
    flag("diratime", Slot::Nothing),
    flag("nodiratime", Slot::Nothing),
    flag("sync", Slot::Sync),
    flag("async", Slot::Sync),
    flag("hard", Slot::Recovery),
    flag("soft", Slot::Recovery),
    flag("softerr", Slot::Recovery),
    number("timeo", Slot::Timeo, 1, INT_MAX),
    number("retrans", Slot::Retrans, 0, INT_MAX),
    Rule { name: "rsize", slot: Slot::Rsize, kind: Kind::Number { min: 1024, max: LARGEST, step: 1024 } },
    Rule { name: "wsize", slot: Slot::Wsize, kind: Kind::Number { min: 1024, max: LARGEST, step: 1024 } },
    number("nconnect", Slot::Nconnect, 1, 16),
    number("max_connect", Slot::MaxConnect, 1, 16),
    flag("ac", Slot::AttributeCache),
    flag("noac", Slot::AttributeCache),
    number("actimeo", Slot::Actimeo, 0, LONGEST),
    number("acregmin", Slot::Acregmin, 0, LONGEST),
    number("acregmax", Slot::Acregmax, 0, LONGEST),
    number("acdirmin", Slot::Acdirmin, 0, LONGEST),
    number("acdirmax", Slot::Acdirmax, 0, LONGEST),
    word("lookupcache", Slot::LookupCache, LOOKUP),
    flag("cto", Slot::Cto),
    flag("nocto", Slot::Cto),
    flag("acl", Slot::Acl),
    flag("noacl", Slot::Acl),
    flag("rdirplus", Slot::Rdirplus),
    flag("nordirplus", Slot::Rdirplus),
    flag("sharecache", Slot::Sharecache),
    flag("nosharecache", Slot::Sharecache),
    flag("resvport", Slot::Resvport),
    flag("noresvport", Slot::Resvport),
    flag("fsc", Slot::Fscache),
    flag("nofsc", Slot::Fscache),
    word("write", Slot::Write, WRITE),
    // For mount.nfs and fstab alone.
    flag("fg", Slot::Nothing),
    number("retry", Slot::Nothing, 0, INT_MAX),
    flag("intr", Slot::Nothing),
    flag("nointr", Slot::Nothing),
    flag("defaults", Slot::Nothing),
    flag("auto", Slot::Nothing),
    flag("_netdev", Slot::Nothing),
];

/// Options that exist and are never accepted, each with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("dev", "a device node on a share would open the node's devices"),
    ("context", "the label would be that of every volume which shares the superblock"),
    ("fscontext", "the label would be that of every volume which shares the superblock"),
    ("defcontext", "the label would be that of every volume which shares the superblock"),
    ("rootcontext", "the label would be that of every volume which shares the superblock"),
    ("addr", "the driver resolves the server's name itself"),
    ("mountaddr", "the driver resolves the server's name itself"),
    ("mounthost", "the driver resolves the server's name itself"),
    ("clientaddr", "the kernel knows by which address it reaches the server"),
    ("udp", "data may be corrupted on fast networks, and kernels are built without it"),
    ("bg", "a mount that is tried again in the background cannot be answered for"),
    ("sloppy", "an option that the kernel does not know has to be seen"),
    ("remount", "a volume is mounted once and not changed"),
    ("bind", "the driver decides what is bound where"),
];

/// The rule for `name`; the error names the option only where it is a known one, because a text that is
/// none may be sensitive (CSI: mount flags are). `at` is its place in the list.
pub fn find(name: &str, at: usize) -> Result<&'static Rule> {
    if let Some(rule) = RULES.iter().find(|rule| rule.name == name) {
        return Ok(rule);
    }
    let what = match REFUSED.iter().find(|(refused, _)| *refused == name) {
        Some((refused, why)) => format!("mount option {refused} is not allowed: {why}"),
        None => format!("mount option number {at} is unknown"),
    };
    let known: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
    Err(Error::Invalid(format!("{what}; known are {}", known.join(", "))))
}

impl Rule {
    /// Reads what follows the option's `=`. The value is never repeated: it may be sensitive.
    pub fn read(&self, value: Option<&str>) -> Result<Value> {
        let read = match (&self.kind, value) {
            (Kind::Flag(meaning), None) => Some(Value::Word(meaning)),
            (Kind::Number { min, max, step }, Some(text)) => {
                let read = decimal(text).filter(|n| (*min..=*max).contains(n) && n % step == 0);
                read.map(Value::Number)
            }
            (Kind::Word(known), Some(text)) => meaning(known, text).map(Value::Word),
            (Kind::List(known), Some(text)) => list(known, text).map(Value::List),
            _ => None,
        };
        read.ok_or_else(|| Error::Invalid(format!("mount option {} {}", self.name, self.shape())))
    }

    fn shape(&self) -> String {
        let words =
            |known: &[(&str, &str)]| known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        match &self.kind {
            Kind::Flag(_) => "takes no value".into(),
            Kind::Number { min, max, .. } if min == max => format!("must be {min}"),
            Kind::Number { min, max, step: 1 } => format!("must be a number from {min} to {max}"),
            Kind::Number { min, max, step } => format!("must be a multiple of {step} from {min} to {max}"),
            Kind::Word(known) => format!("must be one of {}", words(known)),
            Kind::List(known) => format!("must be one or more of {} with colons between them", words(known)),
        }
    }
}

/// Digits alone. A zero in front is refused: the kernel would read the number as octal.
fn decimal(text: &str) -> Option<u32> {
    let plain = text == "0" || !text.starts_with('0');
    if plain && text.bytes().all(|c| c.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn meaning(known: &'static [(&'static str, &'static str)], text: &str) -> Option<&'static str> {
    known.iter().find(|(name, _)| *name == text).map(|(_, meaning)| *meaning)
}

fn list(known: &'static [(&'static str, &'static str)], text: &str) -> Option<Vec<&'static str>> {
    let mut found = Vec::new();
    for part in text.split(':') {
        let part = meaning(known, part)?;
        if !found.contains(&part) {
            found.push(part);
        }
    }
    Some(found)
}

impl Slot {
    /// What the kernel wants before the value's `=`; `None`: the value is a flag of its own.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Version => Some("vers"),
            Self::Minor => Some("minorversion"),
            Self::Proto => Some("proto"),
            Self::MountProto => Some("mountproto"),
            Self::Security => Some("sec"),
            Self::Tls => Some("xprtsec"),
            Self::LookupCache => Some("lookupcache"),
            Self::Write => Some("write"),
            _ => RULES
                .iter()
                .find(|rule| rule.slot == self && matches!(rule.kind, Kind::Number { .. }))
                .map(|rule| rule.name),
        }
    }

    /// The mount's own flags (mount_setattr(2)) and what belongs to the connection: not for the options
    /// that follow those.
    pub fn is_kernels_text(self) -> bool {
        self >= Self::Sync
    }
}

impl Value {
    /// As the kernel reads it.
    pub fn text(&self, slot: Slot) -> String {
        let value = match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Number(number) => number.to_string(),
            Self::List(words) => words.join(":"),
        };
        match slot.key() {
            Some(key) => format!("{key}={value}"),
            None => value,
        }
    }
}

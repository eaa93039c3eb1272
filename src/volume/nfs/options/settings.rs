//! Mount options as somebody wrote them: read, merged, and checked against each other.

use super::{
    Options,
    connection::{Connection, Flavor, MountProto, Proto, Tls, Version},
    rules::{self, Slot, Value},
};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Options from one place or from several, each known and in its range, not yet proven to go together.
///
/// It has no `Debug`: mount flags may be sensitive.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<Slot, Setting>);

#[derive(Clone)]
struct Setting {
    /// As the user calls the option.
    name: &'static str,
    value: Value,
}

/// `nfsvers=3` and `vers=3` are the same.
impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Setting {}

impl Settings {
    /// Reads a capability's mount flags, one option each. A comma inside one is not a second option: it is
    /// refused, so that nothing is smuggled past the list.
    pub fn parse(flags: &[String]) -> Result<Self> {
        Self::read(flags.iter().map(String::as_str))
    }

    /// Reads a text with commas, as it stands in parameters, a volume context and secrets.
    pub fn parse_list(text: &str) -> Result<Self> {
        Self::read(text.split(',').map(|option| option.trim_matches(' ')).filter(|option| !option.is_empty()))
    }

    fn read<'a>(options: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut settings = Self::default();
        for (at, option) in options.enumerate() {
            if option.contains(',') {
                return Err(Error::Invalid(format!(
                    "mount option number {} holds a comma; give each option as an entry of its own",
                    at + 1
                )));
            }
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let rule = rules::find(name, at + 1)?;
            let setting = Setting { name: rule.name, value: rule.read(value)? };
            settings.add(rule.slot, setting)?;
        }
        Ok(settings)
    }

    fn add(&mut self, slot: Slot, setting: Setting) -> Result<()> {
        if slot == Slot::Nothing {
            return Ok(());
        }
        match self.0.get(&slot) {
            Some(there) if there.value != setting.value => Err(if there.name == setting.name {
                Error::Invalid(format!("mount option {} is given twice with different values", there.name))
            } else {
                Error::Invalid(format!(
                    "mount options {} and {} contradict each other",
                    there.name, setting.name
                ))
            }),
            Some(_) => Ok(()),
            None => {
                self.0.insert(slot, setting);
                Ok(())
            }
        }
    }

    /// Both, and where they differ what `stronger` says.
    pub fn overridden_by(mut self, stronger: Self) -> Self {
        let mut forget = |said: Slot, slots: &[Slot]| {
            if stronger.0.contains_key(&said) {
                slots.iter().for_each(|slot| drop(self.0.remove(slot)));
            }
        };
        // Part of what the stronger one has replaced as a whole.
        forget(Slot::Version, &[Slot::Minor]);
        forget(Slot::Actimeo, &[Slot::Acregmin, Slot::Acregmax, Slot::Acdirmin, Slot::Acdirmax]);
        self.0.extend(stronger.0);
        self
    }

    /// The options as one text, which `parse_list` reads back. For a volume context: it may be sensitive.
    pub fn to_list(&self) -> String {
        self.texts(|_| true).collect::<Vec<_>>().join(",")
    }

    /// Nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Proves that the options go together.
    pub fn resolve(self) -> Result<Options> {
        let connection = self.connection()?;
        self.check_locks(&connection)?;
        for (min, max) in [(Slot::Acregmin, Slot::Acregmax), (Slot::Acdirmin, Slot::Acdirmax)] {
            if let (Some(least), Some(most)) = (self.number(min), self.number(max))
                && least > most
            {
                return Err(self.fight(min, max));
            }
        }
        Ok(Options { connection, settings: self })
    }

    fn connection(&self) -> Result<Connection> {
        let version = self.version()?;
        // Version 4 has no mount protocol; like the kernel, the driver lets its options pass there.
        let mounts = version == Some(Version::V3);
        let connection = Connection {
            version,
            proto: self.word(Slot::Proto).and_then(Proto::named),
            port: self.port(Slot::Port),
            mount_port: self.port(Slot::MountPort).filter(|_| mounts),
            mount_proto: self.word(Slot::MountProto).filter(|_| mounts).and_then(MountProto::named),
            security: self.flavors(),
            tls: self.word(Slot::Tls).and_then(Tls::named),
        };
        if connection.is_rdma() && connection.needs_tls() {
            return Err(self.fight(Slot::Proto, Slot::Tls));
        }
        let families = (connection.proto.map(Proto::family), connection.mount_proto.map(MountProto::family));
        if let (Some(data), Some(mount)) = families
            && data != mount
        {
            return Err(self.fight(Slot::Proto, Slot::MountProto));
        }
        Ok(connection.normalised())
    }

    fn version(&self) -> Result<Option<Version>> {
        let version = match self.word(Slot::Version) {
            None | Some("4") => None,
            Some(named) => Version::named(named),
        };
        match self.number(Slot::Minor) {
            None => Ok(version),
            Some(minor) => {
                let exact = Version::of_minor(minor);
                if version.is_some() && version != exact {
                    Err(self.fight(Slot::Version, Slot::Minor))
                } else {
                    Ok(exact)
                }
            }
        }
    }

    fn check_locks(&self, connection: &Connection) -> Result<()> {
        match self.0.get(&Slot::Lock) {
            Some(setting)
                if connection.version == Some(Version::V3) && setting.value == Value::Word("lock") =>
            {
                Err(Error::Invalid(format!(
                    "mount option {} does not go with version 3: its locks need rpc.statd on every node, which \
                     this driver does not run; take version 4.2, 4.1 or 4.0, or nolock, which keeps locks to \
                     one node",
                    setting.name
                )))
            }
            _ => Ok(()),
        }
    }

    fn fight(&self, one: Slot, other: Slot) -> Error {
        let name = |slot: Slot| self.0.get(&slot).map_or("vers", |setting| setting.name);
        Error::Invalid(format!("mount options {} and {} contradict each other", name(one), name(other)))
    }

    pub(super) fn word(&self, slot: Slot) -> Option<&'static str> {
        match self.0.get(&slot)?.value {
            Value::Word(word) => Some(word),
            _ => None,
        }
    }

    /// As the user calls the option.
    pub(super) fn name(&self, slot: Slot) -> Option<&'static str> {
        self.0.get(&slot).map(|setting| setting.name)
    }

    fn number(&self, slot: Slot) -> Option<u32> {
        match self.0.get(&slot)?.value {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    fn port(&self, slot: Slot) -> Option<u16> {
        self.number(slot).and_then(|port| port.try_into().ok())
    }

    fn flavors(&self) -> Vec<Flavor> {
        match self.0.get(&Slot::Security) {
            Some(Setting { value: Value::List(words), .. }) => {
                words.iter().filter_map(|word| Flavor::named(word)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the kernel calls the options of the chosen slots.
    pub(super) fn texts(&self, chosen: impl Fn(Slot) -> bool) -> impl Iterator<Item = String> {
        self.0.iter().filter(move |(slot, _)| chosen(**slot)).map(|(slot, setting)| setting.value.text(*slot))
    }
}

impl From<&Connection> for Settings {
    fn from(connection: &Connection) -> Self {
        // What a connection shows is always readable.
        Self::parse_list(&connection.to_string()).unwrap_or_default()
    }
}

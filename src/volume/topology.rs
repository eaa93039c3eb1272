//! Where a local volume can be used: on one node.

use std::fmt;
use uuid::Uuid;

/// The topology key of every segment that wharf hands out.
pub const TOPOLOGY_KEY: &str = "wharf.csi.dev/node";

/// CSI: a topology value is at most 63 characters of `[A-Za-z0-9_.-]` with alphanumeric ends.
const MAX_VALUE: usize = 63;

/// The topology value of a node: its name where that is a legal value, else a hash of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl NodeName {
    /// The value for the node called `node`.
    pub fn of_node(node: &str) -> Self {
        Self::parse(node)
            .unwrap_or_else(|| Self(Uuid::new_v5(&Uuid::NAMESPACE_DNS, node.as_bytes()).simple().to_string()))
    }

    /// Reads a value back; `None` when it is not a legal one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let inside = |c: &u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let ends = bytes.first()?.is_ascii_alphanumeric() && bytes.last()?.is_ascii_alphanumeric();
        (ends && bytes.len() <= MAX_VALUE && bytes.iter().all(inside)).then(|| Self(text.to_owned()))
    }

    /// Whether it looks like the hash of a name that is no legal value.
    pub fn is_hash(&self) -> bool {
        self.0.len() == 32 && Uuid::try_parse(&self.0).is_ok_and(|uuid| uuid.get_version_num() == 5)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a request wants its volume: one list of segments each for requisite and preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The volume must be usable in one of these, when there are any.
    pub requisite: Vec<Segments>,
    /// In this order, if possible.
    pub preferred: Vec<Segments>,
}

/// One topology: key to value.
pub type Segments = std::collections::BTreeMap<String, String>;

impl Requirement {
    /// Whether a volume on `node` satisfies the requirement. Keys of other drivers are not ours to
    /// judge; a topology without our key says nothing about the node.
    pub fn allows(&self, node: &NodeName) -> bool {
        let wanted = if self.requisite.is_empty() { &self.preferred } else { &self.requisite };
        wanted.is_empty() || wanted.iter().any(|segments| covers(segments, node))
    }
}

/// Whether `segments` include `node`.
pub fn covers(segments: &Segments, node: &NodeName) -> bool {
    match segments.iter().find(|(key, _)| key.eq_ignore_ascii_case(TOPOLOGY_KEY)) {
        Some((_, value)) => value == node.as_str(),
        None => segments.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(value: &str) -> Segments {
        Segments::from([(TOPOLOGY_KEY.to_owned(), value.to_owned())])
    }

    #[test]
    fn long_or_odd_names_are_hashed() {
        for name in ["n".repeat(64), "a/b".into(), "-a".into(), "ü".into()] {
            let value = NodeName::of_node(&name);
            assert_eq!(value.as_str().len(), 32, "{name}");
            assert_eq!(value, NodeName::of_node(&name));
        }
        assert_eq!(NodeName::of_node("node-1.example").as_str(), "node-1.example");
    }

    #[test]
    fn requisite_decides() {
        let node = NodeName::of_node("a");
        let of = |requisite: &[&str], preferred: &[&str]| Requirement {
            requisite: requisite.iter().map(|v| segments(v)).collect(),
            preferred: preferred.iter().map(|v| segments(v)).collect(),
        };
        assert!(of(&[], &[]).allows(&node));
        assert!(of(&["b", "a"], &["b"]).allows(&node));
        assert!(!of(&["b"], &["b"]).allows(&node));
        assert!(!of(&[], &["b"]).allows(&node));
    }
}

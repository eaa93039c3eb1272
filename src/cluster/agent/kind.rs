//! What the agent does alike for volumes and snapshots, and what is different for each.

use super::{
    super::api::{
        Desired, LocalObject, LocalSnapshot, LocalSnapshotSpec, LocalVolume, LocalVolumeSpec, ObjectSource,
        SourceKind, VolumeAccess,
    },
    plan::View,
};
use crate::{
    backend::image,
    error::{Error, Result},
    service::{
        self, Ailment, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, ExpandVolume, Service,
    },
    store::{self, Pool, Store},
    volume::{
        Access, CapacityRange, Class, Key, Name, SnapshotId, SnapshotRecord, Source, VolumeId, VolumeRecord,
        nfs::Settings, record::Timestamp, topology::Requirement,
    },
};
use bytesize::ByteSize;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff};
use kube::ResourceExt;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A kind of object whose data lies on this node.
pub trait Kind: LocalObject {
    /// What the store calls it.
    const KIND: store::Kind;
    /// Whether it can be ill: pods use it.
    const IS_USED: bool;
    /// What is written down on disk.
    type Record: Send + Sync + 'static;

    /// The whole status as it is.
    fn status(&self) -> Value;
    /// What is wrong with the spec, if somebody has edited it.
    fn check(&self, key: Key) -> Result<()>;
    /// Whether making it may copy for long.
    fn is_long(&self) -> bool;
    /// Finds the data where it should be, or wherever it is.
    fn find(&self, store: &Store, key: Key) -> Result<Option<(Arc<Pool>, Self::Record)>>;
    /// Finds it by its key alone; `None` only when every pool could be asked.
    fn find_anywhere(store: &Store, key: Key) -> Result<Option<(Arc<Pool>, Self::Record)>>;
    /// Whether it is in a pool that can be reached.
    fn is_in_reach(store: &Store, key: Key) -> Result<bool>;
    fn is_small(&self, record: &Self::Record) -> bool;
    fn make(&self, service: &Service) -> Result<()>;
    fn grow(&self, service: &Service, record: &Self::Record) -> Result<()>;
    fn remove(service: &Service, key: Key) -> Result<()>;
    /// What its status tells of it.
    fn answer(record: &Self::Record) -> Map<String, Value>;
    /// Why what is there cannot be used; of kinds that nobody uses nothing is known.
    fn ailment(pool: &Pool, record: &Self::Record) -> Option<Ailment>;
    /// An object for data that has none.
    fn announcement(record: &Self::Record, pool: &Pool, node_name: &str) -> Self;

    /// The key that the object is called like.
    fn key(&self) -> Result<Key> {
        let name = self.name_any();
        Key::parse(&name).ok_or_else(|| {
            Error::Invalid(format!(
                "{} {name} is not called like the uuid of its {}: the driver made no such object; delete it",
                Self::plural(&()),
                Self::KIND
            ))
        })
    }

    fn view(&self, flawed: bool) -> View {
        View {
            deleting: self.is_deleted(),
            accepted: self.is_accepted(),
            orphaned: self.is_orphaned(),
            desired: self.desired(),
            phase: self.phase().unwrap_or_default(),
            current: self.is_answered(),
            ever: self.is_orphaned() || self.was_there(),
            flawed,
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// For people.
pub fn readable(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// The object is called like the key of the name in its spec.
fn check_name(key: Key, name: &str) -> Result<()> {
    if Key::of(&Name::new(name)?) == key {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "spec.name {name:?} is not the name of which {key} was made: somebody has edited the object, or made it by hand"
    )))
}

impl Kind for LocalVolume {
    const KIND: store::Kind = store::Kind::Volume;
    const IS_USED: bool = true;
    type Record = VolumeRecord;

    fn status(&self) -> Value {
        self.status.as_ref().map_or(Value::Null, |status| json!(status))
    }

    fn check(&self, key: Key) -> Result<()> {
        check_name(key, &self.spec.name)?;
        self.spec.request().map(drop)
    }

    fn is_long(&self) -> bool {
        self.spec.source.is_some()
    }

    fn find(&self, store: &Store, key: Key) -> Result<Option<(Arc<Pool>, VolumeRecord)>> {
        let expected = store.pool(&self.spec.pool).and_then(|pool| {
            pool.verify()?;
            Ok(pool.volume(key)?.map(|record| (pool, record)))
        });
        match expected {
            Ok(Some(found)) => Ok(Some(found)),
            // A pool may have got another name.
            other => match store.volume_in_reach(key)? {
                Some(found) => Ok(Some(found)),
                None => other,
            },
        }
    }

    fn find_anywhere(store: &Store, key: Key) -> Result<Option<(Arc<Pool>, VolumeRecord)>> {
        store.volume(key)
    }

    fn is_in_reach(store: &Store, key: Key) -> Result<bool> {
        store.volume_in_reach(key).map(|found| found.is_some())
    }

    fn is_small(&self, record: &VolumeRecord) -> bool {
        // A smaller wish than the size is written down, too: a snapshot tells it.
        u64::try_from(self.spec.required_bytes).is_ok_and(|required| required > record.required_bytes)
    }

    fn make(&self, service: &Service) -> Result<()> {
        service.create_volume(&CreateVolume::Local(self.spec.request()?)).map(drop)
    }

    fn grow(&self, service: &Service, record: &VolumeRecord) -> Result<()> {
        let request = ExpandVolume {
            id: record.id().to_string(),
            range: CapacityRange::new(self.spec.required_bytes, self.spec.limit_bytes)?,
            capability: None,
            secrets: Settings::default(),
        };
        service.expand_volume(&request).map(drop)
    }

    fn remove(service: &Service, key: Key) -> Result<()> {
        let id = VolumeId { key, node: service.node().clone() }.to_string();
        service.delete_volume(&DeleteVolume { id, secrets: Settings::default() })
    }

    fn answer(record: &VolumeRecord) -> Map<String, Value> {
        let pairs = [
            ("volumeID", json!(record.id().to_string())),
            ("sizeBytes", json!(signed(record.size_bytes))),
            ("size", json!(readable(record.size_bytes))),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn ailment(pool: &Pool, record: &VolumeRecord) -> Option<Ailment> {
        service::useless(pool, record)
    }

    fn announcement(record: &VolumeRecord, pool: &Pool, node_name: &str) -> Self {
        let class = Class {
            pool: Some(pool.name().to_owned()),
            layout: record.shape.layout,
            provisioning: record.provisioning,
            limit: record.limit,
            owner: record.owner,
            filesystem: record.shape.filesystem,
        };
        let source = record.source.map(|source| match source {
            Source::Snapshot(key) => ObjectSource {
                kind: SourceKind::Snapshot,
                id: SnapshotId { key, node: record.node.clone() }.to_string(),
            },
            Source::Volume(key) => ObjectSource {
                kind: SourceKind::Volume,
                id: VolumeId { key, node: record.node.clone() }.to_string(),
            },
        });
        let spec = LocalVolumeSpec {
            node_name: node_name.to_owned(),
            name: record.name.clone(),
            pool: pool.name().to_owned(),
            parameters: class.to_parameters(),
            access: match record.shape.access {
                Access::Mount => VolumeAccess::Mount,
                Access::Block => VolumeAccess::Block,
            },
            filesystem: record.shape.filesystem.map(|filesystem| image::name(filesystem).to_owned()),
            required_bytes: signed(record.required_bytes),
            limit_bytes: 0,
            source,
            desired: Desired::Present,
        };
        Self::new(&record.key.to_string(), spec)
    }
}

impl Kind for LocalSnapshot {
    const KIND: store::Kind = store::Kind::Snapshot;
    const IS_USED: bool = false;
    type Record = SnapshotRecord;

    fn status(&self) -> Value {
        self.status.as_ref().map_or(Value::Null, |status| json!(status))
    }

    fn check(&self, key: Key) -> Result<()> {
        check_name(key, &self.spec.name)
    }

    fn is_long(&self) -> bool {
        true
    }

    fn find(&self, store: &Store, key: Key) -> Result<Option<(Arc<Pool>, SnapshotRecord)>> {
        match store.snapshot_in_reach(key)? {
            Some(found) => Ok(Some(found)),
            None => store.snapshot(key),
        }
    }

    fn find_anywhere(store: &Store, key: Key) -> Result<Option<(Arc<Pool>, SnapshotRecord)>> {
        store.snapshot(key)
    }

    fn is_in_reach(store: &Store, key: Key) -> Result<bool> {
        store.snapshot_in_reach(key).map(|found| found.is_some())
    }

    fn is_small(&self, _: &SnapshotRecord) -> bool {
        false
    }

    fn make(&self, service: &Service) -> Result<()> {
        let request = CreateSnapshot {
            name: Name::new(self.spec.name.clone())?,
            source_id: self.spec.source_volume_id.clone(),
            topology: Requirement::default(),
            secrets: Settings::default(),
        };
        // An id of a share would be taken for one.
        VolumeId::parse(&request.source_id).ok_or_else(|| {
            Error::NotFound(format!("source volume {:?} is no local volume", request.source_id))
        })?;
        service.create_snapshot(&request).map(drop)
    }

    fn grow(&self, _: &Service, _: &SnapshotRecord) -> Result<()> {
        Ok(())
    }

    fn remove(service: &Service, key: Key) -> Result<()> {
        let id = SnapshotId { key, node: service.node().clone() }.to_string();
        service.delete_snapshot(&DeleteSnapshot { id, secrets: Settings::default() })
    }

    fn answer(record: &SnapshotRecord) -> Map<String, Value> {
        let pairs = [
            ("snapshotID", json!(record.id().to_string())),
            ("askedBytes", json!(signed(record.asked_bytes))),
            ("creationTime", json!(time(record.created))),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn ailment(_: &Pool, _: &SnapshotRecord) -> Option<Ailment> {
        None
    }

    fn announcement(record: &SnapshotRecord, _: &Pool, node_name: &str) -> Self {
        let spec = LocalSnapshotSpec {
            node_name: node_name.to_owned(),
            name: record.name.clone(),
            source_volume_id: record.volume_id().to_string(),
            desired: Desired::Present,
        };
        Self::new(&record.key.to_string(), spec)
    }
}

/// To the second, as an object holds it.
fn time(at: Timestamp) -> Option<Time> {
    let seconds = i64::try_from(at.seconds).ok()?;
    jiff::Timestamp::from_second(seconds).ok().map(Time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        os::format::Filesystem,
        volume::{Layout, NodeName, Owner, Provisioning, Shape},
    };
    use std::fs;

    #[test]
    fn what_is_announced_is_what_would_have_been_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("pool")).unwrap();
        let config =
            store::PoolConfig { name: "fast".into(), path: directory.path().join("pool"), mounted: false };
        let pool = Pool::open(&config).unwrap();
        let key = Key::of(&Name::new("pvc-1").unwrap());
        let record = VolumeRecord {
            version: 1,
            name: "pvc-1".into(),
            key,
            node: NodeName::of_node("node-1"),
            shape: Shape { layout: Layout::Image, access: Access::Mount, filesystem: Some(Filesystem::Xfs) },
            provisioning: Some(Provisioning::Thin),
            limit: None,
            owner: Owner { uid: Some(7), gid: None, mode: Some(0o750) },
            required_bytes: 5,
            size_bytes: 300 << 20,
            block_size: 4096,
            source: Some(Source::Snapshot(key)),
            project_id: None,
            created: Timestamp::now(),
        };
        let object = LocalVolume::announcement(&record, &pool, "node-1");
        assert_eq!(object.key().unwrap(), key);
        assert!(object.check(key).is_ok());
        assert!(!object.is_small(&record));
        let request = object.spec.request().unwrap();
        assert_eq!((request.class.pool(), request.class.owner), ("fast", record.owner));
        assert_eq!(request.class.provisioning, Some(Provisioning::Thin));
        assert_eq!(request.class.filesystem, Some(Filesystem::Xfs));
    }

    #[test]
    fn an_object_that_is_not_called_like_its_name_is_noticed() {
        let spec = LocalSnapshotSpec {
            node_name: "node-1".into(),
            name: "snapshot-1".into(),
            source_volume_id: "local-x".into(),
            desired: Desired::Present,
        };
        let key = Key::of(&Name::new("snapshot-1").unwrap());
        let good = LocalSnapshot::new(&key.to_string(), spec.clone());
        assert!(good.check(good.key().unwrap()).is_ok());
        let other = LocalSnapshot::new("6f9619ff-8b86-d011-b42d-00c04fc964ff", spec.clone());
        assert!(matches!(other.check(other.key().unwrap()), Err(Error::Invalid(_))));
        assert!(matches!(LocalSnapshot::new("x", spec).key(), Err(Error::Invalid(_))));
    }
}

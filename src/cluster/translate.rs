//! Requests as specs of objects, and back.

use super::api::{Desired, LocalVolume, LocalVolumeSpec, ObjectSource, SourceKind, VolumeAccess};
use crate::{
    backend::image,
    error::{Error, Result},
    service::{CreateLocal, SourceRequest, Wish},
    volume::{
        Access, AccessMode, Capability, CapacityRange, Class, Name, NodeName, VolumeId,
        capability::{AccessType, parse_filesystem},
        topology::Requirement,
    },
};
use kube::ResourceExt;

/// The largest size that a field holds; requests are below it by construction.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl LocalVolumeSpec {
    /// What is asked of the agent on `node_name`.
    pub fn of(request: &CreateLocal, wish: &Wish, node_name: &str) -> Self {
        let source = request.source.as_ref().map(|source| match source {
            SourceRequest::Snapshot(id) => ObjectSource { kind: SourceKind::Snapshot, id: id.clone() },
            SourceRequest::Volume(id) => ObjectSource { kind: SourceKind::Volume, id: id.clone() },
        });
        Self {
            node_name: node_name.to_owned(),
            name: request.name.as_str().to_owned(),
            pool: request.class.pool().to_owned(),
            parameters: request.class.to_parameters(),
            access: match wish.shape.access {
                Access::Mount => VolumeAccess::Mount,
                Access::Block => VolumeAccess::Block,
            },
            filesystem: wish.shape.filesystem.map(|filesystem| image::name(filesystem).to_owned()),
            required_bytes: signed(request.range.required),
            limit_bytes: request.range.limit.map_or(0, signed),
            source,
            desired: Desired::Present,
        }
    }

    /// The same request, for the node that it names. An error: somebody has edited the object.
    pub fn request(&self) -> Result<CreateLocal> {
        let mut class = Class::parse(&self.parameters)?;
        class.pool = Some(self.pool.clone());
        class.filesystem = self.filesystem.as_deref().map(parse_filesystem).transpose()?;
        let access = match self.access {
            VolumeAccess::Block => AccessType::Block,
            VolumeAccess::Mount => AccessType::Mount { fs_type: String::new(), flags: Vec::new() },
        };
        let source = self.source.as_ref().map(|source| match source.kind {
            SourceKind::Snapshot => SourceRequest::Snapshot(source.id.clone()),
            SourceKind::Volume => SourceRequest::Volume(source.id.clone()),
        });
        Ok(CreateLocal {
            name: Name::new(self.name.clone())?,
            range: CapacityRange::new(self.required_bytes, self.limit_bytes)?,
            // Which of the modes of one node it is does not matter to the volume itself.
            capabilities: vec![Capability { mode: AccessMode::SingleNodeWriter, access }],
            class,
            source,
            topology: Requirement::default(),
            claim: None,
        })
    }

    /// The topology value of its node.
    pub fn node(&self) -> NodeName {
        NodeName::of_node(&self.node_name)
    }
}

impl LocalVolume {
    /// The id that the orchestrator knows, or will: the object is called like the volume's key.
    pub fn id(&self) -> Result<VolumeId> {
        let name = self.name_any();
        let key = crate::volume::Key::parse(&name).ok_or_else(|| {
            Error::Damaged(format!(
                "localvolume {name} is not called like a uuid: the driver makes none such, delete it"
            ))
        })?;
        Ok(VolumeId { key, node: self.spec.node() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    fn request(
        parameters: &[(&str, &str)],
        access: AccessType,
        source: Option<SourceRequest>,
    ) -> CreateLocal {
        let parameters: BTreeMap<_, _> =
            parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        CreateLocal {
            name: Name::new("pvc-1").unwrap(),
            range: CapacityRange::new(5, 1 << 40).unwrap(),
            capabilities: vec![Capability { mode: AccessMode::SingleNodeMultiWriter, access }],
            class: Class::parse(&parameters).unwrap(),
            source,
            topology: Requirement::default(),
            claim: None,
        }
    }

    #[test]
    fn an_agent_makes_what_the_controller_was_asked_for() {
        let mount =
            |fs_type: &str| AccessType::Mount { fs_type: fs_type.into(), flags: vec!["noatime".into()] };
        for request in [
            request(&[], mount("xfs"), Some(SourceRequest::Snapshot("local-snap-x".into()))),
            request(&[("pool", "fast"), ("provisioning", "thin"), ("mode", "0750")], AccessType::Block, None),
            request(
                &[("layout", "directory"), ("limit", "advisory"), ("uid", "7")],
                mount(""),
                Some(SourceRequest::Volume("local-x".into())),
            ),
        ] {
            let wish = Wish::new(&request).unwrap();
            let spec = LocalVolumeSpec::of(&request, &wish, "node-1");
            let text = serde_json::to_string(&spec).unwrap();
            let back = serde_json::from_str::<LocalVolumeSpec>(&text).unwrap().request().unwrap();
            assert_eq!(Wish::new(&back).unwrap(), wish);
            assert_eq!((back.name, back.range, back.source), (request.name, request.range, request.source));
            assert_eq!((back.class.pool(), back.class.owner), (request.class.pool(), request.class.owner));
            assert_eq!(spec.node(), NodeName::of_node("node-1"));
        }
    }
}

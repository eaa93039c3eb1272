//! What Kubernetes itself knows of volumes: claims, PersistentVolumes, and the shares in its classes.

use super::{
    Controller,
    objects::{answer, every, get},
};
use crate::{
    cluster::api::kubernetes::{CsiSource, Namespace, PersistentVolume, PersistentVolumeClaim, StorageClass},
    error::{Error, Result},
    service::{Claim, nfs::At},
    volume::nfs::{self, AnyVolumeId, Settings},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use std::collections::HashSet;

/// The scheduler's choice for a claim that waits for its first consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

impl Controller {
    /// Whether the scheduler has chosen a node for the claim: its class is WaitForFirstConsumer then.
    pub(super) async fn has_selected_node(&self, claim: &Claim) -> Result<bool> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &claim.namespace);
        let found = get(&claims, &claim.name, "claim").await?;
        Ok(found.is_some_and(|claim| claim.annotations().contains_key(SELECTED_NODE)))
    }

    /// Whether a PersistentVolume has this handle.
    pub(super) async fn has_persistent_volume(&self, id: &str) -> Result<bool> {
        let mut found = false;
        self.persistent_volumes(|source| found |= source.volume_handle == id).await?;
        Ok(found)
    }

    /// The handles of this driver's PersistentVolumes.
    pub(super) async fn handles(&self) -> Result<HashSet<String>> {
        let mut handles = HashSet::new();
        self.persistent_volumes(|source| {
            handles.insert(source.volume_handle.clone());
        })
        .await?;
        Ok(handles)
    }

    /// Shows each of this driver's.
    async fn persistent_volumes(&self, mut show: impl FnMut(&CsiSource)) -> Result<()> {
        let api = &Api::<PersistentVolume>::all(self.client.clone());
        let list = |page| async move { api.list(&page).await };
        every(list, "listing PersistentVolumes", |volume| {
            if let Some(source) = volume.spec.csi.filter(|source| source.driver == self.settings.driver_name)
            {
                show(&source);
            }
        })
        .await
    }

    /// The shares that this driver's classes and PersistentVolumes name, and the handles of the latter.
    pub(super) async fn shares_and_handles(&self) -> Result<(Vec<At>, HashSet<String>)> {
        let (mut shares, mut handles) = (Vec::new(), HashSet::new());
        self.persistent_volumes(|source| {
            shares.extend(share_of_volume(source));
            handles.insert(source.volume_handle.clone());
        })
        .await?;
        let api = Api::<StorageClass>::all(self.client.clone());
        let classes = answer(api.list(&ListParams::default())).await;
        let classes = classes.map_err(|trouble| trouble.doing("listing StorageClasses"))?;
        let ours = classes.items.iter().filter(|class| class.provisioner == self.settings.driver_name);
        shares.extend(ours.filter_map(share_of_class));
        shares.sort_by(|a, b| a.share.cmp(&b.share));
        shares.dedup_by(|a, b| a.share == b.share);
        Ok((shares, handles))
    }

    /// The uids of all claims, whoever is to serve them.
    pub(super) async fn claims(&self) -> Result<HashSet<String>> {
        let api = &Api::<PersistentVolumeClaim>::all(self.client.clone());
        let list = |page| async move { api.list_metadata(&page).await };
        let mut uids = HashSet::new();
        every(list, "listing claims", |claim| uids.extend(claim.uid())).await?;
        Ok(uids)
    }
}

/// An id says how its server is reached.
fn share_of_volume(source: &CsiSource) -> Option<At> {
    match AnyVolumeId::parse(&source.volume_handle)? {
        AnyVolumeId::Nfs(id) => Some(At { share: id.share, connection: id.connection }),
        // Written by hand, or by csi-driver-nfs: there is no store that would have to be looked through.
        AnyVolumeId::Local(_) | AnyVolumeId::Legacy(_) => None,
    }
}

fn share_of_class(class: &StorageClass) -> Option<At> {
    let parsed = nfs::Class::parse(&class.parameters).ok()?;
    // As a request would have it: the parameter is stronger than the class's own list.
    let options = class.mount_options.join(",");
    let settings = Settings::parse_list(&options).ok()?.overridden_by(parsed.options).resolve().ok()?;
    Some(At { share: parsed.share, connection: settings.connection().clone() })
}

/// What tells clusters apart: the uid of the namespace kube-system, which lives as long as its cluster.
pub async fn cluster_uid(client: &Client) -> Result<String> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let found = get(&namespaces, "kube-system", "namespace").await?;
    found.and_then(|namespace| namespace.uid()).ok_or_else(|| {
        Error::Unavailable(
            "there is no namespace kube-system, whose uid tells this cluster from others".into(),
        )
    })
}

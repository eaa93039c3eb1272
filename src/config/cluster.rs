//! Flags of the roles in a cluster.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the help text, where brackets mean optional"
)]

use super::{RoleArgs, parse_pool};
use crate::store::PoolConfig;
use clap::Args as ClapArgs;
use std::path::PathBuf;

/// How the API server is reached, and where the driver's own objects live there.
#[derive(Clone, Debug, ClapArgs)]
pub struct ClusterArgs {
    /// How to reach the API server [default: as the pod's service account].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace in which the nodes' agents show that they are alive (Leases): the driver's own.
    #[arg(long, env = "WHARF_NAMESPACE", default_value = "wharf")]
    pub namespace: String,
}

/// The objects that a command looks at beside pools and shares.
#[derive(Clone, Debug, ClapArgs)]
pub struct ObjectArgs {
    /// Look through the cluster's objects: volumes that no PersistentVolume names, and tombstones of deleted volumes
    /// and snapshots whose node is gone.
    ///
    /// Both stay, also with --apply.
    #[arg(long, group = "stores")]
    pub cluster: bool,
    /// A node that is gone and never comes back: its tombstones may be removed.
    ///
    /// Its Node object must have been deleted. Should the node come back all the same, its agent announces what is on
    /// its disks as `Orphaned`.
    #[arg(long, value_name = "NODE", group = "stores")]
    pub node: Option<String>,
    /// How to reach the API server [default: as the pod's service account].
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Of `wharf controller`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ControllerArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub role: RoleArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub cluster: ClusterArgs,
    /// How many seconds after its Node object was deleted a node is taken for gone for good.
    ///
    /// Until then, deleting its volumes waits for it. Afterwards it succeeds, and the node purges them should it
    /// come back.
    #[arg(long, env = "WHARF_NODE_GONE_AFTER", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub node_gone_after: u64,
    /// After how many seconds without a PersistentVolume and a claim a local volume is reported as `Unclaimed`.
    ///
    /// It is looked for every five minutes. Nothing is ever deleted for it.
    #[arg(long, env = "WHARF_UNCLAIMED_AFTER", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    pub unclaimed_after: u64,
}

/// Of `wharf node`.
#[derive(Clone, Debug, ClapArgs)]
pub struct NodeArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub role: RoleArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub cluster: ClusterArgs,
    /// The name of this machine's Node object.
    #[arg(long, env = "WHARF_NODE_ID")]
    pub node_id: String,
    /// A pool of local volumes: NAME=PATH, or NAME=PATH,mounted to refuse a path that is no mountpoint.
    ///
    /// Repeatable. A StorageClass without `pool` gets the one called `default`. The environment variable
    /// holds several with spaces in between. Without any there are no local volumes on this node.
    #[arg(long = "pool", env = "WHARF_POOLS", value_name = "NAME=PATH[,mounted]", value_delimiter = ' ', value_parser = parse_pool)]
    pub pools: Vec<PoolConfig>,
    /// How many volumes the orchestrator may put on this node; 0: it decides.
    #[arg(long, env = "WHARF_MAX_VOLUMES", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_volumes: i64,
    /// The kubelet's own directory, as this process sees it.
    #[arg(long, env = "WHARF_KUBELET_DIR", default_value = "/var/lib/kubelet", value_name = "DIRECTORY")]
    pub kubelet_dir: PathBuf,
    /// The path of the driver's socket as the kubelet sees it
    /// [default: plugins/DRIVER-NAME/csi.sock in the kubelet's directory].
    #[arg(long, env = "WHARF_KUBELET_ENDPOINT", value_name = "PATH")]
    pub kubelet_endpoint: Option<PathBuf>,
    /// Whether to register with the kubelet; `false` where node-driver-registrar does it.
    #[arg(long, env = "WHARF_REGISTER", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub register: bool,
}

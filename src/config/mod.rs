//! Flags and their environment variables ([`Args`], as typed) and what they must be.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the help text, where brackets mean optional"
)]

#[cfg(feature = "cluster")]
mod cluster;

#[cfg(feature = "cluster")]
pub use cluster::{ClusterArgs, ControllerArgs, NodeArgs, ObjectArgs};

use crate::{
    service::nfs::At,
    store::PoolConfig,
    volume::nfs::{self, Settings},
};
use clap::{ArgGroup, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf};

/// A CSI driver for local and NFS volumes: snapshots, clones and growth from disks and servers you already have.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, about, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to write the log (to standard error).
    #[arg(long, env = "WHARF_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug or trace, or a filter such as `info,wharf::store=debug`.
    #[arg(long, env = "WHARF_LOG_LEVEL", global = true, hide_default_value = true)]
    pub log_level: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves Identity, Controller and Node on one socket, without a cluster.
    ///
    /// For csi-sanity, Nomad and other container orchestrators, a single machine, development.
    Standalone(StandaloneArgs),
    /// Serves Identity and Controller for a whole cluster.
    ///
    /// Stock csi-provisioner, csi-resizer and csi-snapshotter share its socket. What is local to a node becomes an
    /// object that this node's agent makes true; NFS volumes are made in place.
    #[cfg(feature = "cluster")]
    Controller(ControllerArgs),
    /// Serves Identity and Node on one node of a cluster, and makes true what the controller wishes there.
    ///
    /// It registers itself with the kubelet.
    #[cfg(feature = "cluster")]
    Node(NodeArgs),
    /// Prints the CustomResourceDefinitions: apply them before the driver is installed or upgraded.
    #[cfg(feature = "cluster")]
    Crds,
    /// Shows what this host can do: loop devices, filesystems, reflinks, quotas, tools, NFS.
    ///
    /// The exit code is 0 when local volumes can be served, from every pool that is given. With --share
    /// it is 0 when volumes on these shares can be served, and local ones as well if a pool is given, too.
    Check(CheckArgs),
    /// Lists volumes and snapshots on pools and NFS shares, also beside a running driver.
    ///
    /// Nothing is written there. The exit code is 0 when every pool and share could be listed.
    Volumes(VolumesArgs),
    /// Finds leftovers on pools and NFS shares and among a cluster's objects, and with --apply removes them.
    ///
    /// Without --apply nothing is changed (on a share a file is touched to read its server's clock). What cannot be proven to be this driver's leftover is reported
    /// and never removed. May be used beside a running driver. The exit code is 0 when nothing is left that
    /// may be removed.
    Gc(GcArgs),
    /// Brings the stores on NFS shares to this driver's version.
    ///
    /// Drivers of the older version can no longer use them: replace all of them first. No driver does this
    /// by itself. The exit code is 0 when every store has this driver's version in the end.
    Migrate(MigrateArgs),
    /// Asks a running driver whether it can serve: the exit code is the answer.
    ///
    /// Meant as the exec command of a livenessProbe.
    Probe(ProbeArgs),
    /// Drives a volume's whole life against a scratch pool, and leaves nothing behind.
    ///
    /// Creates, stages, publishes, writes, snapshots, restores, grows and deletes a volume through gRPC as
    /// an orchestrator would, printing each step and its time. Needs root, loop devices and ext4.
    Demo(DemoArgs),
    /// Serves one share to the driver that starts it.
    #[command(hide = true)]
    ShareHelper,
}

/// What every role that serves CSI has.
#[derive(Clone, Debug, ClapArgs)]
pub struct RoleArgs {
    /// The socket to serve on: `unix:///run/wharf/csi.sock` or an absolute path.
    #[arg(long, env = "CSI_ENDPOINT")]
    pub endpoint: String,
    /// The driver's name, as CSIDriver objects and PVs carry it.
    #[arg(long, env = "WHARF_DRIVER_NAME", default_value = "wharf.csi.dev", value_parser = parse_driver_name)]
    pub driver_name: String,
    /// How many seconds mounting a share may take.
    ///
    /// A server whose first answer is slow, such as one with Kerberos, may need more. A fifth of it is the time in
    /// which the server has to answer at all.
    #[arg(long, env = "WHARF_MOUNT_TIMEOUT", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub mount_timeout: u64,
    /// Where to serve Prometheus metrics over HTTP at /metrics, such as 127.0.0.1:9808 [default: nowhere].
    #[arg(long, env = "WHARF_METRICS_ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
}

/// Of `wharf standalone`.
#[derive(Clone, Debug, ClapArgs)]
pub struct StandaloneArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub role: RoleArgs,
    /// The node's id, also the value of its topology [default: the host's name].
    #[arg(long, env = "WHARF_NODE_ID")]
    pub node_id: Option<String>,
    /// A pool of local volumes: NAME=PATH, or NAME=PATH,mounted to refuse a path that is no mountpoint.
    ///
    /// Repeatable. A StorageClass without `pool` gets the one called `default`. The environment variable
    /// holds several with spaces in between.
    #[arg(long = "pool", env = "WHARF_POOLS", value_name = "NAME=PATH[,mounted]",
          required_unless_present = "shares", value_delimiter = ' ', value_parser = parse_pool)]
    pub pools: Vec<PoolConfig>,
    /// An NFS share to look after from the start: SERVER:/PATH, or SERVER:/PATH,OPTION,… with mount options.
    ///
    /// Repeatable. Classes may name any share; volumes on those that are given here are listed, and what was
    /// left there is purged, also before the first request for it. The environment variable holds several with
    /// spaces in between.
    #[arg(long = "share", env = "WHARF_SHARES", value_name = "SERVER:/PATH[,OPTION]…", value_delimiter = ' ',
          value_parser = parse_share)]
    pub shares: Vec<At>,
    /// Whose the volumes on shares are [default: a hash of this machine's id].
    ///
    /// Drivers with the same owner see each other's volumes, and one takes over what another one left.
    #[arg(long, env = "WHARF_OWNER", value_parser = parse_owner)]
    pub owner: Option<String>,
    /// How many volumes the orchestrator may put on this node; 0: it decides.
    #[arg(long, env = "WHARF_MAX_VOLUMES", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    pub max_volumes: i64,
}

/// Of `wharf check`.
#[derive(Clone, Debug, ClapArgs)]
pub struct CheckArgs {
    /// Also look at these pools: NAME=PATH[,mounted].
    #[arg(long = "pool", env = "WHARF_POOLS", value_name = "NAME=PATH[,mounted]", value_delimiter = ' ',
          value_parser = parse_pool)]
    pub pools: Vec<PoolConfig>,
    /// Also look at what these NFS shares answer: SERVER:/PATH, or SERVER:/PATH,OPTION,… with mount options.
    ///
    /// Repeatable, also one share with other options. The environment variable holds several with spaces in
    /// between.
    #[arg(long = "share", env = "WHARF_SHARES", value_name = "SERVER:/PATH[,OPTION]…", value_delimiter = ' ',
          value_parser = parse_share)]
    pub shares: Vec<At>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Of `wharf volumes`.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("stores").required(true).multiple(true))]
pub struct VolumesArgs {
    /// The pools to list: NAME=PATH[,mounted].
    #[arg(long = "pool", env = "WHARF_POOLS", value_name = "NAME=PATH[,mounted]", group = "stores",
          value_delimiter = ' ', value_parser = parse_pool)]
    pub pools: Vec<PoolConfig>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub on: ShareArgs,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Of `wharf gc`.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("stores").required(true).multiple(true))]
pub struct GcArgs {
    /// The pools to look through: NAME=PATH[,mounted].
    #[arg(long = "pool", env = "WHARF_POOLS", value_name = "NAME=PATH[,mounted]", group = "stores",
          value_delimiter = ' ', value_parser = parse_pool)]
    pub pools: Vec<PoolConfig>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub on: ShareArgs,
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    #[allow(missing_docs, reason = "a comment here would become a heading")]
    pub objects: ObjectArgs,
    /// Remove what is proven to be a leftover of this driver.
    #[arg(long)]
    pub apply: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// The shares that a command looks at beside pools.
#[derive(Clone, Debug, ClapArgs)]
pub struct ShareArgs {
    /// An NFS share: SERVER:/PATH, or SERVER:/PATH,OPTION,… with mount options.
    ///
    /// Repeatable. The environment variable holds several with spaces in between.
    #[arg(long = "share", env = "WHARF_SHARES", value_name = "SERVER:/PATH[,OPTION]…", group = "stores",
          value_delimiter = ' ', value_parser = parse_share)]
    pub shares: Vec<At>,
    /// Whose volumes on shares are meant [default: a hash of this machine's id].
    ///
    /// As given to the driver. Others' volumes are left out and left alone.
    #[arg(long, env = "WHARF_OWNER", value_parser = parse_owner)]
    pub owner: Option<String>,
}

/// Of `wharf migrate`.
#[derive(Clone, Debug, ClapArgs)]
pub struct MigrateArgs {
    /// The NFS share whose store is meant: SERVER:/PATH, or SERVER:/PATH,OPTION,… with mount options.
    ///
    /// Repeatable. The environment variable holds several with spaces in between.
    #[arg(long = "share", env = "WHARF_SHARES", value_name = "SERVER:/PATH[,OPTION]…", required = true,
          value_delimiter = ' ', value_parser = parse_share)]
    pub shares: Vec<At>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Of `wharf probe`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ProbeArgs {
    /// The driver's socket: `unix:///run/wharf/csi.sock` or an absolute path.
    #[arg(long, env = "CSI_ENDPOINT")]
    pub endpoint: String,
    /// How many seconds to wait for the answer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,
}

/// Of `wharf demo`.
#[derive(Clone, Debug, ClapArgs)]
pub struct DemoArgs {
    /// An existing directory to make the scratch pool in; about 2.5 GiB have to be free there.
    ///
    /// [default: the system's temporary directory, or /var/tmp where that one is in memory]
    #[arg(long)]
    pub directory: Option<PathBuf>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

fn parse_pool(text: &str) -> Result<PoolConfig, String> {
    let (name, rest) = text.split_once('=').ok_or("it must be NAME=PATH, such as default=/var/lib/wharf")?;
    let (path, mounted) = match rest.strip_suffix(",mounted") {
        Some(path) => (path, true),
        None => (rest, false),
    };
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(legal) {
        return Err(format!("the pool name {name:?} must be 1 to 63 of a-z, 0-9 and -"));
    }
    if !path.starts_with('/') {
        return Err(format!("the path {path:?} must be absolute"));
    }
    Ok(PoolConfig { name: name.to_owned(), path: path.into(), mounted })
}

fn parse_share(text: &str) -> Result<At, String> {
    let (name, options) = text.split_once(',').unwrap_or((text, ""));
    let share = nfs::Share::parse(name).map_err(|error| error.to_string())?;
    let options =
        Settings::parse_list(options).and_then(Settings::resolve).map_err(|error| error.to_string())?;
    options.connection().check_server(&share.server).map_err(|error| error.to_string())?;
    Ok(At { share, connection: options.connection().clone() })
}

/// It becomes part of file names on shares only as a hash; that others can read it is its purpose.
fn parse_owner(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !text.is_empty() && text.len() <= 63 && text.chars().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("it must be 1 to 63 of A-Z, a-z, 0-9, '-', '_' and '.'".into()),
    }
}

/// CSI 1.13, GetPluginInfo: at most 63 characters, domain-name notation.
fn parse_driver_name(text: &str) -> Result<String, String> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = text.len() <= 63
        && text.chars().all(inside)
        && ends(text.chars().next())
        && ends(text.chars().last());
    if good {
        Ok(text.to_owned())
    } else {
        Err("it must look like a domain name of at most 63 characters".into())
    }
}

/// Two pools of one name, or one directory twice, would be two stores that know nothing of each other.
pub fn check_pools(pools: &[PoolConfig]) -> Result<(), String> {
    for (at, pool) in pools.iter().enumerate() {
        for other in &pools[..at] {
            if other.name == pool.name {
                return Err(format!("pool {:?} is given twice: give each pool a name of its own", pool.name));
            }
            if other.path.starts_with(&pool.path) || pool.path.starts_with(&other.path) {
                return Err(format!(
                    "pools {:?} and {:?} lie in each other: give each its own directory",
                    other.name, pool.name
                ));
            }
        }
    }
    Ok(())
}

/// What Kubernetes takes, and more than a host's name can have.
pub fn check_node_id(node_id: &str) -> Result<(), String> {
    match node_id.len() {
        1..=192 => Ok(()),
        _ => Err("--node-id must have 1 to 192 bytes".into()),
    }
}

/// One share twice would be listed twice.
pub fn check_shares(shares: &[At]) -> Result<(), String> {
    for (at, share) in shares.iter().enumerate() {
        if shares[..at].iter().any(|other| other.share == share.share) {
            return Err(format!("share {share} is given twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn pools() {
        let pool = parse_pool("fast=/mnt/fast,mounted").unwrap();
        assert_eq!(
            (pool.name.as_str(), pool.path.to_str().unwrap(), pool.mounted),
            ("fast", "/mnt/fast", true)
        );
        for bad in ["fast", "=/x", "Fast=/x", "a=x", "a/b=/x"] {
            assert!(parse_pool(bad).is_err(), "{bad}");
        }
        let of = |pairs: &[&str]| pairs.iter().map(|p| parse_pool(p).unwrap()).collect::<Vec<_>>();
        assert!(check_pools(&of(&["a=/x", "b=/y"])).is_ok());
        assert!(check_pools(&of(&["a=/x", "a=/y"])).is_err());
        assert!(check_pools(&of(&["a=/x", "b=/x/y"])).is_err());
    }

    #[test]
    fn shares() {
        let share = parse_share("nas.example:/export,vers=3,nolock,port=12049").unwrap();
        assert_eq!(share.share.to_string(), "nas.example:/export");
        assert_eq!(share.connection.to_string(), "vers=3,port=12049");
        assert!(parse_share("[fd00::1]:/a").unwrap().connection.to_string().is_empty());
        for bad in ["", "nas", "nas:", "nas:export", "nas:/a,vers=9", "10.0.0.1:/a,proto=tcp6"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        let of = |all: &[&str]| all.iter().map(|one| parse_share(one).unwrap()).collect::<Vec<_>>();
        assert!(check_shares(&of(&["nas:/a", "nas:/b"])).is_ok());
        assert!(check_shares(&of(&["nas:/a", "nas:/b", "nas:/a/,vers=3"])).is_err());
        assert!(parse_owner("cluster-1").is_ok());
        for bad in ["", "a b", "a/b", &"a".repeat(64)] {
            assert!(parse_owner(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn driver_names() {
        assert!(parse_driver_name("wharf.csi.dev").is_ok());
        for bad in ["", ".a", "a.", "a/b", &"a".repeat(64)] {
            assert!(parse_driver_name(bad).is_err(), "{bad}");
        }
    }
}

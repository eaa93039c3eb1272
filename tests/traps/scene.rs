//! A pool, a driver on it, an orchestrator's directories and a client, in the state that most traps start from.

use crate::support::{
    MIB,
    co::{Co, Spec, csi, file_in},
    data::{bytes, sha256_head, write_direct, write_durably},
    driver::Driver,
    host::{self, Loop},
    places::Places,
    pool::{Kind, Pool},
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};
use tonic::{Code, Status};
use wharf::os::mountinfo::{self, Mount};

/// A driver with one pool. Dropped in this order: the driver ends before its mounts are taken away.
#[derive(Debug)]
pub struct Scene {
    pub co: Co,
    pub driver: Driver,
    pub places: Places,
    pub pool: Pool,
}

/// A volume and where the orchestrator has it.
#[derive(Clone)]
pub struct Volume {
    pub id: String,
    pub spec: Spec,
    pub staging: PathBuf,
    pub target: PathBuf,
}

impl Scene {
    pub fn new(kind: Kind, size: u64) -> Self {
        Self::on(Pool::new(kind, size))
    }

    pub fn on(pool: Pool) -> Self {
        let driver = Driver::start(&[("default", pool.path())], &[]);
        Self { co: driver.co(), driver, places: Places::new(), pool }
    }

    /// kill -9 and a new process.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// As [`Scene::restart`], with an environment.
    pub fn restart_with(&mut self, environment: &[(&str, &str)]) {
        self.driver.kill();
        self.driver = Driver::start(&[("default", self.pool.path())], environment);
        self.co = self.driver.co();
    }

    /// kill -9, and a process that ends itself at a failpoint; `call` has to lead there.
    pub fn killed_at(&mut self, point: &str, call: impl FnOnce(&mut Self)) {
        self.restart_with(&[("WHARF_FAILPOINT", &format!("{point}=kill"))]);
        call(self);
        assert!(self.driver.wait_exit(Duration::from_secs(10)).is_some(), "{point} was not reached");
        self.restart();
    }

    /// A new volume.
    pub fn create(&mut self, name: &str, spec: &Spec) -> Volume {
        let made = self.co.create(name, spec).unwrap_or_else(|e| panic!("creating {name}: {e}"));
        self.volume(&made.volume_id, name, spec)
    }

    /// What the orchestrator knows of a volume.
    pub fn volume(&self, id: &str, name: &str, spec: &Spec) -> Volume {
        Volume {
            id: id.to_owned(),
            spec: spec.clone(),
            staging: self.places.staging(name),
            target: self.places.target(name),
        }
    }

    /// Created, staged and published.
    pub fn running(&mut self, name: &str, spec: &Spec) -> Volume {
        let volume = self.create(name, spec);
        self.start(&volume);
        volume
    }

    /// Stage and Publish.
    pub fn start(&mut self, volume: &Volume) {
        patiently(|| self.stage(volume));
        patiently(|| self.publish(volume));
    }

    /// Unpublish and Unstage.
    pub fn stop(&mut self, volume: &Volume) {
        patiently(|| self.unpublish(volume));
        patiently(|| self.unstage(volume));
    }

    pub fn stage(&mut self, volume: &Volume) -> Result<(), Status> {
        self.co.stage(&volume.id, &volume.staging, &volume.spec)
    }

    pub fn unstage(&mut self, volume: &Volume) -> Result<(), Status> {
        self.co.unstage(&volume.id, &volume.staging)
    }

    pub fn publish(&mut self, volume: &Volume) -> Result<(), Status> {
        self.publish_at(volume, &volume.target, false)
    }

    pub fn publish_at(&mut self, volume: &Volume, target: &Path, read_only: bool) -> Result<(), Status> {
        self.co.publish(&volume.id, &volume.staging, target, &volume.spec, read_only)
    }

    pub fn unpublish(&mut self, volume: &Volume) -> Result<(), Status> {
        self.co.unpublish(&volume.id, &volume.target)
    }

    /// `volumes/<uuid>` of the pool.
    pub fn home_of(&self, volume: &Volume) -> PathBuf {
        self.pool.path().join("volumes").join(key_of(&volume.id))
    }

    /// The volume's image on the pool.
    pub fn image_of(&self, volume: &Volume) -> PathBuf {
        self.home_of(volume).join("data/disk.img")
    }

    /// All loops that have to do with the pool's volumes.
    pub fn loops(&self) -> Vec<Loop> {
        host::loops_below(self.pool.path())
    }

    /// The loops on one volume's image.
    pub fn loops_of(&self, volume: &Volume) -> Vec<Loop> {
        let image = self.image_of(volume);
        self.loops().into_iter().filter(|each| each.backing == image).collect()
    }

    /// The one loop on a volume's image.
    pub fn loop_of(&self, volume: &Volume) -> Loop {
        let mut found = self.loops_of(volume);
        assert_eq!(found.len(), 1, "one loop on an image: {found:?}");
        found.remove(0)
    }

    /// Available bytes as GetCapacity tells for a class.
    pub fn capacity(&mut self, spec: &Spec) -> i64 {
        self.co.capacity(spec).unwrap().available_capacity
    }

    /// What NodeGetVolumeHealth and ControllerGetVolumeHealth report, as (status, reason) without order.
    pub fn health(&mut self, volume: &Volume) -> Health {
        let node = csi::NodeGetVolumeHealthRequest {
            volume_id: volume.id.clone(),
            volume_publish_path: volume.target.display().to_string(),
            staging_target_path: volume.staging.display().to_string(),
        };
        let controller =
            csi::ControllerGetVolumeHealthRequest { volume_id: volume.id.clone(), ..Default::default() };
        let list = csi::ControllerListVolumeHealthRequest::default();
        let node = self.co.call(|mut c| async move { c.node.node_get_volume_health(node).await }).unwrap();
        let controller =
            self.co.call(|mut c| async move { c.controller.controller_get_volume_health(controller).await });
        let list = self
            .co
            .call(|mut c| async move { c.controller.controller_list_volume_health(list).await })
            .unwrap();
        Health {
            node: ailments(node.volume_health.unwrap()),
            controller: ailments(controller.unwrap().volume_health.unwrap()),
            listed: list
                .entries
                .into_iter()
                .find(|entry| entry.volume_id == volume.id)
                .map_or(Vec::new(), ailments),
        }
    }

    /// Nobody knows the volume any more.
    pub fn health_of_none(&mut self, id: &str) -> bool {
        let request =
            csi::ControllerGetVolumeHealthRequest { volume_id: id.to_owned(), ..Default::default() };
        let answer =
            self.co.call(|mut c| async move { c.controller.controller_get_volume_health(request).await });
        answer.is_err_and(|status| status.code() == Code::NotFound)
    }

    /// What NodeGetStorageHealth reports.
    pub fn storage_health(&mut self) -> Vec<(String, String)> {
        let request = csi::NodeGetStorageHealthRequest::default();
        let answer =
            self.co.call(|mut c| async move { c.node.node_get_storage_health(request).await }).unwrap();
        let name =
            |status: i32| csi::StorageHealthErrorType::try_from(status).unwrap().as_str_name().to_owned();
        answer.backend_health.into_iter().map(|entry| (name(entry.status), entry.reason)).collect()
    }
}

/// What the three RPCs say of one volume: reasons with their severity, such as `DATA_LOSS ImageMissing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub node: Vec<String>,
    pub controller: Vec<String>,
    pub listed: Vec<String>,
}

impl Health {
    /// Nobody complains.
    pub fn is_good(&self) -> bool {
        self.node.is_empty() && self.controller.is_empty() && self.listed.is_empty()
    }
}

fn ailments(health: csi::VolumeHealth) -> Vec<String> {
    let line = |entry: csi::volume_health::VolumeHealthEntry| {
        assert!(!entry.message.is_empty(), "{} says nothing", entry.reason);
        let status = csi::VolumeHealthErrorType::try_from(entry.status).unwrap().as_str_name();
        format!("{status} {}", entry.reason)
    };
    health.health_statuses.into_iter().map(line).collect()
}

/// As an orchestrator does: ABORTED is answered by the same call again. Another program on the machine may
/// look at a device just then, or have copied all mounts into a namespace of its own.
#[track_caller]
fn patiently(mut call: impl FnMut() -> Result<(), Status>) {
    for _ in 0..10 {
        match call() {
            Err(status) if status.code() == Code::Aborted => thread::sleep(Duration::from_millis(200)),
            answer => return answer.unwrap(),
        }
    }
    call().unwrap();
}

/// The uuid in an id.
pub fn key_of(id: &str) -> &str {
    let rest = id.strip_prefix("local-").unwrap();
    rest.strip_prefix("snap-").unwrap_or(rest).split('.').next().unwrap()
}

/// Nothing is skipped quietly.
pub fn require_failpoints() {
    if !cfg!(feature = "failpoints") {
        panic!("this test strikes failpoints, which only a build with `--features failpoints` has");
    }
}

/// The message of an answer that must be this code.
#[track_caller]
pub fn refused<T>(answer: Result<T, Status>, code: Code) -> String {
    match answer {
        Ok(_) => panic!("answered OK instead of {code:?}"),
        Err(status) => {
            assert_eq!(status.code(), code, "{}", status.message());
            status.message().to_owned()
        }
    }
}

/// The mount on top at a path.
#[track_caller]
pub fn mount_at(path: &Path) -> Mount {
    mountinfo::at(path).unwrap().unwrap_or_else(|| panic!("{} is no mount", path.display()))
}

pub fn is_mounted(path: &Path) -> bool {
    mountinfo::is_mount_root(path).unwrap() == Some(true)
}

/// Opens for writing, writes and syncs 4 KiB at the start: an error is the kernel's refusal.
pub fn try_write(device: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The first bytes, as a pod reads them.
pub fn head(device: &Path, length: usize) -> Vec<u8> {
    let mut buffer = vec![0; length];
    let file = fs::File::open(device).unwrap_or_else(|e| panic!("{}: {e}", device.display()));
    file.read_exact_at(&mut buffer, 0).unwrap();
    buffer
}

/// A shell script in a mount namespace of its own. Of all that tests have mounted only what is at `keep`
/// is seen there: a copy of another test's mount would keep that test's filesystem alive.
pub fn apart(keep: &Path, script: &str) -> Command {
    let forget = "for point in $(cut -d ' ' -f 5 /proc/self/mountinfo); do
            case $point in \"$KEEP\"*) ;; */wharf-*) others=\"$others $point\" ;; esac
        done
        [ -z \"$others\" ] || umount -l $others 2>/dev/null
        unset KEEP others
        ";
    let mut command = Command::new("unshare");
    command
        .env("KEEP", keep)
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("{forget}{script}"))
        .arg("sh");
    command
}

/// A block volume of so many MiB.
pub fn block(mib: u64) -> Spec {
    Spec::block().size(mib * MIB)
}

/// Puts a mebibyte of the seed's bytes into a published volume, durably.
pub fn write(volume: &Volume, seed: u64) {
    let content = bytes(seed, 1 << 20);
    match volume.spec.block {
        true => write_direct(&volume.target, 0, &content),
        false => write_durably(&volume.target.join("f"), &content),
    }
}

/// The checksum of what [`write`] put there.
pub fn read(volume: &Volume) -> String {
    sha256_head(&file_in(&volume.target, &volume.spec, "f"), 1 << 20)
}

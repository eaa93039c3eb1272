//! A driver on a node that is ended between any two side effects on a volume of a share: the same request makes it
//! good, and nothing is left when the volume has gone.

use crate::{
    crash::in_source,
    guest::{A, Corner},
    node::{Pv, World, patiently},
};
use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tonic::Status;

/// What is asked of a driver that ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Stage,
    /// The server no longer has what is staged.
    StageAnew,
    Publish,
    /// The same, found out by Publish.
    PublishAnew,
    /// It is published, too.
    RepublishAnew,
    Unpublish,
    Unstage,
}
use Operation::*;

const ALL: [Operation; 7] = [Stage, StageAnew, Publish, PublishAnew, RepublishAnew, Unpublish, Unstage];

/// A volume on a node, and the files by which the driver's failpoints are armed and told.
struct Rig {
    world: World,
    pv: Pv,
    corner: Corner,
    directory: TempDir,
}

impl Rig {
    fn new(version: &str, exclusive: bool) -> Self {
        let name = format!("ends-{version}-{exclusive}");
        let corner = Corner::new(A, "xfs", &name);
        let mut pv = Pv::of(A, "xfs", &format!("{name}/d"), version);
        if exclusive {
            pv = pv.with("exclusive", "true");
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("armed"), "").unwrap();
        let world = World::with(&environment(&directory));
        Self { world, pv, corner, directory }
    }

    fn arm(&self, point: &str) {
        fs::write(self.directory.path().join("armed"), format!("{point}=kill")).unwrap();
    }

    fn points(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("points")).unwrap_or_default();
        text.lines().filter(|point| point.starts_with("share-node.")).map(str::to_owned).collect()
    }

    /// What a pod would see.
    fn content(&self) -> PathBuf {
        self.corner.0.join("d/content")
    }

    fn target(&self) -> PathBuf {
        self.world.places.target("pod")
    }

    fn prepare(&mut self, operation: Operation) {
        let inside = self.corner.0.join("d");
        fs::create_dir(&inside).unwrap();
        let Self { world, pv, .. } = self;
        if operation != Stage {
            patiently(|| world.stage(pv));
        }
        if matches!(operation, RepublishAnew | Unpublish) {
            patiently(|| world.publish(pv, "pod", false));
        }
        if matches!(operation, StageAnew | PublishAnew | RepublishAnew) {
            fs::remove_dir(&inside).unwrap();
            // What is made next has another inode.
            fs::create_dir(self.corner.0.join("between")).unwrap();
            fs::create_dir(&inside).unwrap();
            fs::remove_dir(self.corner.0.join("between")).unwrap();
        }
        fs::write(self.content(), "x").unwrap();
    }

    fn perform(&mut self, operation: Operation) -> Result<(), Status> {
        let (pv, target) = (self.pv.clone(), self.target());
        match operation {
            Stage | StageAnew => self.world.stage(&pv),
            Publish | PublishAnew | RepublishAnew => self.world.publish(&pv, "pod", false).map(drop),
            Unpublish => self.world.co.unpublish(&pv.handle, &target),
            Unstage => self.world.unstage(&pv),
        }
    }

    /// What is there now that the operation has gone well.
    fn assert_done(&self, operation: Operation, context: &str) {
        let (staged, published) = match operation {
            Stage | StageAnew | Unpublish => (1, 0),
            Publish | PublishAnew | RepublishAnew => (1, 1),
            Unstage => (0, 0),
        };
        let mounts = self.world.mounts();
        assert_eq!(mounts.len(), staged + published, "{context}: {mounts:?}");
        assert_eq!(self.target().exists(), published == 1, "{context}");
        let seen = |path: PathBuf| fs::read_to_string(path.join("content")).ok();
        assert_eq!(seen(self.world.staging()).is_some(), staged == 1, "{context}");
        assert_eq!(seen(self.target()).is_some(), published == 1, "{context}");
    }

    fn clean_up(&mut self) {
        let (pv, target) = (self.pv.clone(), self.target());
        self.world.co.unpublish(&pv.handle, &target).unwrap();
        self.world.unstage(&pv).unwrap();
        assert_eq!(self.world.mounts(), []);
        assert!(!target.exists() && self.content().exists());
        fs::remove_file(self.content()).unwrap();
        fs::remove_dir(self.corner.0.join("d")).unwrap();
    }

    /// The points that an operation reaches when nothing disturbs it.
    fn reference(&mut self, operation: Operation) -> BTreeSet<String> {
        self.prepare(operation);
        let before = self.points().len();
        patiently(|| self.perform(operation));
        let reached = self.points().split_off(before).into_iter().collect();
        self.assert_done(operation, "undisturbed");
        self.clean_up();
        reached
    }

    fn strike(&mut self, operation: Operation, point: &str) {
        let context = format!("{operation:?} of {} ended at {point}", self.pv.handle);
        println!("ends: {context}");
        self.prepare(operation);
        self.arm(point);
        self.perform(operation).unwrap_err();
        let ended = self.world.driver.wait_exit(Duration::from_secs(20)).unwrap();
        assert_eq!(ended.signal(), Some(libc::SIGKILL), "{context}: {ended:?}");
        self.world.restart(&environment(&self.directory));
        for _ in 0..2 {
            patiently(|| self.perform(operation));
            self.assert_done(operation, &context);
        }
        self.clean_up();
    }
}

fn environment(directory: &TempDir) -> [(&'static str, String); 2] {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    [("WHARF_FAILPOINT_FILE", path("armed")), ("WHARF_FAILPOINT_LOG", path("points"))]
}

#[test]
fn a_driver_that_ends_on_a_node_leaves_no_trace() {
    let mut struck = BTreeSet::new();
    for (version, exclusive) in [("4.2", false), ("3", true)] {
        let mut rig = Rig::new(version, exclusive);
        for operation in ALL {
            for point in rig.reference(operation) {
                rig.strike(operation, &point);
                struck.insert(point);
            }
        }
    }
    assert_eq!(struck, in_source("src/service/nfs", "share-node."), "points that no operation reaches");
}

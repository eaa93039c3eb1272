//! What an orchestrator knows: which volumes it has made, where it has put them, what is in them.

use crate::support::{
    MIB,
    co::{Co, Spec},
    data, host,
    places::Places,
};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tonic::{Code, Status};

/// Bytes of data in each volume.
const DATA: usize = 256 << 10;
/// How long an ABORTED is answered with the same call again.
const PATIENCE: Duration = Duration::from_secs(20);
/// What an expansion adds, and what a restore "with growth" has more than its source.
pub const GROWTH: u64 = 24 * MIB;

/// One call of an orchestrator, or one thing that a pod does. They are about volume `a`, its snapshot
/// `s`, and `b`, which is made from either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The driver starts on an empty directory.
    Start,
    Create,
    Stage,
    Publish {
        read_only: bool,
    },
    /// A pod writes and syncs.
    Write,
    /// A pod makes a btrfs subvolume in its directory.
    Nest,
    Unpublish,
    Unstage,
    Delete,
    Expand,
    ExpandNode,
    Snapshot,
    DeleteSnapshot,
    /// `b` from `s`.
    Restore {
        grown: bool,
    },
    /// `b` from `a`.
    Clone,
    /// Somebody detaches a loop device behind the driver's back.
    LoseLoop,
    /// A call that a kill at this point has cut short.
    Interrupted(&'static str, &'static Step),
}

impl Step {
    /// Whether the orchestrator, when the node has gone down, calls this first and only then brings up
    /// what ran there.
    pub fn takes_down(self) -> bool {
        matches!(self, Self::Unpublish | Self::Unstage)
    }
}

/// A volume as the orchestrator knows it.
#[derive(Clone)]
pub struct Volume {
    slot: &'static str,
    pub id: String,
    spec: Spec,
    size: u64,
    pub staged: bool,
    pub published: Option<bool>,
    data: Option<String>,
}

/// Everything of one scenario.
#[derive(Clone)]
pub struct Model {
    pub spec: Spec,
    a: Option<Volume>,
    b: Option<Volume>,
    s: Option<(String, Option<String>)>,
}

impl Model {
    pub fn new(spec: Spec) -> Self {
        Self { spec, a: None, b: None, s: None }
    }

    fn a(&mut self) -> &mut Volume {
        self.a.as_mut().expect("the scenario has created its volume")
    }

    /// Does it, and remembers what came of it. The text is the answer without what differs from run to run.
    pub fn perform(&mut self, step: Step, co: &mut Co, places: &Places) -> Result<String, Status> {
        let spec = self.spec.clone();
        match step {
            Step::Start => co.probe().map(|_| "ready".into()),
            Step::Create => {
                let made = co.create("a", &spec)?;
                let text = shown(&made);
                self.a = Some(Volume::new("a", made.volume_id, &spec, made.capacity_bytes));
                Ok(text)
            }
            Step::Clone => {
                let source = self.a().clone();
                let made = co.clone_volume("b", &spec, &source.id)?;
                self.derived(made, &spec, source.data)
            }
            Step::Restore { grown } => {
                let (id, data) = self.s.clone().expect("the scenario has cut its snapshot");
                let required = u64::try_from(spec.required).unwrap_or(0);
                let spec = if grown { spec.size(required + GROWTH) } else { spec };
                let made = co.restore("b", &spec, &id)?;
                self.derived(made, &spec, data)
            }
            Step::Snapshot => {
                let (id, data) = (self.a().id.clone(), self.a().data.clone());
                let cut = co.snapshot("s", &id)?;
                self.s = Some((cut.snapshot_id.clone(), data));
                Ok(format!("{} of {} {} ready {}", cut.snapshot_id, id, cut.size_bytes, cut.ready_to_use))
            }
            Step::DeleteSnapshot => {
                let id = self.s.clone().expect("the scenario has cut its snapshot").0;
                co.delete_snapshot(&id)?;
                self.s = None;
                Ok("deleted".into())
            }
            Step::Delete => {
                co.delete(&self.a().id.clone())?;
                self.a = None;
                Ok("deleted".into())
            }
            Step::Expand => {
                let volume = self.a();
                let wanted = volume.size_at_creation() + GROWTH;
                let answer = co.expand(&volume.id, wanted)?;
                volume.size = wanted;
                Ok(format!("{} node {}", answer.capacity_bytes, answer.node_expansion_required))
            }
            Step::ExpandNode => {
                let volume = self.a();
                let answer = co.expand_node(&volume.id, &places.target(volume.slot), volume.size)?;
                Ok(answer.capacity_bytes.to_string())
            }
            Step::Stage => self.a().stage(co, places),
            Step::Publish { read_only } => self.a().publish(co, places, read_only),
            Step::Unpublish => self.a().unpublish(co, places),
            Step::Unstage => self.a().unstage(co, places),
            Step::Write => {
                self.a().write(places);
                Ok("written".into())
            }
            Step::Nest => {
                let nested = places.target("a").join("nested");
                host::run("btrfs", ["subvolume".as_ref(), "create".as_ref(), nested.as_os_str()]);
                Ok("nested".into())
            }
            Step::Interrupted(..) | Step::LoseLoop => unreachable!("the rig does that"),
        }
    }

    fn derived(
        &mut self,
        made: wharf::rpc::csi::Volume,
        spec: &Spec,
        data: Option<String>,
    ) -> Result<String, Status> {
        let text = shown(&made);
        let volume = Volume::new("b", made.volume_id, spec, made.capacity_bytes);
        self.b = Some(Volume { data, ..volume });
        Ok(text)
    }

    /// A call of which there was no answer may have been done.
    pub fn assume(&mut self, step: Step) {
        match step {
            Step::Stage => self.a().staged = true,
            Step::Publish { read_only } => self.a().published = Some(read_only),
            _ => {}
        }
    }

    /// After the node has gone down: stages and publishes what was, as the orchestrator does.
    pub fn bring_up(&mut self, co: &mut Co, places: &Places) -> Result<(), Status> {
        for volume in [&mut self.a, &mut self.b].into_iter().flatten() {
            if volume.staged {
                volume.stage(co, places)?;
            }
            if let Some(read_only) = volume.published {
                volume.publish(co, places, read_only)?;
            }
        }
        Ok(())
    }

    /// Unpublishes and unstages everything, but remembers where it was.
    pub fn take_down(&mut self, co: &mut Co, places: &Places) -> Result<(), Status> {
        for volume in [&mut self.a, &mut self.b].into_iter().flatten() {
            let mut volume = volume.clone();
            if volume.published.is_some() {
                volume.unpublish(co, places)?;
            }
            if volume.staged {
                volume.unstage(co, places)?;
            }
        }
        Ok(())
    }

    /// What a pod sees in each volume, and in a volume restored from the snapshot. Leaves them published.
    pub fn observe(&mut self, co: &mut Co, places: &Places) -> Result<Vec<String>, String> {
        let mut seen = Vec::new();
        if let Some((id, data)) = self.s.clone() {
            let made =
                co.restore("check", &self.spec, &id).map_err(|e| format!("restoring the snapshot: {e}"))?;
            let volume = Volume::new("check", made.volume_id, &self.spec, made.capacity_bytes);
            let mut volume = Volume { data, ..volume };
            seen.push(volume.observe(co, places)?);
            volume.remove(co, places)?;
        }
        for volume in [&mut self.a, &mut self.b].into_iter().flatten() {
            seen.push(volume.observe(co, places)?);
        }
        Ok(seen)
    }

    /// Takes everything away, as the orchestrator does.
    pub fn clean_up(&mut self, co: &mut Co, places: &Places) -> Result<(), String> {
        for mut volume in [self.a.take(), self.b.take()].into_iter().flatten() {
            volume.remove(co, places)?;
        }
        if let Some((id, _)) = self.s.take() {
            co.delete_snapshot(&id).map_err(|e| format!("deleting the snapshot: {e}"))?;
        }
        // The orchestrator made the staging paths, and nothing may be left in them.
        for entry in fs::read_dir(places.path().join("staging")).unwrap().flatten() {
            fs::remove_dir(entry.path()).map_err(|e| format!("removing {}: {e}", entry.path().display()))?;
        }
        Ok(())
    }
}

impl Volume {
    fn new(slot: &'static str, id: String, spec: &Spec, size: i64) -> Self {
        let size = u64::try_from(size).unwrap_or(0);
        Self { slot, id, spec: spec.clone(), size, staged: false, published: None, data: None }
    }

    fn size_at_creation(&self) -> u64 {
        u64::try_from(self.spec.required).unwrap_or(0)
    }

    fn stage(&mut self, co: &mut Co, places: &Places) -> Result<String, Status> {
        co.stage(&self.id, &places.staging(self.slot), &self.spec)?;
        self.staged = true;
        Ok("staged".into())
    }

    fn publish(&mut self, co: &mut Co, places: &Places, read_only: bool) -> Result<String, Status> {
        let staging = places.staging(self.slot);
        co.publish(&self.id, &staging, &places.target(self.slot), &self.spec, read_only)?;
        self.published = Some(read_only);
        Ok("published".into())
    }

    fn unpublish(&mut self, co: &mut Co, places: &Places) -> Result<String, Status> {
        co.unpublish(&self.id, &places.target(self.slot))?;
        self.published = None;
        Ok("unpublished".into())
    }

    fn unstage(&mut self, co: &mut Co, places: &Places) -> Result<String, Status> {
        let staging = places.staging(self.slot);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match co.unstage(&self.id, &staging) {
                // A mount namespace that somebody else has just made may have a copy of our mount.
                Err(status) if status.code() == Code::Aborted && Instant::now() < deadline => {}
                answer => break answer?,
            }
        }
        self.staged = false;
        Ok("unstaged".into())
    }

    fn file(&self, places: &Places) -> PathBuf {
        let target = places.target(self.slot);
        if self.spec.block { target } else { target.join("data") }
    }

    fn write(&mut self, places: &Places) {
        let content = data::bytes(7, DATA);
        if self.spec.block {
            data::write_direct(&self.file(places), 0, &content);
        } else {
            let directory = places.target(self.slot).join("more");
            fs::create_dir(&directory).unwrap();
            data::write_durably(&directory.join("other"), &content[..5000]);
            data::write_durably(&self.file(places), &content);
        }
        self.data = Some(data::sha256_head(&self.file(places), DATA as u64));
    }

    /// Reads it where it is published, then again after staging it anew: a filesystem that grew offline,
    /// or a log that had to be replayed, shows only then.
    fn observe(&mut self, co: &mut Co, places: &Places) -> Result<String, String> {
        let failed = |what: &str, error: &Status| format!("{what} to look at a volume: {error}");
        if self.published.is_some() {
            self.check_data(places)?;
            self.unpublish(co, places).map_err(|e| failed("unpublishing", &e))?;
        }
        if self.staged {
            self.unstage(co, places).map_err(|e| failed("unstaging", &e))?;
        }
        self.stage(co, places).map_err(|e| failed("staging", &e))?;
        self.publish(co, places, false).map_err(|e| failed("publishing", &e))?;
        self.check_data(places)?;
        Ok(format!("{}: {}", self.slot, look(&places.target(self.slot), &self.spec)))
    }

    fn check_data(&self, places: &Places) -> Result<(), String> {
        let Some(expected) = &self.data else { return Ok(()) };
        let file = self.file(places);
        if !file.exists() {
            return Err(format!("volume {}: {} is gone", self.slot, file.display()));
        }
        let found = data::sha256_head(&file, DATA as u64);
        if found == *expected {
            Ok(())
        } else {
            Err(format!("volume {}: sha256 {found}, not {expected}", self.slot))
        }
    }

    fn remove(&mut self, co: &mut Co, places: &Places) -> Result<(), String> {
        let id = self.id.clone();
        let slot = self.slot;
        let failed = |what: &str, error: Status| format!("{what} volume {slot}: {error}");
        co.unpublish(&id, &places.target(slot)).map_err(|e| failed("unpublishing", e))?;
        self.unstage(co, places).map_err(|e| failed("unstaging", e))?;
        co.delete(&id).map_err(|e| failed("deleting", e))
    }
}

/// Size, owner and mode, as a pod sees them.
fn look(target: &Path, spec: &Spec) -> String {
    if spec.block {
        return format!("device of {} bytes", data::size(target));
    }
    let root = fs::metadata(target).unwrap();
    let mut names: Vec<_> = fs::read_dir(target).unwrap().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    // A directory shows its pool's figures.
    let directory = spec.parameters.iter().any(|(key, value)| key == "layout" && value == "directory");
    let blocks = if directory { 0 } else { rustix::fs::statfs(target).unwrap().f_blocks };
    format!("{blocks} blocks, {:o} {}:{}, {names:?}", root.mode(), root.uid(), root.gid())
}

fn shown(volume: &wharf::rpc::csi::Volume) -> String {
    format!("{volume:?}")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

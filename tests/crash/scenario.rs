//! The operations under test, each with what has to be there before it, for every layout.

use crate::{
    model::Step::{self, *},
    support::{MIB, co::Spec, pool::Kind},
};

/// One operation under test.
#[derive(Clone)]
pub struct Scenario {
    /// `layout/operation`.
    pub name: String,
    pub spec: Spec,
    /// What happened before.
    pub before: Vec<Step>,
    /// During which the process ends.
    pub operation: Step,
    /// On which pools it is possible.
    pub pools: Vec<Kind>,
}

impl Scenario {
    /// The first part of its name.
    pub fn layout(&self) -> &str {
        self.name.split_once('/').map_or(&*self.name, |(layout, _)| layout)
    }
}

/// All kinds of pools.
pub const POOLS: [Kind; 3] = [Kind::BtrfsQuota, Kind::Xfs, Kind::Ext4];

const RW: Step = Publish { read_only: false };
const RO: Step = Publish { read_only: true };
const ATTACHED: &[Step] = &[Create, Stage, RW, Write];
const DETACHED: &[Step] = &[Create, Stage, RW, Write, Unpublish, Unstage];

struct Layout {
    name: &'static str,
    spec: Spec,
    pools: &'static [Kind],
}

fn layouts() -> Vec<Layout> {
    let of = |name, spec| Layout { name, spec, pools: &POOLS };
    let owned = |spec: Spec| spec.owner(1000, 2000, "2770");
    vec![
        of("ext4", Spec::image("ext4").size(16 * MIB)),
        of("ext4-thin", owned(Spec::image("ext4").size(16 * MIB).thin())),
        of("xfs", owned(Spec::image("xfs").size(300 * MIB))),
        of("xfs-thin", Spec::image("xfs").size(300 * MIB).thin()),
        of("block", Spec::block().size(8 * MIB)),
        of("block-thin", Spec::block().size(8 * MIB).thin()),
        of("directory", owned(Spec::directory("advisory").size(16 * MIB))),
        Layout {
            name: "directory-limited",
            spec: Spec::directory("enforced").size(64 * MIB),
            pools: &[Kind::BtrfsQuota],
        },
    ]
}

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    for layout in layouts() {
        add_lives(&mut all, &layout);
        add_growth(&mut all, &layout);
        add_copies(&mut all, &layout);
        if layout.spec.block {
            add_interrupted(&mut all, &layout);
        }
    }
    all.push(Scenario {
        name: "store/start".into(),
        spec: Spec::new(),
        before: Vec::new(),
        operation: Start,
        pools: POOLS.to_vec(),
    });
    all
}

fn add(all: &mut Vec<Scenario>, layout: &Layout, name: &str, before: &[&[Step]], operation: Step) {
    all.push(Scenario {
        name: format!("{}/{name}", layout.name),
        spec: layout.spec.clone(),
        before: before.concat(),
        operation,
        pools: layout.pools.to_vec(),
    });
}

fn add_lives(all: &mut Vec<Scenario>, layout: &Layout) {
    let mut add = |name, before: &[&[Step]], operation| add(all, layout, name, before, operation);
    add("create", &[], Create);
    add("stage", &[DETACHED], Stage);
    add("publish", &[&[Create, Stage]], RW);
    add("publish-read-only", &[ATTACHED, &[Unpublish]], RO);
    add("unpublish", &[ATTACHED], Unpublish);
    add("unpublish-read-only", &[ATTACHED, &[Unpublish, RO]], Unpublish);
    add("unstage", &[ATTACHED, &[Unpublish]], Unstage);
    add("delete", &[DETACHED], Delete);
    if layout.name == "directory-limited" {
        add("delete-nested", &[ATTACHED, &[Nest, Unpublish, Unstage]], Delete);
    }
}

fn add_growth(all: &mut Vec<Scenario>, layout: &Layout) {
    let mut add = |name, before: &[&[Step]], operation| add(all, layout, name, before, operation);
    add("expand", &[DETACHED], Expand);
    add("expand-attached", &[ATTACHED], Expand);
    add("expand-node", &[ATTACHED, &[Expand]], ExpandNode);
    add("stage-grown", &[DETACHED, &[Expand]], Stage);
}

fn add_copies(all: &mut Vec<Scenario>, layout: &Layout) {
    let mut add = |name, before: &[&[Step]], operation| add(all, layout, name, before, operation);
    add("snapshot", &[DETACHED], Snapshot);
    add("delete-snapshot", &[DETACHED, &[Snapshot]], DeleteSnapshot);
    add("restore", &[DETACHED, &[Snapshot]], Restore { grown: false });
    add("restore-grown", &[DETACHED, &[Snapshot]], Restore { grown: true });
    add("clone", &[DETACHED], Clone);
    let live = Layout {
        name: layout.name,
        spec: layout.spec.clone(),
        // Where blocks cannot be shared, nobody may write meanwhile.
        pools: if layout.pools.len() > 1 { &[Kind::BtrfsQuota, Kind::Xfs] } else { layout.pools },
    };
    let mut add = |name, operation| self::add(all, &live, name, &[ATTACHED], operation);
    add("snapshot-live", Snapshot);
    add("clone-live", Clone);
}

/// What an earlier kill, or somebody else, has left is in the way of the next call.
fn add_interrupted(all: &mut Vec<Scenario>, layout: &Layout) {
    let mut add = |name, before: &[&[Step]], operation| add(all, layout, name, before, operation);
    let stage = Interrupted("stage.device-kept", &Stage);
    let publish = Interrupted("publish.stacked-kept", &RO);
    add("stage-again", &[DETACHED, &[stage]], Stage);
    add("unstage-instead", &[DETACHED, &[stage]], Unstage);
    add("publish-again", &[ATTACHED, &[Unpublish, publish]], RO);
    add("unpublish-instead", &[ATTACHED, &[Unpublish, publish]], Unpublish);
    add("unstage-too", &[ATTACHED, &[Unpublish, publish, Unpublish]], Unstage);
    add("stage-lost", &[DETACHED, &[Stage, LoseLoop]], Stage);
    add("publish-lost", &[ATTACHED, &[Unpublish, RO, LoseLoop]], RO);
    add("unpublish-lost", &[ATTACHED, &[Unpublish, RO, LoseLoop]], Unpublish);
}

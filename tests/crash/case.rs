//! One run: the operation with nothing in its way, or with the process ended at one point.

use crate::{
    model::{Model, Step},
    points::{Hit, read_log},
    rig::{End, Power, Rig},
    scenario::Scenario,
    support::{driver::Driver, inventory::Inventory, pool::Cut},
};
use std::fmt;
use tempfile::TempDir;
use tonic::Status;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9 at the point.
    Kill,
    /// And once more while the next process makes good for it: at its n-th point.
    KillTwice(u64),
    /// The power fails at the point.
    PowerCut,
    /// The power fails as soon as the answer is there; nothing is called again.
    PowerCutAfterAnswer,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill => f.write_str("kill"),
            Self::KillTwice(second) => write!(f, "kill twice (the second at point {second} of the recovery)"),
            Self::PowerCut => f.write_str("power cut"),
            Self::PowerCutAfterAnswer => f.write_str("power cut after the answer"),
        }
    }
}

/// How it goes when nothing disturbs.
pub struct Reference {
    /// The points that were reached, in order.
    pub hits: Vec<Hit>,
    answer: String,
    inventory: Inventory,
    /// After everything was unstaged and staged again, as after a reboot.
    rebooted: Inventory,
    seen: Vec<String>,
}

/// What one case did.
#[derive(Default)]
pub struct Done {
    /// Points at which the process ended.
    pub struck: Vec<String>,
    /// How many points the recovery reached.
    pub recovery: u64,
    /// The recovery ended before its second kill.
    pub too_short: bool,
}

pub type Result<T, E = String> = std::result::Result<T, E>;

/// A file that a driver logs its points to.
struct Log(TempDir);

impl Log {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> String {
        self.0.path().join("points").to_str().unwrap().to_owned()
    }

    fn hits(&self) -> Vec<Hit> {
        read_log(&self.0.path().join("points"))
    }
}

/// Runs the scenario without any failpoint.
pub fn reference(rig: &Rig, scenario: &Scenario) -> Result<Reference> {
    let model = rig.prepare(scenario)?;
    let log = Log::new();
    let end = rig.run(&model, scenario.operation, &[("WHARF_FAILPOINT_LOG", &log.path())], Power::Stays);
    let (answer, mut model, mut driver) = answered(end)?;
    let hits = log.hits();
    let inventory = rig.inventory();
    again(&mut model, rig, &mut driver)?;
    let rebooted = rig.inventory();
    let seen = observe(&mut model, rig, &mut driver)?;
    empty(&mut model, rig, &mut driver)?;
    Ok(Reference { hits, answer: shown(&answer), inventory, rebooted, seen })
}

/// Runs it with the process ended at `hit` (not looked at when the power fails after the answer).
pub fn run(
    rig: &mut Rig,
    scenario: &Scenario,
    reference: &Reference,
    kind: Kind,
    hit: &Hit,
    environment: &[(&str, &str)],
) -> Result<Done> {
    let model = rig.prepare(scenario)?;
    let action = if kind == Kind::PowerCut { "stop" } else { "kill" };
    let armed = hit.armed(action);
    let mut with_failpoint = environment.to_vec();
    let power = match kind {
        Kind::PowerCutAfterAnswer => Power::FailsAfterAnswer,
        _ => {
            with_failpoint.push(("WHARF_FAILPOINT", armed.as_str()));
            Power::Stays
        }
    };
    let end = rig.run(&model, scenario.operation, &with_failpoint, power);
    if !end.struck {
        return Err(format!(
            "{} was not reached a {}. time; the answer was {:?}",
            hit.point,
            hit.number,
            text(&end)
        ));
    }
    let mut done = Done { struck: vec![hit.point.clone()], ..Done::default() };
    match kind {
        Kind::Kill => recover(rig, scenario, reference, &model, &mut done)?,
        Kind::KillTwice(second) => {
            strike_again(rig, scenario, &model, second, &mut done);
            recover(rig, scenario, reference, &model, &mut done)?;
        }
        Kind::PowerCut => {
            let cut = end.cut.ok_or("the process ended before the power did")?;
            after_cut(rig, scenario, reference, model, cut)?;
        }
        Kind::PowerCutAfterAnswer => {
            let cut = end.cut.ok_or("the process ended before the power did")?;
            let (answer, model) = end.answer.ok_or("no answer")?;
            same("answer", &reference.answer, &shown(&answer))?;
            after_answered_cut(rig, reference, model, cut)?;
        }
    }
    Ok(done)
}

/// A new process, and the same call again.
fn recover(
    rig: &Rig,
    scenario: &Scenario,
    reference: &Reference,
    model: &Model,
    done: &mut Done,
) -> Result<()> {
    let log = Log::new();
    let end = rig.run(model, scenario.operation, &[("WHARF_FAILPOINT_LOG", &log.path())], Power::Stays);
    done.recovery = done.recovery.max(log.hits().len() as u64);
    let (answer, model, driver) = answered(end)?;
    conclude(rig, reference, Expected::Undisturbed, Some(&answer), model, driver)
}

/// A new process that is killed at its `second` point, if it has so many.
fn strike_again(rig: &Rig, scenario: &Scenario, model: &Model, second: u64, done: &mut Done) {
    let log = Log::new();
    let armed = format!("*@{second}=kill");
    let environment = [("WHARF_FAILPOINT_LOG", log.path()), ("WHARF_FAILPOINT", armed)];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let end = rig.run(model, scenario.operation, &environment, Power::Stays);
    let hits = log.hits();
    done.recovery = hits.len() as u64;
    done.too_short = !end.struck;
    if end.struck
        && let Some(last) = hits.last()
    {
        done.struck.push(last.point.clone());
    }
}

/// The node comes back; the orchestrator brings up what ran there, and calls again.
fn after_cut(
    rig: &mut Rig,
    scenario: &Scenario,
    reference: &Reference,
    mut model: Model,
    cut: Cut,
) -> Result<()> {
    rig.reboot(cut);
    let driver = rig.driver(&[]);
    let mut co = driver.co();
    if scenario.operation.takes_down() {
        let answer = model.clone().perform(scenario.operation, &mut co, &rig.places);
        same("answer after the reboot", &reference.answer, &shown(&answer))?;
    }
    model
        .bring_up(&mut co, &rig.places)
        .map_err(|e| format!("bringing up after the reboot: {e}\n{}", driver.log()))?;
    let answer = model.perform(scenario.operation, &mut co, &rig.places);
    drop(co);
    let mut driver = driver;
    // What was staged before the repeated call may show a size that only the next stage gives otherwise.
    again(&mut model, rig, &mut driver)?;
    if scenario.operation == Step::ExpandNode && answer.is_ok() {
        // Where growing has to wait for the next stage, that has been.
        return conclude(rig, reference, Expected::Rebooted, None, model, driver);
    }
    conclude(rig, reference, Expected::Rebooted, Some(&answer), model, driver)
}

/// The node comes back; what was answered must still be true.
fn after_answered_cut(rig: &mut Rig, reference: &Reference, mut model: Model, cut: Cut) -> Result<()> {
    rig.reboot(cut);
    let mut driver = rig.driver(&[]);
    let mut co = driver.co();
    model
        .bring_up(&mut co, &rig.places)
        .map_err(|e| format!("bringing up after the reboot: {e}\n{}", driver.log()))?;
    compare(&reference.rebooted, &rig.inventory(), "after the reboot")?;
    let seen = observe(&mut model, rig, &mut driver)?;
    same("what a pod sees", &format!("{:?}", reference.seen), &format!("{seen:?}"))?;
    empty(&mut model, rig, &mut driver)
}

/// Which inventory has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Undisturbed,
    Rebooted,
}

/// Same answer, same inventory, same data; and nothing stays behind.
pub fn conclude(
    rig: &Rig,
    reference: &Reference,
    expected: Expected,
    answer: Option<&Result<String, Status>>,
    mut model: Model,
    mut driver: Driver,
) -> Result<()> {
    let inventory = match expected {
        Expected::Undisturbed => &reference.inventory,
        Expected::Rebooted => &reference.rebooted,
    };
    let verdict = answer
        .map_or(Ok(()), |answer| same("answer", &reference.answer, &shown(answer)))
        .and_then(|()| compare(inventory, &rig.inventory(), "after the retry"))
        .and_then(|()| observe(&mut model, rig, &mut driver))
        .and_then(|seen| same("what a pod sees", &format!("{:?}", reference.seen), &format!("{seen:?}")))
        .and_then(|()| empty(&mut model, rig, &mut driver));
    verdict.map_err(|why| format!("{why}\nthe driver's log:\n{}", driver.log()))
}

fn answered(end: End) -> Result<(Result<String, Status>, Model, Driver)> {
    let log = end.driver.log();
    match end.answer {
        Some((answer, model)) if !end.struck => Ok((answer, model, end.driver)),
        _ => Err(format!("the driver ended although no failpoint was set, or gave no answer:\n{log}")),
    }
}

fn text(end: &End) -> Option<String> {
    end.answer.as_ref().map(|(answer, _)| shown(answer))
}

fn shown(answer: &Result<String, Status>) -> String {
    match answer {
        Ok(text) => text.clone(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn same(what: &str, expected: &str, found: &str) -> Result<()> {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected}\n   found {found}")) }
}

fn compare(expected: &Inventory, found: &Inventory, when: &str) -> Result<()> {
    let difference = expected.difference(found);
    if difference.is_empty() {
        return Ok(());
    }
    Err(format!("the inventory {when} differs (- expected, + found):\n{}", difference.join("\n")))
}

fn observe(model: &mut Model, rig: &Rig, driver: &mut Driver) -> Result<Vec<String>> {
    model.observe(&mut driver.co(), &rig.places)
}

/// Takes down what runs, and brings it up again.
fn again(model: &mut Model, rig: &Rig, driver: &mut Driver) -> Result<()> {
    let mut co = driver.co();
    model.take_down(&mut co, &rig.places).map_err(|e| format!("taking down: {e}"))?;
    model.bring_up(&mut co, &rig.places).map_err(|e| format!("bringing up again: {e}"))
}

/// The orchestrator takes everything away, after which nothing is left.
pub fn empty(model: &mut Model, rig: &Rig, driver: &mut Driver) -> Result<()> {
    model.clean_up(&mut driver.co(), &rig.places)?;
    compare(&rig.empty, &rig.inventory(), "after everything was taken away")
}

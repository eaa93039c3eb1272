//! Cases on one pool, one after the other, beside those on others.

use crate::{
    case::{self, Done, Kind, Reference},
    matrix::{MOST_FAILURES, Plan, Target},
    model::Step,
    points::Hit,
    rig::Rig,
    scenario::Scenario,
    support::pool,
    traced::{self, Call, Effect, Fault},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};
use wharf::error::panic_text;

/// A device that is lost behind the driver's back leaves a bind, which must not meet a device of the same number
/// that another lane makes: these cases are alone.
static DEVICES: RwLock<()> = RwLock::new(());

/// Lanes for each kind of pool.
const LANES: usize = 2;

/// A rig, references and results.
pub struct Lane {
    pool: pool::Kind,
    turn: usize,
    disk: PathBuf,
    rig: Option<Rig>,
    references: BTreeMap<usize, Arc<Reference>>,
    pub results: Results,
}

/// What has been seen.
#[derive(Default)]
pub struct Results {
    pub struck: BTreeSet<String>,
    pub counts: BTreeMap<&'static str, usize>,
    pub effects: BTreeMap<Effect, usize>,
    pub failures: Vec<String>,
}

impl Lane {
    /// All for that kind of pool; the pools lie on `disk`.
    pub fn all(pool: pool::Kind, disk: &Path) -> impl Iterator<Item = Self> {
        (0..LANES).map(move |turn| Self {
            pool,
            turn,
            disk: disk.to_owned(),
            rig: None,
            references: BTreeMap::new(),
            results: Results::default(),
        })
    }

    /// Each target is one lane's.
    pub fn takes(&self, target: &Target) -> bool {
        target.pool == self.pool && target.scenario % LANES == self.turn
    }

    /// How many scenarios have been run undisturbed.
    pub fn references(&self) -> usize {
        self.references.len()
    }

    /// Runs the scenario undisturbed, if it has not been, and gives the points that it reaches.
    pub fn record(&mut self, plan: &Plan, number: usize) -> Vec<Hit> {
        match self.reference(plan, number) {
            Ok(reference) => reference.hits.clone(),
            Err(why) => {
                self.fail(&self.describe(plan, number, "undisturbed", None), &why);
                Vec::new()
            }
        }
    }

    fn reference(&mut self, plan: &Plan, number: usize) -> Result<Arc<Reference>, String> {
        if let Some(reference) = self.references.get(&number) {
            return Ok(Arc::clone(reference));
        }
        let scenario = &plan.scenarios[number];
        let reference = Arc::new(self.on_rig(scenario, |rig| case::reference(rig, scenario))?);
        self.references.insert(number, Arc::clone(&reference));
        Ok(reference)
    }

    /// A failure leaves a rig in an unknown state: the next case gets a new one.
    fn on_rig<T>(
        &mut self,
        scenario: &Scenario,
        work: impl FnOnce(&mut Rig) -> Result<T, String>,
    ) -> Result<T, String> {
        let loses = scenario.before.contains(&Step::LoseLoop);
        let _alone = loses.then(|| DEVICES.write().unwrap_or_else(PoisonError::into_inner));
        let _beside = (!loses).then(|| DEVICES.read().unwrap_or_else(PoisonError::into_inner));
        let mut rig = self.rig.take().unwrap_or_else(|| Rig::new(&self.disk, self.pool));
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut rig)))
            .unwrap_or_else(|panic| Err(format!("the test panicked: {}", panic_text(&*panic))));
        if outcome.is_ok() {
            self.rig = Some(rig);
        }
        outcome
    }

    /// One case.
    pub fn case(
        &mut self,
        plan: &Plan,
        number: usize,
        kind: Kind,
        hit: &Hit,
        environment: &[(&str, &str)],
    ) -> Result<Done, String> {
        let reference = self.reference(plan, number)?;
        let scenario = &plan.scenarios[number];
        self.on_rig(scenario, |rig| case::run(rig, scenario, &reference, kind, hit, environment))
    }

    /// One case, which is counted and told about.
    pub fn count(&mut self, plan: &Plan, number: usize, kind: Kind, hit: &Hit) {
        let label = match kind {
            Kind::Kill => "kill",
            Kind::KillTwice(_) => "kill twice",
            Kind::PowerCut => "power cut",
            Kind::PowerCutAfterAnswer => "power cut after the answer",
        };
        let about = self.describe(plan, number, label, Some(hit));
        if !plan.is_wanted_case(&about) || self.is_hopeless() {
            return;
        }
        let start = Instant::now();
        let outcome = match kind {
            Kind::KillTwice(_) => self.kill_twice(plan, number, hit, &about),
            kind => self.case(plan, number, kind, hit, &[]),
        };
        *self.results.counts.entry(label).or_default() += 1;
        match outcome {
            Ok(done) => {
                self.results.struck.extend(done.struck);
                println!("ok {:.1} s {about}", start.elapsed().as_secs_f64());
            }
            Err(why) => self.fail(&about, &why),
        }
    }

    /// The second point is dealt among those that the recovery reaches; how many these are shows the first try.
    fn kill_twice(&mut self, plan: &Plan, number: usize, hit: &Hit, about: &str) -> Result<Done, String> {
        let guess = 1 + plan.deal.choose(about, 12) as u64;
        let first = self.case(plan, number, Kind::KillTwice(guess), hit, &[])?;
        if !first.too_short || first.recovery == 0 {
            return Ok(first);
        }
        let count = usize::try_from(first.recovery).unwrap_or(1);
        let second = 1 + plan.deal.choose(&format!("{about} again"), count) as u64;
        self.case(plan, number, Kind::KillTwice(second), hit, &[])
    }

    /// Faults at system calls of one scenario, drawn by lot.
    pub fn trace(&mut self, plan: &Plan, number: usize, rounds: usize) {
        let about = self.describe(plan, number, "traced", None);
        let scenario = &plan.scenarios[number];
        let recorded = self.reference(plan, number).and_then(|reference| {
            self.on_rig(scenario, |rig| traced::record(rig, scenario)).map(|calls| (reference, calls))
        });
        let (reference, calls) = match recorded {
            Ok(recorded) => recorded,
            Err(why) => return self.fail(&about, &why),
        };
        for round in 0..rounds {
            if self.is_hopeless() {
                return;
            }
            let fault = [Fault::Kill, Fault::Fail("EIO"), Fault::Fail("ENOSPC")][round % 3];
            let Some(call) = draw(plan, scenario, &calls, fault, &format!("{about} {round}")) else { return };
            let about = format!("{about}: {fault:?} at {call}");
            if !plan.is_wanted_case(&about) {
                continue;
            }
            match self.on_rig(scenario, |rig| traced::run(rig, scenario, &reference, call, fault)) {
                Ok(effect) => {
                    println!("ok {effect:?} {about}");
                    *self.results.effects.entry(effect).or_default() += 1;
                }
                Err(why) => self.fail(&about, &why),
            }
        }
    }

    fn describe(&self, plan: &Plan, number: usize, how: &str, hit: Option<&Hit>) -> String {
        let name = &plan.scenarios[number].name;
        match hit {
            Some(hit) => format!("{name} on {:?}, {how} at {}@{}", self.pool, hit.point, hit.number),
            None => format!("{name} on {:?}, {how}", self.pool),
        }
    }

    fn is_hopeless(&self) -> bool {
        self.results.failures.len() >= MOST_FAILURES
    }

    fn fail(&mut self, about: &str, why: &str) {
        println!("FAILED {about}: {why}");
        self.results.failures.push(format!("{about}: {why}"));
    }
}

/// A call at which that fault may happen.
fn draw<'a>(
    plan: &Plan,
    scenario: &Scenario,
    calls: &'a [Call],
    fault: Fault,
    about: &str,
) -> Option<&'a Call> {
    // An error of write(2) would be one of the runtime's own pipes. And resize2fs writes the superblock
    // in place, field by field with its checksum last, without a backup in small filesystems: killed
    // within those microseconds, or told that they did not reach the disk, it leaves one that needs
    // `e2fsck -y`, which nobody can decide for it.
    let in_place = scenario.name.ends_with("stage-grown");
    let names: BTreeSet<_> = calls.iter().map(|call| call.name.as_str()).collect();
    let names: Vec<_> = names
        .into_iter()
        .filter(|name| match fault {
            Fault::Kill => !in_place || *name != "write",
            Fault::Fail(_) => *name != "write" && !(in_place && *name == "fsync"),
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let name = names[plan.deal.choose(about, names.len())];
    let candidates: Vec<_> = calls.iter().filter(|call| call.name == name).collect();
    Some(candidates[plan.deal.choose(&format!("{about} {name}"), candidates.len())])
}

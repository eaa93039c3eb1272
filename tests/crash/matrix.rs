//! Which cases run, and what is said about them.

use crate::{
    case::{self, Done, Kind, Reference},
    points::{self, Deal, Hit},
    rig::Rig,
    scenario::{self, Scenario},
    support::pool::{self, Pool},
    traced::{self, Effect, Fault},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Instant,
};

/// Of the filesystem that holds the pools' images; sparse.
const DISK: u64 = 64 << 30;
/// After so many failures the rest would say nothing new.
const MOST_FAILURES: usize = 12;

/// A scenario on a kind of pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub scenario: usize,
    pub pool: pool::Kind,
}

/// Rigs, references and results of one test.
pub struct Matrix {
    scenarios: Vec<Scenario>,
    deal: Deal,
    rigs: BTreeMap<pool::Kind, Rig>,
    references: BTreeMap<Target, Rc<Reference>>,
    struck: BTreeSet<String>,
    counts: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
    /// Set: only scenarios, or cases, of this description.
    only: [Option<String>; 2],
    // Last: the rigs' pools lie on it.
    disk: Pool,
}

impl Matrix {
    pub fn new() -> Self {
        Self {
            scenarios: scenario::all(),
            deal: Deal::new(),
            rigs: BTreeMap::new(),
            references: BTreeMap::new(),
            struck: BTreeSet::new(),
            counts: BTreeMap::new(),
            failures: Vec::new(),
            only: ["WHARF_CRASH_SCENARIO", "WHARF_CRASH_CASE"].map(|name| env::var(name).ok()),
            disk: Pool::new(pool::Kind::Xfs, DISK),
        }
    }

    pub fn find(&self, name: &str) -> usize {
        self.scenarios.iter().position(|scenario| scenario.name == name).expect("a scenario of that name")
    }

    /// Runs the matrix; panics with all failures at the end.
    pub fn run(mut self) {
        let start = Instant::now();
        let registry = points::in_source();
        let full = env::var("WHARF_TEST_FULL").is_ok_and(|value| value == "1") || self.is_partial();
        println!(
            "{} failpoints, {} scenarios, commit {}",
            registry.len(),
            self.scenarios.len(),
            self.deal.commit()
        );
        let reached = self.record(full, &registry.keys().cloned().collect());
        println!("{} references in {:.0} s", self.references.len(), start.elapsed().as_secs_f64());
        if self.is_partial() {
            self.run_wanted(&reached);
        } else if full {
            self.run_everything(&reached);
        } else {
            self.run_dealt(&reached);
        }
        self.report(&registry.keys().cloned().collect(), start);
    }

    /// Runs scenarios undisturbed: in full on every pool, else on one dealt pool each, and on more of them
    /// while failpoints are left that none has reached. Gives where each point is reached.
    fn record(&mut self, full: bool, registry: &BTreeSet<String>) -> BTreeMap<String, Vec<(Target, Hit)>> {
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for (number, scenario) in self.scenarios.iter().enumerate() {
            let dealt = self.deal.choose(&scenario.name, scenario.pools.len());
            for (at, pool) in scenario.pools.iter().enumerate() {
                let target = Target { scenario: number, pool: *pool };
                if !self.is_wanted(&target) {
                    continue;
                }
                if full || at == dealt { first.push(target) } else { later.push(target) }
            }
        }
        let mut reached: BTreeMap<String, Vec<(Target, Hit)>> = BTreeMap::new();
        for target in first {
            self.record_one(target, &mut reached);
        }
        for target in later {
            if registry.iter().all(|point| reached.contains_key(point)) {
                break;
            }
            self.record_one(target, &mut reached);
        }
        reached
    }

    fn record_one(&mut self, target: Target, reached: &mut BTreeMap<String, Vec<(Target, Hit)>>) {
        let about = self.describe(&target, "undisturbed", None);
        match self.reference(&target) {
            Ok(reference) => {
                for hit in &reference.hits {
                    reached.entry(hit.point.clone()).or_default().push((target, hit.clone()));
                }
            }
            Err(why) => self.fail(&about, &why),
        }
    }

    fn reference(&mut self, target: &Target) -> Result<Rc<Reference>, String> {
        if let Some(reference) = self.references.get(target) {
            return Ok(Rc::clone(reference));
        }
        let scenario = self.scenarios[target.scenario].clone();
        let reference = self.on_rig(target.pool, |rig| case::reference(rig, &scenario))?;
        let reference = Rc::new(reference);
        self.references.insert(*target, Rc::clone(&reference));
        Ok(reference)
    }

    /// A failure leaves a rig in an unknown state: the next case gets a new one.
    fn on_rig<T>(
        &mut self,
        pool: pool::Kind,
        work: impl FnOnce(&mut Rig) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut rig = match self.rigs.remove(&pool) {
            Some(rig) => rig,
            None => Rig::new(self.disk.path(), pool),
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut rig)))
            .unwrap_or_else(|panic| Err(format!("the test panicked: {}", panic_text(&*panic))));
        if outcome.is_ok() {
            self.rigs.insert(pool, rig);
        }
        outcome
    }

    /// One case.
    pub fn case(
        &mut self,
        target: &Target,
        kind: Kind,
        hit: &Hit,
        environment: &[(&str, &str)],
    ) -> Result<Done, String> {
        let reference = self.reference(target)?;
        let scenario = self.scenarios[target.scenario].clone();
        self.on_rig(target.pool, |rig| case::run(rig, &scenario, &reference, kind, hit, environment))
    }

    /// Faults at system calls, drawn by lot.
    pub fn run_traced(mut self) {
        let start = Instant::now();
        let full = env::var("WHARF_TEST_FULL").is_ok_and(|value| value == "1");
        let names = [
            "ext4/create",
            "ext4/clone-live",
            "ext4-thin/restore-grown",
            "ext4/stage-grown",
            "xfs/snapshot-live",
            "xfs/stage",
            "block/publish-read-only",
            "block/unpublish-read-only",
            "block/unstage",
            "block/expand-attached",
            "directory/snapshot",
            "directory-limited/create",
            "directory-limited/delete-nested",
        ];
        let mut effects: BTreeMap<Effect, usize> = BTreeMap::new();
        for name in names {
            let number = self.find(name);
            let pools = self.scenarios[number].pools.clone();
            let dealt = pools[self.deal.choose(&format!("{name} traced"), pools.len())];
            for pool in pools.into_iter().filter(|pool| full || *pool == dealt) {
                let target = Target { scenario: number, pool };
                if self.is_wanted(&target) {
                    self.trace(&target, if full { 30 } else { 6 }, &mut effects);
                }
            }
        }
        println!("{effects:?}, {} failed, {:.0} s", self.failures.len(), start.elapsed().as_secs_f64());
        assert!(self.failures.is_empty(), "{} failed:\n{}", self.failures.len(), self.failures.join("\n\n"));
        let killed = effects.get(&Effect::Killed).copied().unwrap_or(0);
        assert!(self.is_partial() || killed > 0, "nothing was killed: does strace work here?");
    }

    fn trace(&mut self, target: &Target, rounds: usize, effects: &mut BTreeMap<Effect, usize>) {
        let about = self.describe(target, "traced", None);
        let scenario = self.scenarios[target.scenario].clone();
        let recorded = self.reference(target).and_then(|reference| {
            self.on_rig(target.pool, |rig| traced::record(rig, &scenario)).map(|calls| (reference, calls))
        });
        let (reference, calls) = match recorded {
            Ok(recorded) => recorded,
            Err(why) => return self.fail(&about, &why),
        };
        for round in 0..rounds {
            let fault = [Fault::Kill, Fault::Fail("EIO"), Fault::Fail("ENOSPC")][round % 3];
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
            if names.is_empty() || self.failures.len() >= MOST_FAILURES {
                return;
            }
            let name = names[self.deal.choose(&format!("{about} {round}"), names.len())];
            let candidates: Vec<_> = calls.iter().filter(|call| call.name == name).collect();
            let call = candidates[self.deal.choose(&format!("{about} {round} {name}"), candidates.len())];
            let about = format!("{about}: {fault:?} at {call}");
            if self.only[1].as_ref().is_some_and(|only| !about.contains(only)) {
                continue;
            }
            match self.on_rig(target.pool, |rig| traced::run(rig, &scenario, &reference, call, fault)) {
                Ok(effect) => {
                    println!("ok {effect:?} {about}");
                    *effects.entry(effect).or_default() += 1;
                }
                Err(why) => self.fail(&about, &why),
            }
        }
    }

    /// Every point once for each of two ways to end.
    fn run_dealt(&mut self, reached: &BTreeMap<String, Vec<(Target, Hit)>>) {
        for (point, places) in reached {
            let kinds = [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut];
            let left_out = self.deal.choose(&format!("{point} is spared"), kinds.len());
            for kind in kinds.into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, kind)| kind)
            {
                let (target, hit) = &places[self.deal.choose(&format!("{point} {kind}"), places.len())];
                self.count_one(target, kind, hit);
            }
        }
        for number in 0..self.scenarios.len() {
            let scenario = &self.scenarios[number];
            // Most scenarios' answers are covered by the others' preparations.
            if self.deal.choose(&format!("{} answered", scenario.name), 4) == 0 {
                let pool = scenario.pools[self.deal.choose(&scenario.name, scenario.pools.len())];
                self.count_answered(&Target { scenario: number, pool });
            }
        }
    }

    /// Every point in every layout on every pool, every way to end, and the power cut after every answer.
    fn run_everything(&mut self, reached: &BTreeMap<String, Vec<(Target, Hit)>>) {
        for (point, places) in reached {
            let mut groups: BTreeMap<(String, pool::Kind), Vec<&(Target, Hit)>> = BTreeMap::new();
            for place in places {
                let layout = self.scenarios[place.0.scenario].layout().to_owned();
                groups.entry((layout, place.0.pool)).or_default().push(place);
            }
            for ((layout, pool), places) in groups {
                for kind in [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut] {
                    let about = format!("{point} {layout} {pool:?} {kind}");
                    let (target, hit) = places[self.deal.choose(&about, places.len())];
                    self.count_one(target, kind, hit);
                }
            }
        }
        self.run_answered();
    }

    fn run_answered(&mut self) {
        for number in 0..self.scenarios.len() {
            for pool in self.scenarios[number].pools.clone() {
                let target = Target { scenario: number, pool };
                if self.is_wanted(&target) {
                    self.count_answered(&target);
                }
            }
        }
    }

    /// Every hit of the scenarios that were asked for.
    fn run_wanted(&mut self, reached: &BTreeMap<String, Vec<(Target, Hit)>>) {
        for (target, hit) in reached.values().flatten() {
            for kind in [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut] {
                self.count_one(target, kind, hit);
            }
        }
        self.run_answered();
    }

    fn is_partial(&self) -> bool {
        self.only.iter().any(Option::is_some)
    }

    fn is_wanted(&self, target: &Target) -> bool {
        let about = format!("{} on {:?}", self.scenarios[target.scenario].name, target.pool);
        self.only[0].as_ref().is_none_or(|wanted| about.starts_with(wanted))
    }

    fn count_answered(&mut self, target: &Target) {
        let hit = Hit { point: "the answer".into(), number: 1 };
        self.count_one(target, Kind::PowerCutAfterAnswer, &hit);
    }

    fn count_one(&mut self, target: &Target, kind: Kind, hit: &Hit) {
        let label = match kind {
            Kind::Kill => "kill",
            Kind::KillTwice(_) => "kill twice",
            Kind::PowerCut => "power cut",
            Kind::PowerCutAfterAnswer => "power cut after the answer",
        };
        let about = self.describe(target, label, Some(hit));
        if self.only[1].as_ref().is_some_and(|only| !about.contains(only))
            || self.failures.len() >= MOST_FAILURES
        {
            return;
        }
        let start = Instant::now();
        let outcome = match kind {
            Kind::KillTwice(_) => self.kill_twice(target, hit, &about),
            kind => self.case(target, kind, hit, &[]),
        };
        *self.counts.entry(label).or_default() += 1;
        match outcome {
            Ok(done) => {
                self.struck.extend(done.struck);
                println!("ok {:.1} s {about}", start.elapsed().as_secs_f64());
            }
            Err(why) => self.fail(&about, &why),
        }
    }

    /// The second point is dealt among those that the recovery reaches; how many these are shows the first try.
    fn kill_twice(&mut self, target: &Target, hit: &Hit, about: &str) -> Result<Done, String> {
        let guess = 1 + self.deal.choose(about, 12) as u64;
        let first = self.case(target, Kind::KillTwice(guess), hit, &[])?;
        if !first.too_short || first.recovery == 0 {
            return Ok(first);
        }
        let count = usize::try_from(first.recovery).unwrap_or(1);
        let second = 1 + self.deal.choose(&format!("{about} again"), count) as u64;
        self.case(target, Kind::KillTwice(second), hit, &[])
    }

    fn describe(&self, target: &Target, how: &str, hit: Option<&Hit>) -> String {
        let name = &self.scenarios[target.scenario].name;
        match hit {
            Some(hit) => format!("{name} on {:?}, {how} at {}@{}", target.pool, hit.point, hit.number),
            None => format!("{name} on {:?}, {how}", target.pool),
        }
    }

    fn fail(&mut self, about: &str, why: &str) {
        println!("FAILED {about}: {why}");
        self.failures.push(format!("{about}: {why}"));
    }

    fn report(self, registry: &BTreeSet<String>, start: Instant) {
        let partial = self.is_partial();
        let missing = points::missing(registry.iter(), &self.struck);
        let kinds: Vec<_> = self.counts.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        println!(
            "{} of {} failpoints struck in {} cases ({}), {} scenarios undisturbed, {} failed, {:.0} s",
            registry.len() - missing.len(),
            registry.len(),
            self.counts.values().sum::<usize>(),
            kinds.join(", "),
            self.references.len(),
            self.failures.len(),
            start.elapsed().as_secs_f64()
        );
        assert!(self.failures.is_empty(), "{} failed:\n{}", self.failures.len(), self.failures.join("\n\n"));
        assert!(partial || missing.is_empty(), "these failpoints were not struck: {missing:?}");
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.clone(),
        (_, Some(text)) => (*text).to_owned(),
        _ => "something that is no text".into(),
    }
}

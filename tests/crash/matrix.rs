//! Which cases run, and what is said about them.

use crate::{
    case::{Done, Kind},
    lane::{Lane, Results},
    points::{self, Deal, Hit},
    scenario::{self, POOLS, Scenario},
    support::{
        is_full,
        pool::{self, Pool},
    },
    traced::Effect,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, thread,
    time::Instant,
};

/// Of the filesystem that holds the pools' images; sparse.
const DISK: u64 = 64 << 30;
/// After so many failures in one lane the rest would say nothing new.
pub const MOST_FAILURES: usize = 12;

/// A scenario on a kind of pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub scenario: usize,
    pub pool: pool::Kind,
}

/// A point, and where it is reached.
type Reached = BTreeMap<String, Vec<(Target, Hit)>>;

/// What a test may choose among.
pub struct Plan {
    pub scenarios: Vec<Scenario>,
    pub deal: Deal,
    /// Set: only scenarios, or cases, of this description.
    only: [Option<String>; 2],
}

impl Plan {
    fn is_partial(&self) -> bool {
        self.only.iter().any(Option::is_some)
    }

    fn is_wanted(&self, target: &Target) -> bool {
        let about = format!("{} on {:?}", self.scenarios[target.scenario].name, target.pool);
        self.only[0].as_ref().is_none_or(|wanted| about.starts_with(wanted))
    }

    pub fn is_wanted_case(&self, about: &str) -> bool {
        self.only[1].as_ref().is_none_or(|wanted| about.contains(wanted))
    }
}

/// Lanes side by side: most of a case is waiting for disks and for processes to begin and end.
pub struct Matrix {
    plan: Plan,
    lanes: Vec<Lane>,
    start: Instant,
    // Last: the lanes' pools lie on it.
    _disk: Pool,
}

impl Matrix {
    pub fn new() -> Self {
        let disk = Pool::new(pool::Kind::Xfs, DISK);
        let plan = Plan {
            scenarios: scenario::all(),
            deal: Deal::new(),
            only: ["WHARF_CRASH_SCENARIO", "WHARF_CRASH_CASE"].map(|name| env::var(name).ok()),
        };
        let lanes = POOLS.into_iter().flat_map(|pool| Lane::all(pool, disk.path())).collect();
        Self { plan, lanes, start: Instant::now(), _disk: disk }
    }

    pub fn find(&self, name: &str) -> usize {
        self.plan
            .scenarios
            .iter()
            .position(|scenario| scenario.name == name)
            .expect("a scenario of that name")
    }

    /// One case, whose outcome is the caller's.
    pub fn case(
        &mut self,
        target: &Target,
        kind: Kind,
        hit: &Hit,
        environment: &[(&str, &str)],
    ) -> Result<Done, String> {
        let lane = self.lanes.iter_mut().find(|lane| lane.takes(target)).expect("a lane for each target");
        lane.case(&self.plan, target.scenario, kind, hit, environment)
    }

    /// Does the work for each of `given` on the lane that takes its target, all lanes at the same time. Gives what came
    /// of each, lane by lane.
    fn side_by_side<G: Sync, T: Send>(
        &mut self,
        given: &[G],
        target: impl Fn(&G) -> Target + Sync,
        work: impl Fn(&Plan, &mut Lane, &G) -> T + Sync,
    ) -> Vec<T> {
        let (plan, target, work) = (&self.plan, &target, &work);
        let in_lane = move |lane: &mut Lane| {
            let mut done = Vec::new();
            for each in given {
                if lane.takes(&target(each)) {
                    done.push(work(plan, lane, each));
                }
            }
            done
        };
        thread::scope(|scope| {
            let begun: Vec<_> =
                self.lanes.iter_mut().map(|lane| scope.spawn(move || in_lane(lane))).collect();
            begun.into_iter().flat_map(|lane| lane.join().expect("cases do not panic")).collect()
        })
    }

    /// Runs the matrix; panics with all failures at the end.
    pub fn run(mut self) {
        let registry: BTreeSet<String> = points::in_source().into_keys().collect();
        println!(
            "{} failpoints, {} scenarios, commit {}",
            registry.len(),
            self.plan.scenarios.len(),
            self.plan.deal.commit()
        );
        let reached = self.record(&registry);
        println!("{} references in {:.0} s", self.references(), self.start.elapsed().as_secs_f64());
        let cases = if self.plan.is_partial() {
            self.wanted(&reached)
        } else if is_full() {
            self.everything(&reached)
        } else {
            self.dealt(&reached)
        };
        self.side_by_side(
            &cases,
            |(target, ..)| *target,
            |plan, lane, (target, kind, hit)| lane.count(plan, target.scenario, *kind, hit),
        );
        self.report(&registry);
    }

    fn references(&self) -> usize {
        self.lanes.iter().map(Lane::references).sum()
    }

    /// Runs scenarios undisturbed: in full on every pool, else on one dealt pool each, and on more of them
    /// while failpoints are left that none has reached. Gives where each point is reached.
    fn record(&mut self, registry: &BTreeSet<String>) -> Reached {
        let (mut first, mut later) = (Vec::new(), Vec::new());
        let every = is_full() || self.plan.is_partial();
        for (number, scenario) in self.plan.scenarios.iter().enumerate() {
            let dealt = self.plan.deal.choose(&scenario.name, scenario.pools.len());
            for (at, pool) in scenario.pools.iter().enumerate() {
                let target = Target { scenario: number, pool: *pool };
                if !self.plan.is_wanted(&target) {
                    continue;
                }
                if every || at == dealt { first.push(target) } else { later.push(target) }
            }
        }
        let mut reached = Reached::new();
        self.record_all(&first, &mut reached);
        for target in later {
            if registry.iter().all(|point| reached.contains_key(point)) {
                break;
            }
            self.record_all(&[target], &mut reached);
        }
        reached
    }

    fn record_all(&mut self, targets: &[Target], reached: &mut Reached) {
        let record =
            |plan: &Plan, lane: &mut Lane, target: &Target| (*target, lane.record(plan, target.scenario));
        let mut hits = self.side_by_side(targets, |target| *target, record);
        // What is dealt does not depend on who came first.
        hits.sort_by_key(|(target, _)| *target);
        for (target, hits) in hits {
            for hit in hits {
                reached.entry(hit.point.clone()).or_default().push((target, hit));
            }
        }
    }

    /// Every point once for each of two ways to end.
    fn dealt(&self, reached: &Reached) -> Vec<(Target, Kind, Hit)> {
        let (deal, mut cases) = (&self.plan.deal, Vec::new());
        for (point, places) in reached {
            let kinds = [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut];
            let left_out = deal.choose(&format!("{point} is spared"), kinds.len());
            for kind in kinds.into_iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, kind)| kind)
            {
                let (target, hit) = &places[deal.choose(&format!("{point} {kind}"), places.len())];
                cases.push((*target, kind, hit.clone()));
            }
        }
        for (number, scenario) in self.plan.scenarios.iter().enumerate() {
            // Most scenarios' answers are covered by the others' preparations.
            if deal.choose(&format!("{} answered", scenario.name), 4) == 0 {
                let pool = scenario.pools[deal.choose(&scenario.name, scenario.pools.len())];
                cases.push(answered(Target { scenario: number, pool }));
            }
        }
        cases
    }

    /// Every point in every layout on every pool, every way to end, and the power cut after every answer.
    fn everything(&self, reached: &Reached) -> Vec<(Target, Kind, Hit)> {
        let mut cases = Vec::new();
        for (point, places) in reached {
            let mut groups: BTreeMap<(String, pool::Kind), Vec<&(Target, Hit)>> = BTreeMap::new();
            for place in places {
                let layout = self.plan.scenarios[place.0.scenario].layout().to_owned();
                groups.entry((layout, place.0.pool)).or_default().push(place);
            }
            for ((layout, pool), places) in groups {
                for kind in [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut] {
                    let about = format!("{point} {layout} {pool:?} {kind}");
                    let (target, hit) = places[self.plan.deal.choose(&about, places.len())];
                    cases.push((*target, kind, hit.clone()));
                }
            }
        }
        cases.extend(self.every_answer());
        cases
    }

    fn every_answer(&self) -> impl Iterator<Item = (Target, Kind, Hit)> {
        let scenarios = self.plan.scenarios.iter().enumerate();
        let targets = scenarios.flat_map(|(number, scenario)| {
            scenario.pools.iter().map(move |pool| Target { scenario: number, pool: *pool })
        });
        targets.filter(|target| self.plan.is_wanted(target)).map(answered)
    }

    /// Every hit of the scenarios that were asked for.
    fn wanted(&self, reached: &Reached) -> Vec<(Target, Kind, Hit)> {
        let hits = reached.values().flatten();
        let ends = |(target, hit): &(Target, Hit)| {
            [Kind::Kill, Kind::KillTwice(0), Kind::PowerCut].map(|kind| (*target, kind, hit.clone()))
        };
        hits.flat_map(ends).chain(self.every_answer()).collect()
    }

    /// Faults at system calls, drawn by lot.
    pub fn run_traced(mut self) {
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
        let (full, mut targets) = (is_full(), Vec::new());
        for name in names {
            let number = self.find(name);
            let pools = &self.plan.scenarios[number].pools;
            let dealt = pools[self.plan.deal.choose(&format!("{name} traced"), pools.len())];
            let pools = pools.iter().filter(|pool| full || **pool == dealt);
            targets.extend(pools.map(|pool| Target { scenario: number, pool: *pool }));
        }
        targets.retain(|target| self.plan.is_wanted(target));
        let trace = |plan: &Plan, lane: &mut Lane, target: &Target| {
            lane.trace(plan, target.scenario, if full { 30 } else { 6 });
        };
        self.side_by_side(&targets, |target| *target, trace);
        let (partial, start) = (self.plan.is_partial(), self.start);
        let results = self.results();
        let (effects, failures) = (results.effects, results.failures);
        println!("{effects:?}, {} failed, {:.0} s", failures.len(), start.elapsed().as_secs_f64());
        assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n\n"));
        let killed = effects.get(&Effect::Killed).copied().unwrap_or(0);
        assert!(partial || killed > 0, "nothing was killed: does strace work here?");
    }

    /// Of all lanes.
    fn results(&mut self) -> Results {
        let mut all = Results::default();
        for lane in &mut self.lanes {
            let Results { struck, counts, effects, failures } = std::mem::take(&mut lane.results);
            all.struck.extend(struck);
            all.failures.extend(failures);
            counts.into_iter().for_each(|(kind, count)| *all.counts.entry(kind).or_default() += count);
            effects.into_iter().for_each(|(effect, count)| *all.effects.entry(effect).or_default() += count);
        }
        all
    }

    fn report(mut self, registry: &BTreeSet<String>) {
        let Results { struck, counts, failures, .. } = self.results();
        let missing = points::missing(registry.iter(), &struck);
        let kinds: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        println!(
            "{} of {} failpoints struck in {} cases ({}), {} scenarios undisturbed, {} failed, {:.0} s",
            registry.len() - missing.len(),
            registry.len(),
            counts.values().sum::<usize>(),
            kinds.join(", "),
            self.references(),
            failures.len(),
            self.start.elapsed().as_secs_f64()
        );
        assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n\n"));
        assert!(
            self.plan.is_partial() || missing.is_empty(),
            "these failpoints were not struck: {missing:?}"
        );
    }
}

fn answered(target: Target) -> (Target, Kind, Hit) {
    (target, Kind::PowerCutAfterAnswer, Hit { point: "the answer".into(), number: 1 })
}

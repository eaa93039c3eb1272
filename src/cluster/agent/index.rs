//! What is known of the objects of one kind, in a few bytes for each.

use super::{
    super::api::{HEALTHY, Phase},
    kind::Kind,
    status::READY,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What of an object decides whether the slow beat has to look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As last reported; `None`: it cannot be read.
    phase: Option<Phase>,
    /// It says that its data is there.
    there: bool,
    /// It says that its data was there.
    lost: bool,
    /// Something about it was not as asked for.
    troubled: bool,
}

impl Seen {
    pub fn of<K: Kind>(object: &K) -> Self {
        let phase = object.phase().unwrap_or_default();
        let there = matches!(phase, Phase::Ready | Phase::Orphaned);
        let unready = [READY, HEALTHY]
            .into_iter()
            .filter_map(|type_| object.condition(type_))
            .any(|condition| condition.status != "True");
        Self {
            phase: Some(phase),
            there,
            lost: phase == Phase::Lost,
            troubled: there && (object.failure().is_some() || unready),
        }
    }
}

/// The objects of one kind.
#[derive(Debug, Default)]
pub struct Index(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    seen: HashMap<String, Seen>,
    /// Versions that this agent wrote and has not heard of yet.
    own: HashMap<String, Vec<String>>,
    /// All of them are known.
    listed: bool,
}

impl Index {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each use below leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, name: &str, seen: Seen) {
        self.state().seen.insert(name.to_owned(), seen);
    }

    /// The object is gone.
    pub fn remove(&self, name: &str) {
        let mut state = self.state();
        state.seen.remove(name);
        state.own.remove(name);
    }

    /// The agent has written this version: hearing of it is no news.
    pub fn wrote(&self, name: &str, version: Option<String>) {
        let mut state = self.state();
        // Of an object that is not known, or not any more, nothing is kept: hearing of it then is news.
        if let Some(version) = version.filter(|_| state.seen.contains_key(name)) {
            state.own.entry(name.to_owned()).or_default().push(version);
        }
    }

    /// Whether the agent has written this version itself.
    pub fn is_own(&self, name: &str, version: Option<&str>) -> bool {
        let mut state = self.state();
        let Some(own) = state.own.get_mut(name) else { return false };
        let Some(at) = own.iter().position(|each| Some(each.as_str()) == version) else { return false };
        // They are heard of in order: earlier ones were passed over.
        own.drain(..=at);
        if own.is_empty() {
            state.own.remove(name);
        }
        true
    }

    /// What each says that can be read.
    pub fn phases(&self) -> Vec<Phase> {
        self.state().seen.values().filter_map(|seen| seen.phase).collect()
    }

    /// Not all objects are known any more.
    pub fn unlist(&self) {
        self.state().listed = false;
    }

    /// These are all that there are; gives those that had been known beyond.
    pub fn list(&self, names: &HashSet<String>) -> Vec<String> {
        let mut state = self.state();
        let gone: Vec<String> = state.seen.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in &gone {
            state.seen.remove(name);
        }
        state.own.retain(|name, _| names.contains(name));
        state.listed = true;
        gone
    }

    /// All objects, if they are known.
    pub fn all(&self) -> Option<HashMap<String, Seen>> {
        let state = self.state();
        state.listed.then(|| state.seen.clone())
    }
}

/// Which names to look at, for objects as they were before the disk was read.
pub fn differences(objects: &HashMap<String, Seen>, disk: &HashSet<String>, whole: bool) -> Vec<String> {
    let unknown = disk.iter().filter(|name| !objects.contains_key(*name));
    let changed = objects.iter().filter(|(name, seen)| {
        let there = disk.contains(*name);
        match there {
            true => seen.lost || seen.troubled,
            false if whole => seen.there || seen.troubled,
            // A pool is away, which says nothing about what is on it; but that it cannot be used has to be said, once.
            false => seen.there && !seen.troubled,
        }
    });
    unknown.chain(changed.map(|(name, _)| name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_fit_is_looked_at() {
        let there = Seen { there: true, ..Seen::default() };
        let lost = Seen { lost: true, ..Seen::default() };
        let troubled = Seen { there: true, troubled: true, ..Seen::default() };
        let objects: HashMap<String, Seen> = [
            ("good", there),
            ("gone", there),
            ("lost", lost),
            ("found", lost),
            ("odd", troubled),
            ("new", Seen::default()),
        ]
        .map(|(name, seen)| (name.to_owned(), seen))
        .into();
        let disk: HashSet<String> = ["good", "found", "odd", "orphan"].map(str::to_owned).into();
        let sorted = |whole| {
            let mut names = differences(&objects, &disk, whole);
            names.sort();
            names
        };
        assert_eq!(sorted(true), ["found", "gone", "odd", "orphan"]);
        assert_eq!(sorted(false), ["found", "gone", "odd", "orphan"]);
        let known = HashMap::from([("gone".to_owned(), troubled), ("lost".to_owned(), lost)]);
        let none: Vec<String> = Vec::new();
        assert_eq!(differences(&known, &HashSet::new(), false), none, "it has been said");
    }

    #[test]
    fn own_versions_are_no_news() {
        let index = Index::default();
        index.wrote("a", Some("0".to_owned()));
        assert!(!index.is_own("a", Some("0")), "nothing is kept of what is not known");
        index.set("a", Seen::default());
        for version in ["1", "2"] {
            index.wrote("a", Some(version.to_owned()));
        }
        assert!(!index.is_own("b", Some("1")));
        assert!(!index.is_own("a", Some("3")));
        assert!(index.is_own("a", Some("2")));
        assert!(!index.is_own("a", Some("1")), "it was passed over");
    }

    #[test]
    fn nothing_is_said_of_objects_before_all_are_known() {
        let index = Index::default();
        index.set("a", Seen::default());
        assert!(index.all().is_none());
        assert_eq!(index.list(&HashSet::from(["b".to_owned()])), ["a"]);
        assert!(index.all().is_some_and(|all| all.is_empty()));
        index.unlist();
        assert!(index.all().is_none());
    }
}

//! Promised space (design invariant 12).
//!
//! A volume is promised its whole size. What it does not own yet (a thin image, a directory, a thick
//! image whose blocks a snapshot shares) must stay free in the pool for it. The ledger holds that
//! difference for each volume; it is derived from disk at start and kept up by every change, so a
//! restart loses nothing.
//!
//! Every figure errs on the side of promising too much: a reservation is counted both while its
//! blocks are being allocated and when they already are.

use crate::volume::Key;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Kept free for the pool's own metadata: one percent, at least this.
const LEAST_RESERVE: u64 = 64 << 20;

/// Promises of one pool.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    promised: HashMap<Key, Promise>,
    /// Sum of `promised`, so that GetCapacity costs the same with ten thousand volumes.
    total: u64,
    pending: u64,
    /// Counts changes, so that a look at the disk that took a while does not undo one.
    generation: u64,
}

/// What a volume does not own yet, and which change said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// In bytes.
    pub bytes: u64,
    generation: u64,
}

impl State {
    fn set(&mut self, key: Key, bytes: u64) {
        self.generation += 1;
        let promise = Promise { bytes, generation: self.generation };
        let old = self.promised.insert(key, promise).unwrap_or_default();
        self.total = self.total.saturating_sub(old.bytes).saturating_add(bytes);
    }
}

/// Room that is set aside for work in progress; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        // Sums stay right even if a holder panicked: every update below is a single statement pair.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that volumes may still claim.
    pub fn promised(&self) -> u64 {
        let state = self.state();
        state.total.saturating_add(state.pending)
    }

    /// Records what a volume does not own yet.
    pub fn set(&self, key: Key, bytes: u64) {
        self.state().set(key, bytes);
    }

    /// Records it only if nobody changed it since `before` was read.
    pub fn replace(&self, key: Key, before: Promise, bytes: u64) {
        let mut state = self.state();
        if state.promised.get(&key).copied().unwrap_or_default() == before {
            state.set(key, bytes);
        }
    }

    /// Forgets a volume.
    pub fn remove(&self, key: Key) {
        let mut state = self.state();
        let old = state.promised.remove(&key).unwrap_or_default();
        state.total = state.total.saturating_sub(old.bytes);
    }

    /// The volumes that are promised something.
    pub fn keys(&self) -> Vec<Key> {
        self.state().promised.keys().copied().collect()
    }

    /// What one volume does not own yet.
    pub fn of(&self, key: Key) -> Promise {
        self.state().promised.get(&key).copied().unwrap_or_default()
    }

    /// Sets `bytes` aside if `free` leaves room; else says how much there is.
    pub fn reserve(self: &Arc<Self>, bytes: u64, free: Free) -> Result<Reservation, u64> {
        let mut state = self.state();
        let promised = state.total.saturating_add(state.pending);
        let room = free.beyond(promised);
        // Not even nothing fits into an overcommitted pool. The promise of a volume may be out of date: it
        // has come to own what it wrote since its last snapshot, and that room is gone from `available`. The
        // next snapshot of it asks for no bytes by that promise, but takes away what the volume owns.
        if bytes > room || promised > free.unreserved() {
            return Err(room);
        }
        state.pending = state.pending.saturating_add(bytes);
        Ok(Reservation { ledger: Arc::clone(self), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        state.pending = state.pending.saturating_sub(self.bytes);
    }
}

/// What the filesystem says.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    /// Size of the filesystem.
    pub total: u64,
    /// Available bytes.
    pub available: u64,
}

impl Free {
    /// What is left for new volumes when `promised` bytes are spoken for.
    pub fn beyond(self, promised: u64) -> u64 {
        self.unreserved().saturating_sub(promised)
    }

    /// What is available beside the reserve.
    fn unreserved(self) -> u64 {
        let reserve = (self.total / 100).max(LEAST_RESERVE);
        self.available.saturating_sub(reserve)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::volume::Name;

    #[test]
    fn promises_and_reservations_add_up() {
        let ledger = Arc::new(Ledger::default());
        let free = Free { total: 10 << 30, available: 5 << 30 };
        let reserve = (10 << 30) / 100;
        let (a, b) = (Key::of(&Name::new("a").unwrap()), Key::of(&Name::new("b").unwrap()));
        ledger.set(a, 1 << 30);
        ledger.set(b, 2 << 30);
        ledger.set(b, 1 << 30);
        assert_eq!(ledger.promised(), 2 << 30);
        let held = ledger.reserve((3 << 30) - reserve, free).unwrap();
        assert_eq!(ledger.reserve(1, free).unwrap_err(), 0);
        let overcommitted = Free { available: (2 << 30) + reserve - 1, ..free };
        assert_eq!(ledger.reserve(0, overcommitted).unwrap_err(), 0);
        drop(held);
        ledger.remove(a);
        assert_eq!(free.beyond(ledger.promised()), (4 << 30) - reserve);
    }
}

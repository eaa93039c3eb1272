//! Callers that do not wait for each other.

use crate::{
    calls::Rpc,
    support::{eventually, pool::Pool},
};
use std::{fs, path::Path, time::Duration};
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Request, Status};
use uuid::Uuid;
use wharf::{
    os::lock::{Mode, try_lock},
    rpc::client::Client,
};

/// No test of this file takes longer; a deadlock would.
pub const BOUND: Duration = Duration::from_secs(100);

/// The same numbers for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub async fn connect(socket: &Path) -> Client {
    Client::connect(socket, BOUND).await.unwrap()
}

/// How patient a caller is.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    Enough,
    /// Its own deadline, which the driver is told.
    Deadline(Duration),
    /// It goes away without a word.
    Leaves(Duration),
}

/// The answer; CANCELLED when the caller went away before it.
pub async fn send<Q: Rpc>(client: &Client, message: Q, patience: Patience) -> Result<Q::Answer, Status> {
    let mut request = Request::new(message);
    if let Patience::Deadline(limit) = patience {
        request.set_timeout(limit);
    }
    let work = Q::send(request, client.clone());
    let answer = match patience {
        Patience::Leaves(after) => {
            tokio::time::timeout(after, work).await.map_err(|_| Status::cancelled("the caller went away"))?
        }
        _ => work.await,
    };
    answer.map(tonic::Response::into_inner)
}

pub fn code<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().err().map_or(Code::Ok, Status::code)
}

/// uuid v5 of the name, as docs/format.md says.
pub fn key_of(name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"wharf.csi.dev"), name.as_bytes())
}

pub fn volume_id(name: &str) -> String {
    format!("local-{}.node-1", key_of(name))
}

pub fn snapshot_id(name: &str) -> String {
    format!("local-snap-{}.node-1", key_of(name))
}

/// Waits until nobody holds the lock of a volume, or (`kind` 1) of a snapshot.
pub fn wait_until_free(pool: &Pool, name: &str, kind: u64) {
    let (high, _) = key_of(name).as_u64_pair();
    let offset = (high << 2 & (i64::MAX as u64)) | kind;
    eventually(&format!("the lock of {name} is free"), 30, || {
        try_lock(&pool.path().join("lock"), offset, Mode::Exclusive).unwrap().is_some()
    });
}

/// The names in one of a pool's directories.
pub fn names(pool: &Pool, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(pool.path().join(directory)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

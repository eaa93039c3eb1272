//! One step of the story: it begins, it ends, and the story goes on or breaks off.

use super::{story::Story, teller::Mark};
use crate::{
    commands::{chain, print},
    rpc::client::Failure,
};
use std::{error::Error, io, sync::atomic::Ordering};

/// Why a story ended early.
#[derive(Debug)]
pub enum Break {
    /// A step failed.
    Failed {
        /// Which.
        step: String,
        /// Why, and what to do.
        reason: String,
    },
    /// SIGINT or SIGTERM.
    Interrupted,
}

impl Break {
    /// A failed step.
    pub fn new(step: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Failed { step: step.into(), reason: reason.into() }
    }
}

impl Story<'_> {
    /// One RPC.
    pub(super) async fn step<R>(
        &mut self,
        what: &'static str,
        call: impl Future<Output = Result<R, Failure>>,
        tell: impl FnOnce(&R) -> String,
    ) -> Result<R, Break> {
        self.go_on()?;
        self.teller.begin(what);
        match call.await {
            Ok(answer) => {
                self.teller.end(Mark::Done, what, &tell(&answer));
                Ok(answer)
            }
            Err(failure) => Err(self.failed(what, &failure.to_string())),
        }
    }

    /// One RPC that may be refused for now (`None`).
    pub(super) async fn step_unless_refused<R>(
        &mut self,
        what: &'static str,
        call: impl Future<Output = Result<R, Failure>>,
        tell: impl FnOnce(&Option<R>) -> String,
    ) -> Result<Option<R>, Break> {
        self.go_on()?;
        self.teller.begin(what);
        let (mark, answer) = match call.await {
            Ok(answer) => (Mark::Done, Some(answer)),
            Err(failure) if failure.is_refusal() => (Mark::Later, None),
            Err(failure) => return Err(self.failed(what, &failure.to_string())),
        };
        self.teller.end(mark, what, &tell(&answer));
        Ok(answer)
    }

    /// What is no RPC and goes without a line.
    pub(super) fn local<T, E: Error>(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, Break> {
        self.go_on()?;
        work(self).map_err(|error| self.failed(what, &chain(&error)))
    }

    /// The end of a step that the application took.
    pub(super) fn told(&mut self, what: &'static str, outcome: io::Result<String>) -> Result<(), Break> {
        match outcome {
            Ok(text) => {
                self.teller.end(Mark::Done, what, &text);
                self.go_on()
            }
            Err(error) => Err(self.failed(what, &error.to_string())),
        }
    }

    fn failed(&mut self, what: &str, reason: &str) -> Break {
        let reason = print::plain(reason);
        self.teller.end(Mark::Failed, what, &reason);
        Break::new(what, reason)
    }

    fn go_on(&self) -> Result<(), Break> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Break::Interrupted) } else { Ok(()) }
    }
}

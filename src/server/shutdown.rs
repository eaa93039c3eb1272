//! How servers learn that they are to stop.

use std::{future, io};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Tells any number of servers first to finish what they are doing, then to end at once.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Phase>);

/// Moves every clone of its [`Shutdown`] on; dropped, it leaves them where they are.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<Phase>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Ending,
}

/// Follows SIGTERM and SIGINT: the first one drains, the second one ends.
///
/// From here on the signals no longer end the process. Needs a running tokio runtime.
pub fn shutdown_signal() -> io::Result<Shutdown> {
    triggered_shutdown().map(|(_, shutdown)| shutdown)
}

/// The same for a process that may also have a reason of its own to stop.
pub fn triggered_shutdown() -> io::Result<(Trigger, Shutdown)> {
    let (trigger, shutdown) = Shutdown::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signalled = trigger.clone();
    tokio::spawn(async move {
        let mut first = true;
        loop {
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                else => return,
            };
            // Draining may have begun without a signal.
            if first {
                signalled.drain()
            } else {
                signalled.advance()
            }
            first = false;
            tracing::info!("got {name}, {}", signalled.plan());
        }
    });
    Ok((trigger, shutdown))
}

impl Shutdown {
    /// A shutdown that nothing but its trigger begins.
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(Phase::Running);
        (Trigger(sender), Self(receiver))
    }

    /// Returns when no new work is to be begun.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns when running work is not to be waited for either.
    pub async fn ending(&self) {
        self.reached(Phase::Ending).await;
    }

    async fn reached(&self, phase: Phase) {
        let mut receiver = self.0.clone();
        let reached = receiver.wait_for(|now| *now >= phase).await.is_ok();
        if !reached {
            // Nobody is left who could ask for it.
            future::pending::<()>().await;
        }
    }
}

impl Trigger {
    /// Drains; called again, changes nothing.
    pub fn drain(&self) {
        self.0.send_if_modified(|phase| {
            let runs = *phase == Phase::Running;
            if runs {
                *phase = Phase::Draining;
            }
            runs
        });
    }

    /// Drains; called again, ends.
    pub fn advance(&self) {
        self.0.send_modify(|phase| {
            *phase = match phase {
                Phase::Running => Phase::Draining,
                Phase::Draining | Phase::Ending => Phase::Ending,
            };
        });
    }

    fn plan(&self) -> &'static str {
        match *self.0.borrow() {
            Phase::Ending => "ending at once",
            _ => "finishing the calls that are running; a second signal ends at once",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    async fn is_over(wait: impl Future<Output = ()>) -> bool {
        timeout(Duration::from_millis(20), wait).await.is_ok()
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_ends() {
        let (trigger, shutdown) = Shutdown::new();
        let other = shutdown.clone();
        assert!(!is_over(shutdown.draining()).await);
        trigger.advance();
        assert!(is_over(shutdown.draining()).await && is_over(other.draining()).await);
        assert!(!is_over(shutdown.ending()).await);
        trigger.advance();
        trigger.advance();
        assert!(is_over(shutdown.draining()).await && is_over(other.ending()).await);
    }

    #[tokio::test]
    async fn draining_twice_does_not_end() {
        let (trigger, shutdown) = Shutdown::new();
        trigger.clone().drain();
        trigger.drain();
        assert!(is_over(shutdown.draining()).await && !is_over(shutdown.ending()).await);
        trigger.advance();
        trigger.drain();
        assert!(is_over(shutdown.ending()).await);
    }

    #[tokio::test]
    async fn a_trigger_that_is_gone_asks_for_nothing_more() {
        let (trigger, shutdown) = Shutdown::new();
        trigger.advance();
        drop(trigger);
        assert!(is_over(shutdown.draining()).await);
        assert!(!is_over(shutdown.ending()).await);
    }
}

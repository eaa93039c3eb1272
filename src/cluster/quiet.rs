//! Memory that work has left behind goes back to the kernel when work is over.

use crate::os;
use std::time::Duration;
use tokio::{sync::Notify, time};

/// Work is over when none has ended for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Gives it back each time work is over, after `tidy`; until it is dropped. `ended` is notified of each piece of work.
pub async fn stay_small(ended: &Notify, tidy: impl Fn()) {
    loop {
        ended.notified().await;
        while time::timeout(QUIET, ended.notified()).await.is_ok() {}
        tidy();
        os::host::give_memory_back();
    }
}

//! Named points between side effects at which a test ends the process.
//!
//! With the cargo feature `failpoints`, `WHARF_FAILPOINT=NAME[@N]=ACTION` strikes when the point
//! called NAME (`*`: any) is reached for the N-th time (1 if not given). ACTION is `kill` (SIGKILL to itself),
//! `stop` (SIGSTOP to itself: the test images the pool, then kills) or `panic`.
//! `WHARF_FAILPOINT_LOG=FILE` appends the name of every point that is reached. Without the feature a
//! point is nothing at all.
//!
//! `WHARF_BREAK_DURABILITY=N` leaves out the process's N-th sync (`all`: every one), by which tests show
//! that they would notice.

/// Marks a point between two side effects. The name is `operation.what-has-just-happened`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reached($name);
    };
}

#[cfg(feature = "failpoints")]
pub use enabled::{reached, sync_is_left_out};

#[cfg(feature = "failpoints")]
mod enabled {
    use nix::sys::signal::{Signal, raise};
    use std::{
        env,
        fs::{File, OpenOptions},
        io::Write,
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    struct Armed {
        name: String,
        hit: u64,
        action: String,
        seen: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = env::var("WHARF_FAILPOINT").ok()?;
        let (point, action) = text.split_once('=')?;
        let (name, hit) = point.split_once('@').unwrap_or((point, "1"));
        Some(Armed {
            name: name.to_owned(),
            hit: hit.parse().ok()?,
            action: action.to_owned(),
            seen: AtomicU64::new(0),
        })
    });

    static LOG: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = env::var_os("WHARF_FAILPOINT_LOG")?;
        OpenOptions::new().create(true).append(true).open(path).ok()
    });

    static BROKEN: LazyLock<Option<String>> = LazyLock::new(|| env::var("WHARF_BREAK_DURABILITY").ok());
    static SYNCS: AtomicU64 = AtomicU64::new(0);

    /// Asked before each sync.
    pub fn sync_is_left_out() -> bool {
        let number = SYNCS.fetch_add(1, Ordering::SeqCst) + 1;
        BROKEN.as_ref().is_some_and(|broken| broken == "all" || *broken == number.to_string())
    }

    /// Called by [`failpoint!`](crate::failpoint!).
    pub fn reached(name: &'static str) {
        if let Some(mut log) = LOG.as_ref() {
            let _ = writeln!(log, "{name}");
        }
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name || armed.name == "*") else {
            return;
        };
        if armed.seen.fetch_add(1, Ordering::SeqCst) + 1 != armed.hit {
            return;
        }
        match armed.action.as_str() {
            "stop" => {
                let _ = raise(Signal::SIGSTOP);
            }
            #[expect(clippy::panic, reason = "a test asks for it")]
            "panic" => panic!("failpoint {name}"),
            _ => {
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGKILL);
            }
        }
    }
}

//! Named points between side effects at which a test ends the process.
//!
//! With the cargo feature `failpoints`, `WHARF_FAILPOINT=NAME[@N]=ACTION` strikes when the point
//! called NAME (`*`: any) is reached for the N-th time (1 if not given). ACTION is `kill` (SIGKILL to itself),
//! `stop` (SIGSTOP to itself: the test images the pool, then kills) or `panic`.
//! `WHARF_FAILPOINT_LOG=FILE` appends the name of every point that is reached. Without the feature a
//! point is nothing at all.
//!
//! `WHARF_FAILPOINT_FILE=FILE` takes the same text as `WHARF_FAILPOINT` from a file that a test writes while the
//! driver runs. Who strikes empties it first, so that it strikes one of several processes, and once.
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
pub use enabled::{prepare, reached, sync_is_left_out};

#[cfg(feature = "failpoints")]
mod enabled {
    use nix::sys::signal::{Signal, raise};
    use std::{
        env,
        fs::{File, OpenOptions},
        io::Write,
        os::unix::fs::FileExt,
        sync::{
            LazyLock, Mutex, PoisonError,
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

    static ARMING: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = env::var_os("WHARF_FAILPOINT_FILE")?;
        OpenOptions::new().read(true).write(true).open(path).ok()
    });
    static COUNTING: Mutex<()> = Mutex::new(());

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
        if let Some(action) = armed_by_file(name) {
            return strike(name, &action);
        }
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.name == name || armed.name == "*") else {
            return;
        };
        if armed.seen.fetch_add(1, Ordering::SeqCst) + 1 == armed.hit {
            strike(name, &armed.action);
        }
    }

    /// Opens files while this process still sees where they are.
    pub fn prepare() {
        LazyLock::force(&LOG);
        LazyLock::force(&ARMING);
    }

    /// Counts the hit in the file, where it is not the last; the action, where it is.
    fn armed_by_file(name: &str) -> Option<String> {
        let _one_thread_at_a_time = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        let file = ARMING.as_ref()?;
        let mut text = vec![0; 200];
        let length = file.read_at(&mut text, 0).ok()?;
        let text = String::from_utf8_lossy(text.get(..length)?);
        let (point, action) = text.trim().split_once('=')?;
        let (wanted, hit) = point.split_once('@').unwrap_or((point, "1"));
        if wanted != name && wanted != "*" {
            return None;
        }
        let left = hit.parse::<u64>().ok()?.saturating_sub(1);
        file.set_len(0).ok()?;
        if left == 0 {
            return Some(action.to_owned());
        }
        file.write_all_at(format!("{wanted}@{left}={action}").as_bytes(), 0).ok()?;
        None
    }

    fn strike(name: &str, action: &str) {
        match action {
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

//! Where the figures come from, and how the run is kept apart from the rest of the machine.

use super::support::host::attempt;
use std::{
    fs,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Goes into a mount namespace of its own, so that thousands of mounts slow down nobody else and vanish with
/// this process, and turns SIGINT and SIGTERM into a panic at the next [`checkpoint`], which cleans up.
pub fn isolate() {
    use rustix::mount::{MountPropagationFlags, mount_change};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("run this as root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt()).unwrap();
            let mut terminate = signal(SignalKind::terminate()).unwrap();
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    });
}

/// What is going on, on standard error: a full run is long.
pub fn progress(what: &str) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    eprintln!("[{:5.1} s] {what}", BEGAN.elapsed().as_secs_f64());
}

/// Ends a run that was interrupted.
pub fn checkpoint() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

/// The machine, the kernel, the tools, the command.
pub fn print(arguments: &[String]) {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = |program: &str, flag: &str| {
        let text = attempt("sh", ["-c", &format!("{program} {flag} 2>&1")]).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    println!("# Performance of wharf {}\n", env!("CARGO_PKG_VERSION"));
    let command =
        ["cargo bench --bench lifecycle --".to_owned()].iter().chain(arguments).cloned().collect::<Vec<_>>();
    println!("command: `{}`", command.join(" ").trim_end_matches(" --"));
    println!(
        "machine: {} × {}, {} GiB",
        thread::available_parallelism().map_or(1, usize::from),
        model.trim_start_matches(['\t', ' ', ':']),
        kib.div_ceil(1 << 20)
    );
    println!("kernel: {}; load at start {}", kernel.trim(), load());
    println!(
        "tools: {}; {}; {}",
        version("mke2fs", "-V"),
        version("mkfs.xfs", "-V"),
        version("mkfs.btrfs", "-V")
    );
    let size = fs::metadata(env!("CARGO_BIN_EXE_wharf")).unwrap().len();
    println!(
        "binary: {:.1} MiB (budget 10){}",
        size as f64 / f64::from(1 << 20),
        if cfg!(debug_assertions) { "; NOT a release build" } else { "" }
    );
}

/// The load averages.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

//! CPU time of threads and the cores they run on.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Waits.
#[expect(clippy::disallowed_methods, reason = "a measurement takes its time")]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Readings from which the cost of one is known.
const READINGS: u32 = 10_000;

/// CPU time of the calling thread so far, in microseconds.
pub(crate) fn thread_cpu_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

thread_local! {
    /// What one reading of the clock adds to an interval, in microseconds.
    pub(crate) static READING_US: f64 = {
        let started = thread_cpu_us();
        for _ in 1..READINGS {
            thread_cpu_us();
        }
        (thread_cpu_us() - started) / f64::from(READINGS)
    };
}

/// CPU time of a thread of another process, in nanoseconds, as the scheduler counts it.
pub(crate) fn other_thread_cpu_ns(process: u32, thread: u32) -> Result<u64> {
    let path = format!("/proc/{process}/task/{thread}/schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let first = text.split_whitespace().next().with_context(|| format!("{path} is empty"))?;
    first.parse().with_context(|| format!("{path}: {text:?}"))
}

/// CPU time of all threads of a process, in nanoseconds, as the scheduler counts it.
pub(crate) fn process_cpu_ns(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/task");
    let mut sum = 0;
    for entry in std::fs::read_dir(&path).with_context(|| format!("list {path}"))? {
        let name = entry?.file_name();
        let thread = name.to_string_lossy().parse().context("a thread id")?;
        // A thread that has just ended no longer counts.
        sum += other_thread_cpu_ns(process, thread).unwrap_or_default();
    }
    Ok(sum)
}

/// Cores that this process may use, lowest first.
pub(crate) fn cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("read the allowed cores")?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect())
}

/// Keeps the calling thread on one core.
pub(crate) fn pin_to(core: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).with_context(|| format!("pin to core {core}"))
}

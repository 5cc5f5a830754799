//! The machine that a figure was measured on: without it the figure means little.

use anyhow::{Context, Result};

use crate::clock;

/// One-minute load average above which times are not to be trusted; ratios still are, roughly.
const LOAD_MAX: f64 = 1.0;

/// Prints the machine and warns if it is busy.
pub(crate) fn print() -> Result<()> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let field = |name: &str| field(&cpuinfo, name).unwrap_or("unknown");
    let flags: Vec<&str> = field("flags").split_whitespace().collect();
    let has = |flag: &str| if flags.contains(&flag) { "yes" } else { "no" };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "machine: {} (family {} model {}), {} cores, Linux {}",
        field("model name"),
        field("cpu family"),
        field("model"),
        clock::cores()?.len(),
        kernel.trim(),
    );
    println!("         sha_ni {}, avx2 {}, avx512f {}", has("sha_ni"), has("avx2"), has("avx512f"));
    let load = load_average()?;
    println!("load:    {load:.2} (one minute, at the start)");
    if load > LOAD_MAX {
        eprintln!(
            "bench: WARNING: load above {LOAD_MAX}: others use this machine; times are too high, ratios rough"
        );
    }
    if cfg!(debug_assertions) {
        eprintln!("bench: WARNING: not an optimised build; nothing here is comparable");
    }
    Ok(())
}

/// The one-minute load average.
pub(crate) fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    first.parse().with_context(|| format!("/proc/loadavg: {text:?}"))
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_counts() {
        let text = "model\t\t: 17\nmodel name\t: A B\n\nmodel name\t: C\n";
        assert_eq!((field(text, "model name"), field(text, "flags")), (Some("A B"), None));
    }
}

//! The machine that a figure was measured on: without it the figure means little.

use std::fmt::{self, Display, Formatter};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock;

/// One-minute load average above which times are not to be trusted; ratios still are, roughly.
const LOAD_MAX: f64 = 1.0;

/// What a figure was measured on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    family: String,
    model: String,
    cores: usize,
    kernel: String,
    sha_ni: bool,
    avx2: bool,
    avx512f: bool,
    /// Of one minute.
    load_average: f64,
}

/// The machine as it is now.
pub(crate) fn describe() -> Result<Machine> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let field = |name: &str| field(&cpuinfo, name).unwrap_or("unknown");
    let flags: Vec<&str> = field("flags").split_whitespace().collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Machine {
        processor: field("model name").to_owned(),
        family: field("cpu family").to_owned(),
        model: field("model").to_owned(),
        cores: clock::cores()?.len(),
        kernel: kernel.trim().to_owned(),
        sha_ni: flags.contains(&"sha_ni"),
        avx2: flags.contains(&"avx2"),
        avx512f: flags.contains(&"avx512f"),
        load_average: load_average()?,
    })
}

/// Prints the machine and warns if it is busy.
pub(crate) fn print() -> Result<()> {
    let machine = describe()?;
    println!("{machine}");
    if machine.load_average > LOAD_MAX {
        eprintln!(
            "bench: WARNING: load above {LOAD_MAX}: others use this machine; times are too high, ratios rough"
        );
    }
    if cfg!(debug_assertions) {
        eprintln!("bench: WARNING: not an optimised build; nothing here is comparable");
    }
    Ok(())
}

impl Display for Machine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let has = |flag: bool| if flag { "yes" } else { "no" };
        let Self { processor, family, model, cores, kernel, .. } = self;
        writeln!(
            f,
            "machine: {processor} (family {family} model {model}), {cores} cores, Linux {kernel}"
        )?;
        let (sha, avx2, avx512) = (has(self.sha_ni), has(self.avx2), has(self.avx512f));
        writeln!(f, "         sha_ni {sha}, avx2 {avx2}, avx512f {avx512}")?;
        write!(f, "load:    {:.2} (one minute, at that time)", self.load_average)
    }
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

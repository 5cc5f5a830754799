//! The report for people: tables and plots.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::PATHS;
use super::plot::{Bars, Lines};
use super::report::{Figures, Report};

/// Writes `report.md` and its plots.
pub(super) fn write(report: &Report, folder: &Path) -> Result<()> {
    let put = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
    };
    put("cost.svg", &cost(report).svg())?;
    for path in ["http1", "grpc"] {
        put(&format!("latency-{path}.svg"), &latency(report, path).svg())?;
    }
    put("report.md", &page(report))
}

fn page(report: &Report) -> String {
    format!(
        "# What a signature costs\n\n{}\n\n{}\n![cost](cost.svg)\n\n{}\n![latency, HTTP/1.1](latency-http1.svg)\n\n\
         ![latency, gRPC](latency-grpc.svg)\n",
        report.machine,
        summary(report),
        open_loop(report)
    )
}

/// The table of the closed loop.
pub(super) fn summary(report: &Report) -> String {
    let mut out = format!(
        "A1, one raw signature in the same seconds: {:.2} us of CPU. Ratios are to it.\n\n\
         | stack | path | without the check | with it | dataplane us | enclave us | of which check | per s | p50 ms | p90 | p99 | p99.9 |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
        report.a1_us
    );
    for (name, stack) in [
        ("sigil", &report.paths),
        ("plain", &report.baseline),
        ("plain, crate's call", &report.baseline_crate_call),
    ] {
        rows(&mut out, name, stack);
    }
    if let Some(yardstick) = &report.yardstick {
        let _ = writeln!(out, "\nThe yardstick, {}:", yardstick.when);
        for (path, us) in &yardstick.us {
            let ratio = us / report.a1_us;
            let ours = report.paths.get(path.as_str()).map(|it| it.ratio_a1_no_verify / ratio);
            let ours = ours.map_or_else(String::new, |ours| format!("; ours / its: {ours:.2}"));
            let _ = writeln!(out, "- {path}: {us:.2} us, {ratio:.2} x A1{ours}");
        }
    }
    out
}

fn rows(out: &mut String, name: &str, stack: &BTreeMap<&'static str, Figures>) {
    for (_, path) in PATHS {
        let Some(it) = stack.get(path) else { continue };
        let _ = writeln!(
            out,
            "| {name} | {path} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
            it.ratio_a1_no_verify,
            it.ratio_a1,
            it.dataplane_us,
            it.enclave_us,
            it.check_us,
            it.per_s,
            it.p50_ms,
            it.p90_ms,
            it.p99_ms,
            it.p999_ms
        );
    }
}

fn open_loop(report: &Report) -> String {
    let mut out = "Open loop, 500 connections, latency from the scheduled time; medians of the runs.\n\n\
         | path | rate | stack | runs | p50 ms | p90 | p99 | p99.9 | worst p99 | CPU % of all cores | CPU us | scheduled | dropped |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in &report.open_loop {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} | {} |",
            row.path,
            row.rate,
            row.stack,
            row.runs,
            row.p50_ms,
            row.p90_ms,
            row.p99_ms,
            row.p999_ms,
            row.worst_p99_ms,
            row.cpu_percent,
            row.cpu_us,
            row.scheduled,
            row.dropped
        );
    }
    out
}

fn cost(report: &Report) -> Bars<'static> {
    let names = PATHS.map(|(_, name)| name);
    let of = |stack: &BTreeMap<&'static str, Figures>, figure: fn(&Figures) -> f64| {
        names.iter().map(|name| stack.get(name).map(figure)).collect::<Vec<_>>()
    };
    let mut series = vec![
        ("sigil, without check".to_owned(), of(&report.paths, |it| it.ratio_a1_no_verify)),
        ("sigil, with check".to_owned(), of(&report.paths, |it| it.ratio_a1)),
        ("plain stack".to_owned(), of(&report.baseline, |it| it.ratio_a1)),
        ("plain, crate's call".to_owned(), of(&report.baseline_crate_call, |it| it.ratio_a1)),
    ];
    if report.yardstick.is_some() {
        let ratios = names.iter().map(|name| report.yardstick_of(name)).collect();
        series.push(("yardstick".to_owned(), ratios));
    }
    Bars {
        title: "Server CPU a signature, c = 500",
        unit: "ratio to one raw signature (A1); lower is better",
        groups: names.map(str::to_owned).to_vec(),
        series,
    }
}

fn latency(report: &Report, path: &str) -> Lines<'static> {
    let rows = report.open_loop.iter().filter(|row| row.path == path);
    let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for row in rows {
        for (name, value) in [("p50", row.p50_ms), ("p99", row.p99_ms)] {
            let name = format!("{}, {name}", row.stack);
            let point = (f64::from(row.rate), value);
            match series.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => series.push((name, vec![point])),
            }
        }
    }
    let title = if path == "http1" {
        "Latency of POST /sign, open loop"
    } else {
        "Latency of Sign over gRPC, open loop"
    };
    Lines { title, x: "signatures a second", y: "ms", series }
}

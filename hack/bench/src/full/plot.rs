//! Plots as SVG, written by hand: two kinds, no dependency.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Told apart by people who see colours differently (Okabe and Ito, 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Bars in groups.
pub(super) struct Bars<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) groups: Vec<String>,
    /// A name, and a value for each group that has one.
    pub(super) series: Vec<(String, Vec<Option<f64>>)>,
}

/// Lines over logarithmic axes.
pub(super) struct Lines<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) series: Vec<(String, Vec<(f64, f64)>)>,
}

struct Svg(String);

// === impl Svg ===

impl Svg {
    fn new(title: &str) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        ));
        svg.text(
            (LEFT, 24.0),
            "start",
            &format!("<tspan font-size=\"15\">{}</tspan>", escaped(title)),
        );
        svg
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) {
        let _ = writeln!(
            self.0,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222\">{text}</text>"
        );
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), stroke: &str) {
        let _ = writeln!(
            self.0,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{stroke}\"/>"
        );
    }

    fn legend(&mut self, at: usize, name: &str) {
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 18.0 * at as f64);
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            self.0,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
        );
        self.text((x + 18.0, y + 10.5), "start", &escaped(name));
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

// === impl Bars ===

impl Bars<'_> {
    pub(super) fn svg(&self) -> String {
        let mut svg = Svg::new(self.title);
        let values = self.series.iter().flat_map(|(_, values)| values.iter().flatten());
        let most = values.copied().fold(1.0, f64::max) * 1.1;
        let step = step(most);
        let y = |value: f64| HEIGHT - BOTTOM - value / most * (HEIGHT - BOTTOM - TOP);
        for tick in (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= most) {
            svg.line((LEFT, y(tick)), (WIDTH - RIGHT, y(tick)), "#ddd");
            svg.text((LEFT - 8.0, y(tick) + 4.0), "end", &number(tick));
        }
        svg.text((LEFT, HEIGHT - 10.0), "start", &escaped(self.unit));
        let group = (WIDTH - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        let bar = group * 0.84 / self.series.len().max(1) as f64;
        for (at, name) in self.groups.iter().enumerate() {
            let middle = LEFT + group * (at as f64 + 0.5);
            svg.text((middle, HEIGHT - BOTTOM + 18.0), "middle", &escaped(name));
        }
        for (series, (name, values)) in self.series.iter().enumerate() {
            svg.legend(series, name);
            for (at, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let x = LEFT + group * (at as f64 + 0.08) + bar * series as f64;
                let _ = writeln!(
                    svg.0,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                    y(*value),
                    bar * 0.92,
                    HEIGHT - BOTTOM - y(*value),
                    COLOURS[series % COLOURS.len()]
                );
                let label = format!("<tspan font-size=\"9\">{value:.2}</tspan>");
                svg.text((x + bar * 0.46, y(*value) - 3.0), "middle", &label);
            }
        }
        svg.end()
    }
}

// === impl Lines ===

impl Lines<'_> {
    pub(super) fn svg(&self) -> String {
        let mut svg = Svg::new(self.title);
        let points = || self.series.iter().flat_map(|(_, points)| points.iter().copied());
        let (x, y) = (Axis::over(points().map(|(x, _)| x)), Axis::over(points().map(|(_, y)| y)));
        let at = |(px, py): (f64, f64)| {
            (
                LEFT + x.share(px) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - y.share(py) * (HEIGHT - BOTTOM - TOP),
            )
        };
        for tick in y.ticks() {
            let (_, height) = at((x.least, tick));
            svg.line((LEFT, height), (WIDTH - RIGHT, height), "#ddd");
            svg.text((LEFT - 8.0, height + 4.0), "end", &number(tick));
        }
        for tick in x.ticks() {
            let (place, _) = at((tick, y.least));
            svg.line((place, TOP), (place, HEIGHT - BOTTOM), "#eee");
            svg.text((place, HEIGHT - BOTTOM + 18.0), "middle", &number(tick));
        }
        svg.text((LEFT, TOP - 6.0), "start", &escaped(self.y));
        svg.text((WIDTH - RIGHT, HEIGHT - 14.0), "end", &escaped(self.x));
        for (series, (name, points)) in self.series.iter().enumerate() {
            svg.legend(series, name);
            let colour = COLOURS[series % COLOURS.len()];
            let places: Vec<_> = points.iter().map(|point| at(*point)).collect();
            let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                svg.0,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                path.join(" ")
            );
            for (x, y) in places {
                let _ = writeln!(
                    svg.0,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
        }
        svg.end()
    }
}

/// A logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.filter(|value| *value > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if !least.is_finite() {
            return Self { least: 1.0, most: 10.0 };
        }
        let (least, most) = (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()));
        Self { least, most: if most > least { most } else { least * 10.0 } }
    }

    fn share(&self, value: f64) -> f64 {
        let value = value.max(self.least);
        (value / self.least).log10() / (self.most / self.least).log10()
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let most = self.most * 1.001;
        std::iter::successors(Some(self.least), |tick| Some(tick * 10.0))
            .take_while(move |tick| *tick <= most)
    }
}

/// A round distance between ticks, five to ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let rough = most / 5.0 / power;
    power
        * if rough >= 5.0 {
            5.0
        } else if rough >= 2.0 {
            2.0
        } else {
            1.0
        }
}

fn number(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.0}M", value / 1e6)
    } else if value >= 1e3 {
        format!("{:.0}k", value / 1e3)
    } else if value >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_their_heights_and_no_markup_of_names() {
        let series = vec![("a<b".to_owned(), vec![Some(1.0), None])];
        let groups = vec!["x".to_owned(), "y".to_owned()];
        let svg = Bars { title: "t", unit: "u", groups, series }.svg();
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<tspan font-size=\"9\">").count(), 1);
    }

    #[test]
    fn a_logarithmic_axis_covers_its_values() {
        let axis = Axis::over([30.0, 2_000.0].into_iter());
        assert_eq!(axis.ticks().collect::<Vec<_>>(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!((axis.share(100.0) - 1.0 / 3.0).abs() < 1e-9);
        assert!(
            Lines { title: "t", x: "x", y: "y", series: Vec::new() }.svg().ends_with("</svg>\n")
        );
    }
}

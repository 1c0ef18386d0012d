//! Charts (SVG) of memory and throughput against connections, from saved runs.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    outcome::Outcome,
    scenario::Scenario,
    servers::Server,
    summary::{Summary, number},
};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 606.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 304.0;

/// A card of its own, light or dark as the reader's system is.
const STYLE: &str = "\
    .card { fill: #fbf9f5; stroke: #e2dcd2 }
    .title { fill: #221d17; font-size: 16px; font-weight: 650 }
    .word { fill: #665d51; font-size: 12.5px }
    .grid { stroke: #e2dcd2 } .axis { stroke: #8f8678 }
    .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round }
    .spread { stroke-width: 1.4 }
    .stentor { stroke: #a4561b; fill: #a4561b }
    .web-stomp { stroke: #1f63b5; fill: #1f63b5 }
    .embedded { stroke: #4a7c3a; fill: #4a7c3a }
    .nats { stroke: #7a5ca8; fill: #7a5ca8 }
    .line { fill: none }
    @media (prefers-color-scheme: dark) {
      .card { fill: #1d1a17; stroke: #3a342d }
      .title { fill: #f1ebe2 } .word { fill: #b5ab9d } .grid { stroke: #3a342d }
      .stentor { stroke: #d98a4b; fill: #d98a4b }
      .web-stomp { stroke: #6ba3e8; fill: #6ba3e8 }
      .embedded { stroke: #8cbf78; fill: #8cbf78 }
      .nats { stroke: #b79be0; fill: #b79be0 }
      .line { fill: none }
    }";

/// A chart: a measure of a scenario against connections.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) scenario: Scenario,
    /// What follows the number of connections in its cases: no TLS, no SockJS, one node.
    case: &'static str,
    metric: &'static str,
}

/// All charts that there can be.
pub(crate) const CHARTS: &[Chart] = &[
    Chart {
        file: "performance-memory.svg",
        title: "Memory of all servers, MiB",
        scenario: Scenario::Idle,
        case: "",
        metric: "memory_mib_servers",
    },
    Chart {
        file: "performance-unicast.svg",
        title: "Messages to single users, deliveries a second",
        scenario: Scenario::Unicast,
        case: " 1000 outstanding 256 bytes",
        metric: "deliveries_per_second",
    },
    Chart {
        file: "performance-broadcast.svg",
        title: "Messages to everybody, deliveries a second",
        scenario: Scenario::Broadcast,
        case: " 4 outstanding 256 bytes",
        metric: "deliveries_per_second",
    },
];

/// Writes the charts for which there are runs into a folder, and answers their paths.
///
/// # Errors
/// The folder cannot be written to.
pub(crate) fn write(outcomes: &[Outcome], folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut written = Vec::new();
    for chart in CHARTS {
        let series = series(outcomes, chart);
        if series.is_empty() {
            continue;
        }
        let path = folder.join(chart.file);
        let svg = draw(chart.title, &series);
        fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// A measure by server and connections.
type Series = BTreeMap<Server, BTreeMap<u32, Summary>>;

fn series(outcomes: &[Outcome], chart: &Chart) -> Series {
    let mut values: BTreeMap<Server, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    let is_its_own = |outcome: &&Outcome| {
        let (name, connections) = (chart.scenario.name(), outcome.connections);
        outcome.build.is_none() && outcome.case == format!("{name} {connections}{}", chart.case)
    };
    for outcome in outcomes.iter().filter(is_its_own) {
        if let Some(&value) = outcome.metrics.get(chart.metric) {
            let of_server = values.entry(outcome.server).or_default();
            of_server
                .entry(outcome.connections)
                .or_default()
                .push(value);
        }
    }
    let summed = |points: BTreeMap<u32, Vec<f64>>| {
        let points = points.into_iter();
        points
            .filter_map(|(x, values)| Some((x, Summary::of(values)?)))
            .collect()
    };
    let all = values.into_iter();
    all.map(|(server, points)| (server, summed(points)))
        .collect()
}

/// Medians joined by lines, and a bar from the least to the most.
fn draw(title: &str, series: &Series) -> String {
    let points = || series.values().flatten();
    let widest = points().map(|(&x, _)| f64::from(x)).fold(1.0, f64::max);
    let highest = points()
        .map(|(_, y)| y.most)
        .fold(f64::MIN_POSITIVE, f64::max);
    let (x_step, y_step) = (step(widest), step(highest));
    let x_end = (widest / x_step).ceil() * x_step;
    let y_end = (highest / y_step).ceil() * y_step;
    let x_of = |x: f64| LEFT + (RIGHT - LEFT) * x / x_end;
    let y_of = |y: f64| BOTTOM - (BOTTOM - TOP) * (y / y_end).max(0.0);

    let mut svg = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        // A string takes all.
        let _ = writeln!(svg, "{line}");
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif\">\n\
         <style>\n{STYLE}\n</style>\n\
         <rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"14\"/>\n\
         <text class=\"title\" x=\"24\" y=\"32\">{title}</text>",
        WIDTH - 1.0,
        HEIGHT - 1.0,
    ));
    for tick in 0..=(y_end / y_step).round() as u32 {
        let value = f64::from(tick) * y_step;
        let (y, label) = (y_of(value), tick_label(value));
        let class = if tick == 0 { "axis" } else { "grid" };
        put(format_args!(
            "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>\
             <text class=\"word\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            y + 4.0
        ));
    }
    for tick in 0..=(x_end / x_step).round() as u32 {
        let value = f64::from(tick) * x_step;
        let (x, label) = (x_of(value), tick_label(value));
        put(format_args!(
            "<text class=\"word\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 20.0
        ));
    }
    put(format_args!(
        "<text class=\"word\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">connections</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 40.0
    ));
    let mut legend = 24.0;
    for (server, points) in series {
        let (class, name) = (server.name(), server.title());
        let mut path = String::new();
        for (&x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let (x, median) = (x_of(f64::from(x)), y_of(y.median));
            let _ = write!(path, "{command}{x:.1} {median:.1}");
            put(format_args!(
                "<path class=\"spread {class}\" d=\"M{x:.1} {:.1}V{:.1}\"/>\
                 <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{median:.1}\" r=\"3.5\"/>",
                y_of(y.least),
                y_of(y.most)
            ));
        }
        put(format_args!("<path class=\"{class} line\" d=\"{path}\"/>"));
        put(format_args!(
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"51\" r=\"4.5\"/>\
             <text class=\"word\" x=\"{:.1}\" y=\"55\">{name}</text>",
            legend + 5.0,
            legend + 16.0
        ));
        // About eight pixels a letter.
        legend += 36.0 + 8.0 * name.len() as f64;
    }
    put(format_args!("</svg>"));
    svg
}

/// A round step that divides an axis into a few parts.
fn step(end: f64) -> f64 {
    let magnitude = 10_f64.powf((end / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude);
    let fits = steps.into_iter().find(|step| end / step <= 6.0);
    fits.unwrap_or(end)
}

fn tick_label(value: f64) -> String {
    if value.fract() == 0.0 && value < 100.0 {
        format!("{value:.0}")
    } else {
        number(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    #[test]
    fn steps_are_round() {
        let steps = [1.0, 3.0, 90_000.0, 18_000.0, 512.0].map(step);
        assert_eq!(steps, [0.2, 0.5, 20_000.0, 5_000.0, 100.0]);
    }

    #[test]
    fn a_chart_has_a_point_for_each_number_of_connections() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = [
            outcome(Server::Stentor, 1000, 100.0),
            outcome(Server::Stentor, 1000, 120.0),
            outcome(Server::Stentor, 2000, 90.0),
            outcome(Server::WebStomp, 1000, 20.0),
            Outcome {
                case: "unicast 5000 1000 outstanding 256 bytes TLS".into(),
                ..outcome(Server::Stentor, 5000, 50.0)
            },
        ];
        let written = write(&outcomes, folder.path()).unwrap();
        let [only] = written.as_slice() else {
            panic!("{written:?}");
        };
        assert!(only.ends_with("performance-unicast.svg"));
        let svg = fs::read_to_string(only).unwrap();
        assert_eq!(svg.matches(" r=\"3.5\"").count(), 3, "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"));
    }
}

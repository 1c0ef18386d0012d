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
const LEFT: f64 = 80.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 300.0;

/// A chart: a measure of a scenario against connections.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) scenario: Scenario,
    metric: &'static str,
}

/// All charts that there can be.
pub(crate) const CHARTS: &[Chart] = &[
    Chart {
        file: "performance-memory.svg",
        title: "Memory of all servers, MiB",
        scenario: Scenario::Idle,
        metric: "memory_mib_servers",
    },
    Chart {
        file: "performance-unicast.svg",
        title: "Messages to single users, deliveries a second",
        scenario: Scenario::Unicast,
        metric: "deliveries_per_second",
    },
    Chart {
        file: "performance-broadcast.svg",
        title: "Messages to everybody, deliveries a second",
        scenario: Scenario::Broadcast,
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
        let series = series(outcomes, chart.scenario, chart.metric);
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

fn series(outcomes: &[Outcome], scenario: Scenario, metric: &str) -> Series {
    let mut values: BTreeMap<Server, BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for outcome in outcomes
        .iter()
        .filter(|outcome| outcome.scenario == scenario)
    {
        if let Some(&value) = outcome.metrics.get(metric) {
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
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}</text>"
    ));
    for tick in 0..=(y_end / y_step).round() as u32 {
        let value = f64::from(tick) * y_step;
        let (y, label) = (y_of(value), tick_label(value));
        put(format_args!(
            "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            y + 4.0
        ));
    }
    for tick in 0..=(x_end / x_step).round() as u32 {
        let value = f64::from(tick) * x_step;
        let (x, label) = (x_of(value), tick_label(value));
        put(format_args!(
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 18.0
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">connections</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 36.0
    ));
    for (number, (server, points)) in series.iter().enumerate() {
        let (name, colour) = look(*server);
        let mut path = String::new();
        for (&x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let (x, median) = (x_of(f64::from(x)), y_of(y.median));
            let _ = write!(path, "{command}{x:.1} {median:.1}");
            put(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{median:.1}\" r=\"3.5\" fill=\"{colour}\"/>\
                 <path d=\"M{x:.1} {:.1}V{:.1}\" stroke=\"{colour}\"/>",
                y_of(y.least),
                y_of(y.most)
            ));
        }
        put(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        ));
        let x = LEFT + 160.0 * number as f64;
        put(format_args!(
            "<rect x=\"{x:.1}\" y=\"30\" width=\"12\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"37\">{name}</text>",
            x + 18.0
        ));
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

const fn look(server: Server) -> (&'static str, &'static str) {
    match server {
        Server::Stentor => ("Stentor", "#0b6e4f"),
        Server::WebStomp => ("Web STOMP", "#c44536"),
        Server::Embedded => ("embedded broker", "#3d5a98"),
        Server::Nats => ("nats-server", "#8a6d1f"),
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
        ];
        let written = write(&outcomes, folder.path()).unwrap();
        let [only] = written.as_slice() else {
            panic!("{written:?}");
        };
        assert!(only.ends_with("performance-unicast.svg"));
        let svg = fs::read_to_string(only).unwrap();
        assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"));
    }
}

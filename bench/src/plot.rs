//! Charts (SVG) of memory and throughput against connections, from saved runs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use crate::{
    named::Named as _,
    outcome::Outcome,
    scenario::Scenario,
    servers::{RABBITMQ_NOTE, Server},
    summary::{Summary, short},
};

const SIZE: (u32, u32) = (640, 360);

pub(crate) const CARD: RGBColor = RGBColor(0xfb, 0xf9, 0xf5);
pub(crate) const TITLE: RGBColor = RGBColor(0x22, 0x1d, 0x17);
pub(crate) const WORD: RGBColor = RGBColor(0x66, 0x5d, 0x51);
pub(crate) const GRID: RGBColor = RGBColor(0xe2, 0xdc, 0xd2);
pub(crate) const AXIS: RGBColor = RGBColor(0x8f, 0x86, 0x78);

/// The colours for readers whose system is dark.
const DARK: [(RGBColor, &str); 8] = [
    (CARD, "#1d1a17"),
    (TITLE, "#f1ebe2"),
    (WORD, "#b5ab9d"),
    (GRID, "#3a342d"),
    (colour(Server::Stentor), "#d98a4b"),
    (colour(Server::WebStomp), "#6ba3e8"),
    (colour(Server::Embedded), "#8cbf78"),
    (colour(Server::Nats), "#b79be0"),
];

/// The colour of a server.
pub(crate) const fn colour(server: Server) -> RGBColor {
    match server {
        Server::Stentor => RGBColor(0xa4, 0x56, 0x1b),
        Server::WebStomp => RGBColor(0x1f, 0x63, 0xb5),
        Server::Embedded => RGBColor(0x4a, 0x7c, 0x3a),
        Server::Nats => RGBColor(0x7a, 0x5c, 0xa8),
    }
}

/// A chart: a measure of a scenario against connections.
pub(crate) struct Chart {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) scenario: Scenario,
    /// The text after the number of connections in its cases: no TLS, no SockJS, one node.
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
        let Some((note, series)) = series(outcomes, chart) else {
            continue;
        };
        let path = folder.join(chart.file);
        let title = match note.is_empty() {
            true => chart.title.to_owned(),
            false => format!("{} ({})", chart.title, note.trim_start()),
        };
        let svg = draw(&title, &series)?;
        fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// A measure by server and connections.
type Series = BTreeMap<Server, BTreeMap<u32, Summary>>;

/// The runs with the system's RabbitMQ; if there are none, those with the newest of the others, and
/// how their cases name it. `None`: no runs.
fn series(outcomes: &[Outcome], chart: &Chart) -> Option<(String, Series)> {
    let note_of = |outcome: &Outcome| {
        let case = format!(
            "{} {}{}",
            chart.scenario.name(),
            outcome.connections,
            chart.case
        );
        let note = outcome.case.strip_prefix(&case)?;
        (note.is_empty() || note.starts_with(RABBITMQ_NOTE)).then(|| note.to_owned())
    };
    let mut notes: BTreeMap<String, BTreeMap<(Server, u32), Vec<f64>>> = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.build.is_none()) {
        if let Some(&value) = outcome.metrics.get(chart.metric)
            && let Some(note) = note_of(outcome)
        {
            let values = notes.entry(note).or_default();
            let subject = (outcome.server, outcome.connections);
            values.entry(subject).or_default().push(value);
        }
    }
    let (note, values) = match notes.remove_entry("") {
        Some(plain) => plain,
        None => notes.pop_last()?,
    };
    let mut series = Series::new();
    for ((server, connections), values) in values {
        let points = series.entry(server).or_default();
        points.extend(Summary::of(values).map(|summary| (connections, summary)));
    }
    Some((note, series))
}

/// Medians joined by lines, and a bar from the least to the most.
fn draw(title: &str, series: &Series) -> Result<String> {
    let points = || series.values().flatten();
    let widest = points().map(|(&x, _)| f64::from(x)).fold(1.0, f64::max);
    let highest = points().map(|(_, y)| y.most).fold(1.0, f64::max);
    let word = ("sans-serif", 13).into_font().color(&WORD);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    area.fill(&CARD)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16).into_font().color(&TITLE))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        // The names of all servers find room above the highest point.
        .build_cartesian_2d(0.0..1.04 * widest, 0.0..1.5 * highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(word.clone())
        .x_labels(8)
        .y_labels(6)
        .x_desc("connections")
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (&server, points) in series {
        let colour = colour(server);
        let medians = points.iter().map(|(&x, y)| (f64::from(x), y.median));
        chart
            .draw_series(LineSeries::new(medians, colour.stroke_width(2)))?
            .label(server.title())
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
        chart.draw_series(points.iter().map(|(&x, y)| {
            ErrorBar::new_vertical(f64::from(x), y.least, y.median, y.most, colour.filled(), 7)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(CARD)
        .label_font(word)
        .draw()?;
    area.present()?;
    drop((chart, area));
    Ok(light_or_dark(title, &svg))
}

/// Has the chart follow the reader's system, and say to machines what it is.
pub(crate) fn light_or_dark(title: &str, svg: &str) -> String {
    let rules = DARK.map(|(RGBColor(red, green, blue), dark)| {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        format!("[fill='{light}'] {{ fill: {dark} }} [stroke='{light}'] {{ stroke: {dark} }}\n")
    });
    let style = format!(
        "<style>\n@media (prefers-color-scheme: dark) {{\n{}}}\n</style>",
        rules.concat()
    );
    let svg = svg.replacen(
        "<svg ",
        &format!("<svg role='img' aria-label='{title}' "),
        1,
    );
    svg.replacen('>', &format!(">\n{style}"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

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
        let (points, legend) = (3, 2);
        assert_eq!(svg.matches("<circle").count(), points + legend, "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn runs_with_another_rabbitmq_are_drawn_where_there_are_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let plain = outcome(Server::Stentor, 1000, 100.0);
        let newer = Outcome {
            case: format!("{} RabbitMQ 4", plain.case),
            ..plain.clone()
        };
        let drawn = |outcomes: &[Outcome]| {
            let written = write(outcomes, folder.path()).unwrap();
            fs::read_to_string(&written[0]).unwrap()
        };
        assert!(drawn(std::slice::from_ref(&newer)).contains("(RabbitMQ 4)"));
        assert!(!drawn(&[newer, plain]).contains("RabbitMQ 4"));
    }
}

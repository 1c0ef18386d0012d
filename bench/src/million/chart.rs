//! A chart of a run: memory of each part, and connections, against time.

use anyhow::Result;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    bar::thousands,
    held::Held,
    watch::{Part, Sample},
};
use crate::{
    plot::{AXIS, CARD, GRID, TITLE, WORD, colour, light_or_dark},
    servers::Server,
    summary::short,
};

const SIZE: (u32, u32) = (760, 540);

/// The height of the part for memory.
const MEMORY: u32 = 330;

/// The hook's share is too small to see.
const SHOWN: [(Part, RGBColor); 5] = [
    (Part::Everything, TITLE),
    (Part::Kernel, colour(Server::Nats)),
    (Part::Gateways, colour(Server::Stentor)),
    (Part::Clients, colour(Server::Embedded)),
    (Part::Rabbitmq, colour(Server::WebStomp)),
];

/// A part of the picture.
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws it, as SVG.
///
/// # Errors
/// Never: a string takes all.
pub(super) fn draw(held: &Held) -> Result<String> {
    let title = format!(
        "{} connections on {} gateways: memory, GiB",
        thousands(held.connections.into()),
        held.gateways
    );
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&CARD)?;
        let (upper, lower) = area.split_vertically(MEMORY);
        let time = Time::of(held);
        memory(&upper, held, &time, &title)?;
        connections(&lower, held, &time)?;
        area.present()?;
    }
    Ok(light_or_dark(&title, &svg))
}

/// The axis of time: in minutes, if it took some. It begins when all parts were started.
struct Time {
    unit: &'static str,
    scale: f64,
    begin: f64,
    end: f64,
}

impl Time {
    fn of(held: &Held) -> Self {
        let begin = held.samples.first().map_or(0.0, |sample| sample.at);
        let last = held.samples.last().map_or(begin, |sample| sample.at);
        let seconds = (last - begin).max(1.0);
        let (unit, scale) = if seconds > 600.0 {
            ("minutes", 1.0 / 60.0)
        } else {
            ("seconds", 1.0)
        };
        let end = seconds * scale;
        Self {
            unit,
            scale,
            begin,
            end,
        }
    }

    fn at(&self, seconds: f64) -> f64 {
        ((seconds - self.begin) * self.scale).clamp(0.0, self.end)
    }
}

fn memory(area: &Area<'_>, held: &Held, time: &Time, title: &str) -> Result<()> {
    let gib = |sample: &Sample, part| {
        let mib = sample.memory.get(&part).copied().unwrap_or_default();
        mib.max(0.0) / 1024.0
    };
    let all = held.samples.iter();
    let all = all.flat_map(|sample| SHOWN.map(|(part, _)| gib(sample, part)));
    let highest = all.fold(0.1, f64::max);
    let word = ("sans-serif", 13).into_font().color(&WORD);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16).into_font().color(&TITLE))
        .margin(16)
        .x_label_area_size(20)
        .y_label_area_size(60)
        // The names of all parts find room above the highest point.
        .build_cartesian_2d(0.0..time.end, 0.0..1.6 * highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(word.clone())
        .y_labels(6)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    for (part, colour) in SHOWN {
        let points = held.samples.iter();
        let points = points.map(|sample| (time.at(sample.at), gib(sample, part)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(part.title())
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(CARD)
        .label_font(word)
        .draw()?;
    Ok(())
}

fn connections(area: &Area<'_>, held: &Held, time: &Time) -> Result<()> {
    let most = f64::from(held.connections);
    let word = ("sans-serif", 13).into_font().color(&WORD);
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..time.end, 0.0..2.1 * most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(word.clone())
        .y_labels(3)
        .x_desc(format!("connections, against {}", time.unit))
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .draw()?;
    let points = held.samples.iter();
    let points = points.map(|sample| (time.at(sample.at), f64::from(sample.connections)));
    chart.draw_series(LineSeries::new(points, TITLE.stroke_width(2)))?;
    // A word where each phase begins, each in a row of its own: some are short.
    for (row, (begins, phase)) in held.phases.iter().enumerate() {
        let x = time.at(*begins);
        let side = if x > 0.8 * time.end {
            HPos::Right
        } else {
            HPos::Left
        };
        let style = word.clone().pos(Pos::new(side, VPos::Bottom));
        let y = (2.0 - 0.19 * row as f64) * most;
        let mark = [(x, 0.0), (x, y)];
        chart.draw_series(LineSeries::new(mark, GRID.stroke_width(1)))?;
        let text = Text::new(format!(" {phase} "), (x, y), style);
        chart.draw_series(std::iter::once(text))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_a_line() {
        let svg = draw(&super::super::held::tests::held(100_000)).unwrap();
        let lines = SHOWN.len() + 1;
        assert!(svg.matches("<polyline").count() >= lines, "{svg}");
        assert!(svg.contains("connect") && svg.contains("100,000 connections"));
        assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN"));
    }
}

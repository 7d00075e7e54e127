//! Draws the run: the calls answered in time, and the attempts sent to the dependency.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::calls::{Call, Records};
use crate::plan::{Plan, WORKERS};
use crate::stats;

const SIZE: (u32, u32) = (960, 640);
const NAIVE: RGBColor = RGBColor(0xc9, 0x3a, 0x2b);
const BUTTRESS: RGBColor = RGBColor(0x1b, 0x6e, 0xb5);
const OUTAGE: RGBColor = RGBColor(0xf3, 0xe3, 0xb5);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Seconds since the start and a value.
type Line = Vec<(f64, f64)>;

/// The content of a panel.
struct Panel<'a> {
    title: &'a str,
    unit: &'a str,
    most: f64,
    lines: [Line; 2],
    /// The height of a line across the whole panel, and its label.
    mark: Option<(f64, String)>,
}

/// Draws the run as far as it is known.
pub(crate) fn write(
    path: &Path,
    plan: &Plan,
    until: Duration,
    sides: [&Records; 2],
) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut svg = String::new();
    draw(&mut svg, plan, until, sides).map_err(|error| io::Error::other(error.to_string()))?;
    fs::write(path, svg)
}

fn draw(svg: &mut String, plan: &Plan, until: Duration, sides: [&Records; 2]) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.margin(12, 8, 8, 8);
    let title = format!(
        "One outage, two clients ({}: {})",
        plan.fault.name(),
        plan.fault.what_happens()
    );
    let root = root.titled(&title, ("sans-serif", 22).into_font().color(&INK))?;
    let (above, below) = root.split_vertically(50.percent_height());
    let goodput = Panel {
        title: "Calls answered in time",
        unit: "% of that second's calls",
        most: 110.0,
        lines: sides.map(|side| goodput(&side.calls, plan, until)),
        mark: None,
    };
    let lines = sides.map(|side| attempts(&side.attempts, plan, until));
    let capacity = f64::from(WORKERS) / plan.service.as_secs_f64();
    let attempts = Panel {
        title: "Attempts sent to the dependency",
        unit: "attempts per second",
        most: lines
            .iter()
            .flatten()
            .map(|(_, n)| *n)
            .fold(capacity * 1.5, f64::max)
            * 1.1,
        lines,
        mark: Some((capacity, format!("capacity: {capacity:.0} per second"))),
    };
    panel(&above, plan, goodput, true)?;
    panel(&below, plan, attempts, false)?;
    root.present()?;
    Ok(())
}

fn panel(area: &Area<'_>, plan: &Plan, panel: Panel<'_>, legend: bool) -> Drawn {
    let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
    let mut chart: Chart<'_, '_> = ChartBuilder::on(area)
        .caption(panel.title, text(18))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..plan.load_end.as_secs_f64(), 0.0..panel.most)?;
    let outage = [
        (plan.outage.start.as_secs_f64(), 0.0),
        (plan.outage.end.as_secs_f64(), panel.most),
    ];
    chart.draw_series([Rectangle::new(outage, OUTAGE.filled())])?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the start")
        .y_desc(panel.unit)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .label_style(text(13))
        .axis_desc_style(text(14))
        .draw()?;
    chart.draw_series([Text::new(
        "outage",
        (outage[0].0 + 0.15, panel.most * 0.97),
        text(14),
    )])?;
    let whole = |y| [(0.0, y), (plan.load_end.as_secs_f64(), y)];
    if let Some((y, label)) = panel.mark {
        chart.draw_series(DashedLineSeries::new(whole(y), 6, 5, INK.stroke_width(1)))?;
        // Its right end is above what is sent after the outage and, at load 0.8, below a storm.
        let right = text(13).pos(Pos::new(HPos::Right, VPos::Bottom));
        chart.draw_series([Text::new(
            label,
            (whole(y)[1].0, y + panel.most * 0.02),
            right,
        )])?;
    }
    for (line, (name, color)) in panel
        .lines
        .into_iter()
        .zip([("naive client", NAIVE), ("with buttress", BUTTRESS)])
    {
        let series = chart.draw_series(LineSeries::new(line, color.stroke_width(3)))?;
        if legend {
            series.label(name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3))
            });
        }
    }
    if legend {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleRight)
            .background_style(WHITE.mix(0.9))
            .border_style(INK.mix(0.4))
            .label_font(text(15))
            .draw()?;
    }
    Ok(())
}

/// The share of the calls that arrived in each second and were ok, in percent.
fn goodput(calls: &[Call], plan: &Plan, until: Duration) -> Line {
    calls[..calls.partition_point(|call| call.arrived < until)]
        .chunk_by(|a, b| a.arrived.as_secs() == b.arrived.as_secs())
        .filter_map(|second| Some((second[0].arrived.as_secs(), stats::goodput(second)? * 100.0)))
        .flat_map(|(second, percent)| step(second, percent, plan))
        .collect()
}

/// How many attempts were sent in each second.
fn attempts(attempts: &[Duration], plan: &Plan, until: Duration) -> Line {
    (0..plan.load_end.min(until).as_secs())
        .flat_map(|second| {
            let sent = attempts.iter().filter(|at| at.as_secs() == second).count();
            step(second, stats::count(sent), plan)
        })
        .collect()
}

/// A value that holds for a whole second: a slope would show changes before they happened.
fn step(second: u64, value: f64, plan: &Plan) -> [(f64, f64); 2] {
    let at = |second| Duration::from_secs(second).min(plan.load_end).as_secs_f64();
    [(at(second), value), (at(second + 1), value)]
}

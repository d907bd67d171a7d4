//! The picture: offered load against goodput and against latency, as SVG of a few lines and words.

use crate::Row;
use crate::load::Kind;
use crate::svg::{begin, curve, dots, line, text};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 680.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 690.0;
/// Top and bottom of the two panels.
const GOODPUT: (f64, f64) = (60.0, 310.0);
const LATENCY: (f64, f64) = (380.0, 620.0);
const COLOURS: [&str; 4] = ["#1b7837", "#2166ac", "#b35806", "#7b3294"];

/// A logarithmic axis.
struct Log {
    from: f64,
    to: f64,
    at: (f64, f64),
}

impl Log {
    fn place(&self, value: f64) -> f64 {
        let part = (value.max(self.from) / self.from).ln() / (self.to / self.from).ln();
        self.at.0 + part.min(1.0) * (self.at.1 - self.at.0)
    }
}

/// A drawing of the rows.
pub fn draw(rows: &[Row], peak: f64) -> String {
    let times = |row: &Row| row.times;
    let (least, most) = (rows.iter().map(times).fold(f64::MAX, f64::min), rows.iter().map(times).fold(0.0, f64::max));
    let x = Log { from: least, to: most.max(least * 2.0), at: (LEFT, RIGHT) };
    let mut svg = begin(WIDTH, HEIGHT);
    text(&mut svg, (LEFT, 28.0), "start", 17, "Offered load against goodput and latency");
    goodput(&mut svg, rows, peak, &x);
    latency(&mut svg, rows, &x);
    svg.push_str("</svg>\n");
    svg
}

fn goodput(svg: &mut String, rows: &[Row], peak: f64, x: &Log) {
    let (top, bottom) = GOODPUT;
    let most = rows.iter().map(|row| row.measured.goodput()).fold(peak, f64::max) * 1.2;
    let y = |value: f64| bottom - value / most * (bottom - top);
    frame(svg, GOODPUT, rows, x, "decided within 1 s, requests a second");
    for part in 0..=4 {
        let value = peak * f64::from(part) / 4.0;
        line(svg, (LEFT, y(value)), (RIGHT, y(value)), "#dddddd", 1.0);
        text(svg, (LEFT - 8.0, y(value) + 4.0), "end", 12, &format!("{value:.0}"));
    }
    line(svg, (LEFT, y(peak * 0.9)), (RIGHT, y(peak * 0.9)), "#cc0000", 1.0);
    text(svg, (RIGHT + 8.0, y(peak * 0.9) + 12.0), "start", 12, "90 % of the peak");
    curve(svg, rows.iter().map(|row| (x.place(row.times), y(row.measured.goodput()))), "#000000");
    if let Some(last) = rows.last() {
        text(svg, (RIGHT + 8.0, y(last.measured.goodput()) - 4.0), "start", 13, "all");
    }
    for (kind, colour) in Kind::ALL.into_iter().zip(COLOURS) {
        let good = |row: &Row| row.measured.of(kind).good as f64 / row.measured.seconds;
        curve(svg, rows.iter().map(|row| (x.place(row.times), y(good(row)))), colour);
    }
    for (nth, (kind, colour)) in Kind::ALL.into_iter().zip(COLOURS).enumerate() {
        let at = bottom - 60.0 + 16.0 * nth as f64;
        line(svg, (RIGHT + 10.0, at - 4.0), (RIGHT + 30.0, at - 4.0), colour, 2.0);
        text(svg, (RIGHT + 36.0, at), "start", 12, kind.label());
    }
}

fn latency(svg: &mut String, rows: &[Row], x: &Log) {
    let (top, bottom) = LATENCY;
    let y = Log { from: 1.0, to: 10_000.0, at: (bottom, top) };
    frame(svg, LATENCY, rows, x, "milliseconds from when it was due, of what was not refused: p99 (p50 dotted)");
    for power in 0..=4 {
        let value = 10_f64.powi(power);
        line(svg, (LEFT, y.place(value)), (RIGHT, y.place(value)), "#dddddd", 1.0);
        text(svg, (LEFT - 8.0, y.place(value) + 4.0), "end", 12, &format!("{value}"));
    }
    line(svg, (LEFT, y.place(1_000.0)), (RIGHT, y.place(1_000.0)), "#cc0000", 1.0);
    text(svg, (RIGHT + 8.0, y.place(1_000.0) + 4.0), "start", 12, "1 s");
    for (kind, colour) in Kind::ALL.into_iter().zip(COLOURS) {
        for (quantile, dotted) in [(0.99, false), (0.5, true)] {
            let some = rows.iter().filter(|row| !row.measured.of(kind).latencies.is_empty());
            let ms = |row: &Row| row.measured.of(kind).latencies.value_at_quantile(quantile) as f64 / 1e3;
            let points: Vec<(f64, f64)> = some.map(|row| (x.place(row.times), y.place(ms(row)))).collect();
            if dotted { dots(svg, points, colour) } else { curve(svg, points.into_iter(), colour) }
        }
    }
    let middle = (LEFT + RIGHT) / 2.0;
    text(svg, (middle, HEIGHT - 16.0), "middle", 13, "offered load, as a multiple of the peak");
}

/// A panel with its ticks of the offered load.
fn frame(svg: &mut String, (top, bottom): (f64, f64), rows: &[Row], x: &Log, what: &str) {
    text(svg, (LEFT, top - 10.0), "start", 13, what);
    line(svg, (LEFT, bottom), (RIGHT, bottom), "#000000", 1.0);
    line(svg, (LEFT, top), (LEFT, bottom), "#000000", 1.0);
    for row in rows {
        let at = x.place(row.times);
        line(svg, (at, bottom), (at, bottom + 5.0), "#000000", 1.0);
        text(svg, (at, bottom + 20.0), "middle", 12, &format!("{}x", row.times));
    }
}

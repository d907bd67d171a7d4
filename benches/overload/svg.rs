//! Lines and words of an SVG picture: as much as the pictures in `docs/` need.

use std::fmt::Write as _;

/// The beginning of a picture of this size; it ends with `</svg>`.
pub fn begin(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    )
}

pub fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u32, what: &str) {
    let _ =
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{what}</text>");
}

pub fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn points(at: impl Iterator<Item = (f64, f64)>) -> String {
    at.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

pub fn curve(svg: &mut String, at: impl Iterator<Item = (f64, f64)>, colour: &str) {
    let at = points(at);
    let _ = writeln!(svg, "<polyline points=\"{at}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
}

pub fn dots(svg: &mut String, at: Vec<(f64, f64)>, colour: &str) {
    let at = points(at.into_iter());
    let _ = writeln!(
        svg,
        "<polyline points=\"{at}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"2 4\"/>"
    );
}

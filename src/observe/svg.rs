//! Draws latency histograms as one SVG picture. Histograms flow in, text of an SVG file flows out.

use super::Histogram;
use std::fmt::Write;

/// Bars per panel.
const BARS: usize = 60;

/// One panel: a title, what its axis says, and the durations.
pub struct Panel<'a> {
    /// Heading.
    pub title: &'a str,
    /// The durations.
    pub histogram: &'a Histogram,
}

/// Draws the panels below each other: share of all values over a logarithmic axis in µs, with p50, p99 and max marked.
pub fn draw(panels: &[Panel<'_>]) -> String {
    let height = 190 * panels.len() + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, 190 * index + 10);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Position of a duration on the axis, 0 at 0.1 µs to 1 at 1 s.
fn place(us: f64) -> f64 {
    ((us.max(0.1).log10() + 1.0) / 7.0).clamp(0.0, 1.0)
}

fn draw_panel(svg: &mut String, panel: &Panel<'_>, top: usize) {
    let (left, width, bottom) = (50.0, 680.0, top as f64 + 150.0);
    let mut bars = [0_u64; BARS];
    for (upper, count) in panel.histogram.buckets() {
        bars[((place(upper.0 as f64 / 1e3) * BARS as f64) as usize).min(BARS - 1)] += count;
    }
    let most = bars.iter().copied().max().unwrap_or(0).max(1) as f64;
    let text_y = top + 14;
    let quantiles = panel.histogram.quantiles(1e3);
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"{text_y}\" font-weight=\"bold\">{}</text><text x=\"730\" y=\"{text_y}\" \
         text-anchor=\"end\">n {}, p50 {:.1}, p99 {:.1}, max {:.1} µs</text>",
        panel.title, quantiles.n, quantiles.p50, quantiles.p99, quantiles.max
    );
    for (index, count) in bars.iter().enumerate().filter(|(_, count)| **count > 0) {
        let tall = (110.0 * *count as f64 / most).max(1.0);
        let x = left + width * index as f64 / BARS as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"#4a7fb5\"/>",
            bottom - tall,
            width / BARS as f64 - 1.0
        );
    }
    for (name, us) in [("p50", quantiles.p50), ("p99", quantiles.p99), ("max", quantiles.max)] {
        let x = left + width * place(us);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#c33\" stroke-dasharray=\"3 3\"/>\
             <text x=\"{x:.1}\" y=\"{}\" fill=\"#c33\" text-anchor=\"middle\">{name}</text>",
            top + 34,
            top + 30
        );
    }
    for decade in 0..=7 {
        let us = 10_f64.powi(decade - 1);
        let label = if us < 1e3 { format!("{us} µs") } else { format!("{} ms", us / 1e3) };
        let x = left + width * place(us);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\" stroke=\"#333\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 4.0,
            bottom + 17.0
        );
    }
    let _ =
        writeln!(svg, "<line x1=\"{left}\" x2=\"{}\" y1=\"{bottom}\" y2=\"{bottom}\" stroke=\"#333\"/>", left + width);
}

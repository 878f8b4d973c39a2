//! How do the medians look as a picture?
//!
//! SVG, written by hand: a panel for each of some figures, and in it one bar for each program.

use super::figures::{Metric, Rounds};
use super::gate::UMBRA;
use std::fmt::Write as _;

/// What is drawn, and which way is better.
const PANELS: [(Metric, &str); 6] = [
    (Metric::TcpMean, "more is better"),
    (Metric::CpuPerGb, "less is better"),
    (Metric::Udp64, "more is better"),
    (Metric::Udp1400, "more is better"),
    (Metric::PingLoad, "less is better"),
    (Metric::Rss, "less is better"),
];
const WIDTH: f64 = 760.0;
/// Where bars begin, and how long the longest is: names stand to the left, values to the right.
const LEFT: f64 = 160.0;
const LONGEST: f64 = 480.0;
const ROW: f64 = 22.0;
const HEADING: f64 = 34.0;
const TITLE: f64 = 48.0;

/// The picture of `programs`, from top to bottom. `title` says what was measured, and how.
pub fn draw(rounds: &Rounds, programs: &[&str], title: &str) -> String {
    let panel_height = HEADING + ROW * programs.len() as f64;
    let height = TITLE + panel_height * PANELS.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, (12.0, 26.0), "start", "font-weight=\"bold\"", title);
    for (number, (metric, better)) in PANELS.into_iter().enumerate() {
        let top = TITLE + panel_height * number as f64;
        text(&mut svg, (12.0, top + 18.0), "start", "font-weight=\"bold\"", &format!("{} ({better})", metric.title()));
        draw_bars(&mut svg, rounds, programs, metric, top + HEADING);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_bars(svg: &mut String, rounds: &Rounds, programs: &[&str], metric: Metric, top: f64) {
    let values: Vec<_> = programs.iter().map(|program| rounds.median(program, metric)).collect();
    let largest = values.iter().flatten().copied().fold(0.0, f64::max);
    for (row, (program, value)) in programs.iter().zip(values).enumerate() {
        let (y, colour) = (top + ROW * row as f64, if *program == UMBRA { "#4527a0" } else { "#90a4ae" });
        text(svg, (LEFT - 8.0, y + 13.0), "end", "", program);
        let Some(value) = value else {
            text(svg, (LEFT + 4.0, y + 13.0), "start", "fill=\"#757575\"", "not measured");
            continue;
        };
        let length = if largest > 0.0 { LONGEST * value / largest } else { 0.0 };
        // Writing into a String cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            ROW - 6.0
        );
        text(svg, (LEFT + length + 6.0, y + 13.0), "start", "", &format!("{value:.*}", metric.digits()));
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figures;
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values_and_names_cannot_break_out() {
        let figures = |value| Figures([(Metric::TcpMean, value)].into());
        let programs = [(UMBRA, 6.0), ("<b>&", 1.5)].map(|(name, value)| (name.to_owned(), figures(value)));
        let svg = draw(&Rounds(vec![programs.into()]), &[UMBRA, "<b>&", "absent"], "a < b");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("width=\"480.0\"") && svg.contains("width=\"120.0\""), "{svg}");
        assert!(svg.contains("&lt;b&gt;&amp;") && svg.contains("a &lt; b") && !svg.contains("<b>"));
        // One program without the figure, and five panels in which nobody has one.
        assert_eq!(svg.matches("not measured").count(), 1 + 5 * 3);
        assert_eq!(svg.matches("<rect").count(), 1 + 2);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn values_of_zero_are_drawn_too() {
        let svg = draw(&Rounds(vec![[(UMBRA.to_owned(), Figures([(Metric::Rss, 0.0)].into()))].into()]), &[UMBRA], "");
        assert!(svg.contains("width=\"0.0\"") && !svg.contains("NaN"));
    }
}

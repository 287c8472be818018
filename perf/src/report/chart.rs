//! Two kinds of plot, as SVG: bars with their spread, and lines over steps. Nothing is drawn that was not measured.

use super::page::escaped;
use crate::compare::number;
use std::fmt::Write;

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 210.0;
const BAR_HEIGHT: f64 = 22.0;
const LINES_HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7d53de", "#00798c", "#8d6a4f", "#5b5f66"];

/// A figure, and how far its rounds lie apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// One of ours.
    pub(super) is_emphasised: bool,
}

/// One under the other, from zero.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let top = bars.iter().flat_map(|bar| [bar.value, bar.max]).filter(|v| v.is_finite()).fold(0.0, f64::max);
    if bars.is_empty() || top <= 0.0 {
        return String::new();
    }
    let scale = (WIDTH - LABEL_WIDTH - 90.0) / top;
    let height = 30.0 + bars.len() as f64 * BAR_HEIGHT;
    let mut svg = open(title, height);
    for (n, bar) in bars.iter().enumerate() {
        let y = 28.0 + n as f64 * BAR_HEIGHT;
        let middle = y + BAR_HEIGHT / 2.0 - 2.0;
        let colour = if bar.is_emphasised { COLOURS[0] } else { "#b4bcc6" };
        let long = |value: f64| if value.is_finite() { value.max(0.0) * scale } else { 0.0 };
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>\
             <rect x='{LABEL_WIDTH}' y='{y:.1}' width='{:.1}' height='{:.1}' fill='{colour}'/>\
             <line x1='{:.1}' y1='{middle:.1}' x2='{:.1}' y2='{middle:.1}' stroke='#222'/>\
             <text x='{:.1}' y='{:.1}'>{}</text>",
            LABEL_WIDTH - 6.0,
            middle + 4.0,
            escaped(&bar.label),
            long(bar.value),
            BAR_HEIGHT - 5.0,
            LABEL_WIDTH + long(bar.min),
            LABEL_WIDTH + long(bar.max),
            LABEL_WIDTH + long(bar.value.max(bar.max)) + 6.0,
            middle + 4.0,
            number(bar.value),
        );
    }
    svg + "</svg>\n"
}

/// A name, and a value for each step where there is one.
pub(super) type Series = (String, Vec<Option<f64>>);

/// Steps side by side, evenly: sizes, numbers of flows and percentiles are chosen, not measured.
pub(super) fn lines(title: &str, unit: &str, steps: &[String], series: &[Series]) -> String {
    let values = || series.iter().flat_map(|(_, values)| values.iter().flatten().copied());
    let top = values().filter(|v| v.is_finite()).fold(0.0, f64::max);
    if steps.len() < 2 || top <= 0.0 {
        return String::new();
    }
    let height = LINES_HEIGHT + 60.0 + 18.0 * series.len() as f64;
    let mut svg = open(title, height);
    let bottom = LINES_HEIGHT;
    let x = |n: usize| LEFT + (WIDTH - LEFT - 40.0) * n as f64 / (steps.len() - 1) as f64;
    let y = |value: f64| bottom - (bottom - 36.0) * value / top;
    for part in 0..=4 {
        let value = top * f64::from(part) / 4.0;
        let at = y(value);
        let _ = write!(
            svg,
            "<line x1='{LEFT}' y1='{at:.1}' x2='{WIDTH}' y2='{at:.1}' stroke='#ddd'/>\
             <text x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
            LEFT - 6.0,
            at + 4.0,
            number(value)
        );
    }
    for (n, step) in steps.iter().enumerate() {
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='middle'>{}</text>",
            x(n),
            bottom + 18.0,
            escaped(step)
        );
    }
    for (n, (name, values)) in series.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let points: Vec<(f64, f64)> = values
            .iter()
            .enumerate()
            .filter_map(|(n, value)| value.filter(|v| v.is_finite()).map(|value| (x(n), y(value))))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
            path.join(" ")
        );
        for (x, y) in points {
            let _ = write!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{colour}'/>");
        }
        let at = bottom + 44.0 + 18.0 * n as f64;
        let _ = write!(
            svg,
            "<rect x='{LEFT}' y='{:.1}' width='14' height='4' fill='{colour}'/><text x='{:.1}' y='{:.1}'>{}</text>",
            at - 6.0,
            LEFT + 20.0,
            at,
            escaped(name)
        );
    }
    let _ = write!(svg, "<text x='4' y='{:.1}'>{}</text>", bottom + 18.0, escaped(unit));
    svg + "</svg>\n"
}

fn open(title: &str, height: f64) -> String {
    let title = escaped(title);
    format!(
        "<svg viewBox='0 0 {WIDTH} {height:.0}' role='img' aria-label='{title}'><text x='0' y='16' \
         class='title'>{title}</text>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_as_wide_as_there_is_room_and_half_of_it_half_as_wide() {
        let bar = |value| Bar { label: "a".into(), value, min: value, max: value, is_emphasised: false };
        let svg = bars("t", &[bar(4.0), bar(2.0)]);
        let widths: Vec<f64> =
            svg.split(" width='").skip(1).filter_map(|rest| rest.split('\'').next()?.parse().ok()).collect();
        assert_eq!(widths, [460.0, 230.0]);
    }

    #[test]
    fn a_step_without_a_value_has_no_point() {
        let svg = lines(
            "t",
            "Mpps",
            &["a".into(), "b".into(), "c".into()],
            &[("s".into(), vec![Some(1.0), None, Some(f64::NAN)])],
        );
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        assert_eq!(bars("t", &[]), "");
        assert_eq!(lines("t", "", &["one".into()], &[]), "");
    }
}

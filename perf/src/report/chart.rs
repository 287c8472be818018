//! Three kinds of plot, as SVG: bars with their spread, bars in parts, and lines over steps. Nothing is drawn that was not measured.

use super::page::escaped;
use crate::figures::number;
use std::fmt::Write;

const WIDTH: f64 = 780.0;
/// What a letter takes at the size plots are written in, on average.
const LETTER: f64 = 6.4;
const LABEL_WIDTH_MAX: f64 = 380.0;
const TITLE_HEIGHT: f64 = 42.0;
const BAR_HEIGHT: f64 = 22.0;
const LINES_HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const LEGEND_HEIGHT: f64 = 18.0;
const COLOURS: [&str; 10] = [
    "#1b6ca8", "#d1495b", "#2e933c", "#c98a12", "#7d53de", "#00798c", "#8d6a4f", "#5b5f66", "#d16ba5",
    "#9aa83a",
];

/// Something measured, and how far its samples lie apart. NaN was looked for and not found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// What a plot is of: a name, and in which unit; below it what all of it has in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Title<'a> {
    pub(super) name: &'a str,
    pub(super) unit: &'a str,
    pub(super) common: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) point: Point,
    /// One of ours.
    pub(super) is_emphasised: bool,
}

fn label_width<'a>(labels: impl Iterator<Item = &'a str>) -> f64 {
    let longest = labels.map(|label| label.chars().count()).max().unwrap_or_default();
    (longest as f64 * LETTER + 10.0).min(LABEL_WIDTH_MAX)
}

/// A label that finds room.
fn fitted(label: &str) -> String {
    let room = (LABEL_WIDTH_MAX / LETTER) as usize - 2;
    match label.chars().count() > room {
        true => label.chars().take(room - 1).chain(['…']).collect(),
        false => label.to_owned(),
    }
}

/// One under the other, from zero.
pub(super) fn bars(title: Title<'_>, bars: &[Bar]) -> String {
    let longest = bars.iter().flat_map(|bar| [bar.point.median, bar.point.max]).filter(|v| v.is_finite());
    let top = longest.fold(0.0, f64::max);
    if bars.is_empty() || top <= 0.0 {
        return String::new();
    }
    let left = label_width(bars.iter().map(|bar| bar.label.as_str()));
    let scale = (WIDTH - left - 180.0) / top;
    let mut svg = open(title, TITLE_HEIGHT + bars.len() as f64 * BAR_HEIGHT);
    for (n, bar) in bars.iter().enumerate() {
        let Point { median, min, max } = bar.point;
        let y = TITLE_HEIGHT + n as f64 * BAR_HEIGHT;
        let middle = y + (BAR_HEIGHT - 5.0) / 2.0;
        let colour = if bar.is_emphasised { COLOURS[0] } else { "#b4bcc6" };
        let long = |value: f64| if value.is_finite() { value.max(0.0) * scale } else { 0.0 };
        let spread = match max > min {
            true => format!(" ({} - {})", number(min), number(max)),
            false => String::new(),
        };
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>\
             <rect x='{left:.1}' y='{y:.1}' width='{:.1}' height='{:.1}' fill='{colour}'/>\
             <line x1='{:.1}' y1='{middle:.1}' x2='{:.1}' y2='{middle:.1}' stroke='#111' stroke-width='1.5'/>\
             <text x='{:.1}' y='{:.1}'>{}{}</text>",
            left - 6.0,
            middle + 4.0,
            escaped(&fitted(&bar.label)),
            long(median),
            BAR_HEIGHT - 5.0,
            left + long(min),
            left + long(max),
            left + long(median).max(long(max)) + 6.0,
            middle + 4.0,
            if median.is_nan() { "none found".to_owned() } else { number(median) },
            spread,
        );
    }
    svg + "</svg>\n"
}

/// Bars of parts, the same parts in all of them.
pub(super) fn stacks(title: Title<'_>, parts: &[String], bars: &[(String, Vec<f64>)]) -> String {
    let sum = |values: &[f64]| values.iter().filter(|v| v.is_finite()).sum::<f64>();
    let top = bars.iter().map(|(_, values)| sum(values)).fold(0.0, f64::max);
    if top <= 0.0 {
        return String::new();
    }
    let left = label_width(bars.iter().map(|(label, _)| label.as_str()));
    let scale = (WIDTH - left - 80.0) / top;
    let rows = TITLE_HEIGHT + bars.len() as f64 * BAR_HEIGHT;
    let (legend, height) = legend(rows + 12.0, parts);
    let mut svg = open(title, height);
    for (n, (label, values)) in bars.iter().enumerate() {
        let y = TITLE_HEIGHT + n as f64 * BAR_HEIGHT;
        let text = y + (BAR_HEIGHT - 5.0) / 2.0 + 4.0;
        let _ = write!(
            svg,
            "<text x='{:.1}' y='{text:.1}' text-anchor='end'>{}</text>",
            left - 6.0,
            escaped(&fitted(label))
        );
        let mut x = left;
        for (part, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let width = value.max(0.0) * scale;
            let _ = write!(
                svg,
                "<rect x='{x:.1}' y='{y:.1}' width='{width:.1}' height='{:.1}' fill='{}'/>",
                BAR_HEIGHT - 5.0,
                COLOURS[part % COLOURS.len()]
            );
            x += width;
        }
        let _ = write!(svg, "<text x='{:.1}' y='{text:.1}'>{}</text>", x + 6.0, number(sum(values).round()));
    }
    svg + &legend + "</svg>\n"
}

/// A name, and a point for each step where there is one.
pub(super) type Series = (String, Vec<Option<Point>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    FromZero,
    /// For what differs by orders of magnitude.
    Logarithmic,
}

/// Steps side by side, evenly: sizes, numbers of flows and percentiles are chosen, not measured. `axis`: what they are.
pub(super) fn lines(
    title: Title<'_>,
    axis: &str,
    steps: &[String],
    series: &[Series],
    scale: Scale,
) -> String {
    let points = || series.iter().flat_map(|(_, points)| points.iter().flatten());
    let values = || points().flat_map(|p| [p.median, p.max, p.min]).filter(|v| v.is_finite() && *v > 0.0);
    let top = values().fold(0.0, f64::max);
    if steps.len() < 2 || top <= 0.0 {
        return String::new();
    }
    let ticks = match scale {
        Scale::FromZero => linear_ticks(top),
        Scale::Logarithmic => logarithmic_ticks(values().fold(f64::INFINITY, f64::min), top),
    };
    let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
    let (high, low) = (TITLE_HEIGHT + 8.0, TITLE_HEIGHT + LINES_HEIGHT);
    let share = |value: f64| match scale {
        Scale::FromZero => value / last,
        Scale::Logarithmic => (value.max(first).ln() - first.ln()) / (last.ln() - first.ln()),
    };
    let x = |n: usize| LEFT + 30.0 + (WIDTH - LEFT - 90.0) * n as f64 / (steps.len() - 1) as f64;
    let y = |value: f64| low - (low - high) * share(value);
    let names: Vec<String> = series.iter().map(|(name, _)| name.clone()).collect();
    let (legend, height) = legend(low + 50.0, &names);
    let mut svg = open(title, height);
    for value in ticks {
        let at = y(value);
        let _ = write!(
            svg,
            "<line x1='{LEFT}' y1='{at:.1}' x2='{WIDTH}' y2='{at:.1}' stroke='#ddd'/>\
             <text x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
            LEFT - 6.0,
            at + 4.0,
            tick(value)
        );
    }
    for (n, step) in steps.iter().enumerate() {
        let (x, y) = (x(n), low + 18.0);
        let _ = write!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='middle'>{}</text>", escaped(step));
    }
    let _ = write!(
        svg,
        "<text x='{:.1}' y='{:.1}' text-anchor='middle' class='axis'>{}</text>",
        (LEFT + WIDTH) / 2.0,
        low + 34.0,
        escaped(axis)
    );
    for (nth, (_, points)) in series.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
        // Beside each other, or the spread of one hides that of the next.
        let aside = (nth as f64 - (series.len() as f64 - 1.0) / 2.0) * 3.0;
        let points: Vec<Option<(f64, Point)>> =
            points.iter().enumerate().map(|(n, point)| point.map(|point| (x(n) + aside, point))).collect();
        // A step at which nothing was found, or nothing was measured, is a gap in the line.
        for run in runs(&points) {
            let path: Vec<String> = run.iter().map(|(x, p)| format!("{x:.1},{:.1}", y(p.median))).collect();
            let _ = write!(
                svg,
                "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>",
                path.join(" ")
            );
        }
        let points = points.into_iter().flatten();
        for (x, _) in points.clone().filter(|(_, p)| p.median.is_nan()) {
            let _ = write!(
                svg,
                "<path d='M{:.1} {:.1}l8 8m0 -8l-8 8' stroke='{colour}' stroke-width='2'/>",
                x - 4.0,
                low - 4.0
            );
        }
        let points = points.filter(|(_, p)| p.median.is_finite());
        for (x, Point { median, min, max }) in points {
            let _ = write!(svg, "<circle cx='{x:.1}' cy='{:.1}' r='3.5' fill='{colour}'/>", y(median));
            if max > min {
                let (min, max) = (y(min), y(max));
                let _ = write!(
                    svg,
                    "<line x1='{x:.1}' y1='{min:.1}' x2='{x:.1}' y2='{max:.1}' stroke='{colour}'/>"
                );
            }
        }
    }
    svg + &legend + "</svg>\n"
}

/// Neighbours that are there.
fn runs(points: &[Option<(f64, Point)>]) -> Vec<Vec<(f64, Point)>> {
    let is_there = |point: &Option<(f64, Point)>| point.filter(|(_, p)| p.median.is_finite());
    let runs = points.split(|point| is_there(point).is_none());
    runs.map(|run| run.iter().filter_map(is_there).collect()).filter(|run: &Vec<_>| run.len() > 1).collect()
}

/// A round value without the zeros that say nothing.
fn tick(value: f64) -> String {
    let text = number(value);
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// From zero to at least `top`, at round values.
fn linear_ticks(top: f64) -> Vec<f64> {
    let power = 10f64.powf((top / 5.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| step * 5.0 >= top);
    let step = step.unwrap_or(top / 5.0);
    (0..=(top / step - 1e-9).ceil() as u32).map(|n| f64::from(n) * step).collect()
}

/// 1, 2 and 5 of each power of ten from below the least to above the most; powers alone where that is many.
fn logarithmic_ticks(least: f64, most: f64) -> Vec<f64> {
    let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let digits: &[f64] = if to - from > 3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all: Vec<f64> =
        (from..=to).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power))).collect();
    let first = all.iter().rposition(|tick| *tick <= least).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= most && *tick > all[first]).unwrap_or(all.len() - 1);
    all[first..=last].to_vec()
}

/// Names with their colours, in columns as wide as the longest; and where it ends.
fn legend(top: f64, names: &[String]) -> (String, f64) {
    let names: Vec<String> = names.iter().map(|name| name.chars().take(110).collect()).collect();
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let width = longest as f64 * LETTER + 40.0;
    let columns = (((WIDTH - LEFT) / width) as usize).max(1);
    let mut svg = String::new();
    for (n, name) in names.iter().enumerate() {
        let (x, y) = (LEFT + (n % columns) as f64 * width, top + (n / columns) as f64 * LEGEND_HEIGHT + 10.0);
        let _ = write!(
            svg,
            "<rect x='{x:.1}' y='{:.1}' width='14' height='5' fill='{}'/><text x='{:.1}' y='{y:.1}'>{}</text>",
            y - 6.5,
            COLOURS[n % COLOURS.len()],
            x + 20.0,
            escaped(name)
        );
    }
    (svg, top + names.len().div_ceil(columns) as f64 * LEGEND_HEIGHT + 6.0)
}

fn open(title: Title<'_>, height: f64) -> String {
    let name = match title.unit {
        "" => escaped(title.name),
        unit => format!("{}, {}", escaped(title.name), escaped(unit)),
    };
    format!(
        "<svg viewBox='0 0 {WIDTH} {height:.0}' role='img' aria-label='{name}'><text x='0' y='15' \
         class='title'>{name}</text><text x='0' y='31' class='common'>{}</text>",
        escaped(title.common)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: Title<'static> = Title { name: "t", unit: "Mpps", common: "" };

    fn point(value: f64) -> Point {
        Point { median: value, min: value, max: value }
    }

    #[test]
    fn the_longest_bar_is_as_wide_as_there_is_room_and_half_of_it_half_as_wide() {
        let bar = |value| Bar { label: "a".into(), point: point(value), is_emphasised: false };
        let svg = bars(TITLE, &[bar(4.0), bar(2.0)]);
        let widths: Vec<f64> =
            svg.split(" width='").skip(1).filter_map(|rest| rest.split('\'').next()?.parse().ok()).collect();
        assert!((widths[0] - 2.0 * widths[1]).abs() <= 0.1, "{widths:?}");
        assert!(widths[0] > WIDTH / 2.0 && widths[0] < WIDTH - 100.0, "{widths:?}");
    }

    #[test]
    fn a_step_without_a_value_has_no_point() {
        let points = vec![Some(point(1.0)), None, Some(point(f64::NAN))];
        let steps = ["a", "b", "c"].map(String::from);
        let svg = lines(TITLE, "", &steps, &[("s".into(), points)], Scale::FromZero);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert_eq!(svg.matches("<path").count(), 1, "what was not found is marked");
        assert_eq!(svg.matches("<polyline").count(), 0);
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        assert_eq!(bars(TITLE, &[]), "");
        assert_eq!(stacks(TITLE, &[], &[]), "");
        assert_eq!(lines(TITLE, "", &["one".into()], &[], Scale::FromZero), "");
    }

    #[test]
    fn an_axis_has_few_round_values_and_holds_all_there_is() {
        for top in [0.004, 0.93, 1.0, 3.0, 17.4, 99.0, 123_456.0] {
            let ticks = linear_ticks(top);
            assert_eq!(ticks[0], 0.0);
            assert!(*ticks.last().unwrap() >= top * 0.999_999, "{top}: {ticks:?}");
            assert!((3..=7).contains(&ticks.len()), "{top}: {ticks:?}");
        }
        for (least, most) in [(1.0, 1.0), (3.0, 70.0), (0.2, 9000.0), (12.0, 13.0)] {
            let ticks = logarithmic_ticks(least, most);
            assert!(ticks[0] <= least && *ticks.last().unwrap() >= most, "{least} {most}: {ticks:?}");
            assert!((2..=10).contains(&ticks.len()), "{least} {most}: {ticks:?}");
        }
    }
}

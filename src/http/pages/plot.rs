//! A small plot: a bar for each day. Made here as plain SVG, without a script, a font or a style of its own, so that the
//! strictest content policy shows it; its colours are the style sheet's.

use chrono::{NaiveDate, TimeDelta};

use crate::billing::finance::money::grouped;

/// One bar, in units of the drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bar {
    pub x: usize,
    pub y: usize,
    pub height: usize,
    /// `21 Nov: 1,234`, shown when the pointer rests on it and read aloud.
    pub said: String,
}

/// A plot with its words for those who do not see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    pub width: usize,
    pub bars: Vec<Bar>,
    pub said: String,
    pub first: String,
    pub last: String,
}

/// From one bar to the next, and how wide a bar is.
pub const STEP: usize = 10;
pub const BAR: usize = 8;
pub const HEIGHT: usize = 64;

impl Plot {
    /// Of days in a row, the last of which is `today`. What is below zero shows as nothing.
    pub fn of_days(days: &[i64], today: NaiveDate, unit: &str) -> Self {
        let most = days.iter().copied().max().unwrap_or(0).max(1);
        let date = |place: usize| {
            let back = i64::try_from(days.len() - 1 - place).unwrap_or(0);
            (today - TimeDelta::days(back)).format("%-d %b").to_string()
        };
        let bar = |(place, value): (usize, &i64)| {
            let height = scaled((*value).max(0), most);
            let said = format!("{}: {}", date(place), grouped(*value));
            Bar { x: place * STEP, y: HEIGHT - height, height, said }
        };
        let last = days.last().copied().unwrap_or(0);
        let said = format!(
            "{} days, at most {} {unit} a day, {} today",
            days.len(),
            grouped(if most == 1 && days.iter().all(|day| *day <= 0) { 0 } else { most }),
            grouped(last)
        );
        let ends =
            if days.is_empty() { (String::new(), String::new()) } else { (date(0), date(days.len() - 1)) };
        let bars = days.iter().enumerate().map(bar).collect();
        Self { width: days.len() * STEP, bars, said, first: ends.0, last: ends.1 }
    }
}

/// Something is seen of what is not zero.
fn scaled(value: i64, most: i64) -> usize {
    let whole = i128::from(value) * HEIGHT as i128 / i128::from(most);
    usize::try_from(whole).unwrap_or(HEIGHT).clamp(usize::from(value > 0), HEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_values() {
        let today = "2026-11-21".parse().unwrap();
        let plot = Plot::of_days(&[0, 1, 500, 1000, -3], today, "tasks");
        assert_eq!(plot.bars.iter().map(|bar| bar.height).collect::<Vec<_>>(), [0, 1, 32, 64, 0]);
        assert_eq!((plot.bars[3].x, plot.bars[3].y), (30, 0));
        assert_eq!(plot.bars[3].said, "20 Nov: 1,000");
        assert_eq!((plot.first.as_str(), plot.last.as_str(), plot.width), ("17 Nov", "21 Nov", 50));
        assert_eq!(plot.said, "5 days, at most 1,000 tasks a day, -3 today");
        assert_eq!(Plot::of_days(&[0, 0], today, "u").said, "2 days, at most 0 u a day, 0 today");
        assert!(Plot::of_days(&[i64::MAX, 1], today, "u").bars.iter().all(|bar| bar.height <= HEIGHT));
        assert!(Plot::of_days(&[], today, "u").bars.is_empty());
    }
}

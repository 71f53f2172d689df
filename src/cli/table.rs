//! Tables and lists of fields, as plain text.

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// Rows under a header. Without rows, a word that says so.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    if table.is_empty() {
        return "none\n".to_owned();
    }
    table.lines().map(|line| format!("{}\n", line.trim_end().strip_prefix(' ').unwrap_or(&line))).collect()
}

/// The same, for as many columns as there are.
pub fn sheet(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<String>>());
    }
    if table.is_empty() {
        return "none\n".to_owned();
    }
    table.lines().map(|line| format!("{}\n", line.trim_end().strip_prefix(' ').unwrap_or(&line))).collect()
}

/// One thing's fields, one a line.
pub fn fields<const N: usize>(fields: [(&str, String); N]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    fields.iter().map(|(name, value)| format!("{name:width$}{}\n", clean(value))).collect()
}

/// What a customer chose may hold anything: nothing of it may speak to the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A moment, in UTC, to the second.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// What is not there is a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A number of bytes, for people.
pub fn bytes(count: i64) -> String {
    let mut left = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left < 1024.0 {
            return format!("{left:.0} {unit}");
        }
        left /= 1024.0;
    }
    format!("{left:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hold_no_control_characters() {
        let rows = [["a".to_owned(), "Acme\u{1b}[31m".to_owned()], ["long-slug".to_owned(), "B".to_owned()]];
        let text = table(["slug", "name"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("SLUG"), "{text}");
        let at = lines[0].find("NAME").unwrap();
        assert!(lines[1].get(at..).unwrap().starts_with("Acme"), "{text}");
        assert!(lines[2].get(at..).unwrap().starts_with('B'), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert_eq!(table(["slug"], []), "none\n");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(12), bytes(2048), bytes(5 << 40)], ["12 B", "2 KiB", "5.0 TiB"]);
    }
}

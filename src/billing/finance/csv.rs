//! Files for spreadsheets: RFC 4180, UTF-8, a header, money in major units.

use ::csv::{QuoteStyle, Terminator, WriterBuilder};

use crate::kernel::{Error, Result};

/// What spreadsheets take for the beginning of a formula, in all the widths that they know.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// A column of a list: its title, and its cell of a row.
pub type Column<T> = (&'static str, fn(&T) -> String);

/// A cell that holds no formula. A number is a number, also below zero.
pub fn harmless(text: String) -> String {
    let formula = text.trim_start_matches(' ').starts_with(FORMULA);
    if formula && !is_number(&text) { format!("'{text}") } else { text }
}

/// Digits with at most one point, and a minus in front: nothing else that a spreadsheet would work out.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    plain(whole) && plain(rest)
}

/// The text of a file with these columns.
///
/// # Errors
/// `internal` when it cannot be written.
pub fn file<'a, T: 'a>(columns: &[Column<T>], rows: impl IntoIterator<Item = &'a T>) -> Result<String> {
    let mut writer = WriterBuilder::new()
        .quote_style(QuoteStyle::Necessary)
        .terminator(Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(columns.iter().map(|(title, _)| title)).map_err(Error::internal)?;
    for row in rows {
        let cells = columns.iter().map(|(_, cell)| harmless(cell(row)));
        writer.write_record(cells).map_err(Error::internal)?;
    }
    let bytes = writer.into_inner().map_err(|error| Error::internal(error.to_string()))?;
    String::from_utf8(bytes).map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_text_or_a_number_and_no_formula() {
        let cells = [
            "plain",
            "=1+1",
            "+31 20",
            "-2",
            "-2.50",
            "-2+3",
            "@x",
            "  =x",
            "a,b",
            "say \"hi\"",
            "\u{ff1d}1",
            "-",
        ];
        let columns: [Column<&str>; 1] = [("cell", |cell| (*cell).to_owned())];
        let text = file(&columns, &cells).unwrap();
        let wanted = "cell\r\nplain\r\n'=1+1\r\n'+31 20\r\n-2\r\n-2.50\r\n'-2+3\r\n'@x\r\n'  =x\r\n\"a,b\"\r\n\
                      \"say \"\"hi\"\"\"\r\n'\u{ff1d}1\r\n'-\r\n";
        assert_eq!(text, wanted);
    }
}

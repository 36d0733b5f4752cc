//! How answers are printed: aligned tables for people, JSON and YAML for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::{Context, Failed};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// JSON, with exact numbers and all fields
    Json,
    /// The same as YAML
    Yaml,
}

/// Rows under headers, two spaces between columns.
#[derive(Debug)]
pub(super) struct Table {
    headers: Vec<&'static str>,
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(headers: &[&'static str]) -> Self {
        Self {
            headers: headers.to_vec(),
            widths: headers.iter().map(|header| header.len()).collect(),
            rows: Vec::new(),
        }
    }

    /// For a stream, whose later rows are not known: columns are at least this wide, and grow.
    pub(super) fn with_widths(mut self, widths: &[usize]) -> Self {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(*least);
        }
        self
    }

    pub(super) fn push(&mut self, row: Vec<String>) {
        let row: Vec<String> = row.into_iter().map(|cell| clean(&cell)).collect();
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(row);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header line.
    pub(super) fn header(&self) -> String {
        self.line(self.headers.iter().copied())
    }

    /// Takes the rows out, as lines.
    pub(super) fn take_rows(&mut self) -> String {
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.line(row.iter().map(String::as_str))).collect()
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for (width, cell) in self.widths.iter().zip(cells) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Names and errors come from elsewhere; none of them may drive the terminal, nor turn around the order
/// in which text is read (the bidirectional controls of Unicode).
pub(super) fn clean(text: &str) -> String {
    let drives =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let printable = |c: char| if drives(c) { '\u{fffd}' } else { c };
    text.chars().map(printable).collect()
}

/// `-` stands for nothing.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// Prints a list: as a table, which `table` makes (`true`: wide), or whole.
pub(super) fn list<T: Serialize>(
    context: &mut Context<'_>,
    what: &str,
    list: &T,
    table: impl FnOnce(bool) -> Table,
) -> Result<(), Failed> {
    let wide = match context.format {
        Format::Table => false,
        Format::Wide => true,
        Format::Json | Format::Yaml => return whole(context.format, context.out, list),
    };
    let mut table = table(wide);
    if table.is_empty() {
        writeln!(context.remarks, "No {what} found.")?;
        return Ok(());
    }
    let rows = table.take_rows();
    let header = if context.headers { table.header() } else { String::new() };
    write!(context.out, "{header}{rows}")?;
    Ok(())
}

/// Prints a value for programs.
pub(super) fn whole<T: Serialize>(
    format: Format,
    out: &mut dyn Write,
    value: &T,
) -> Result<(), Failed> {
    let text = if format == Format::Yaml {
        serde_yaml::to_string(value).map_err(anyhow::Error::new)?
    } else {
        serde_json::to_string_pretty(value).map_err(io::Error::from)? + "\n"
    };
    out.write_all(text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", "AGE", "NOTE"]);
        table.push(vec!["café".into(), "5m3s".into(), String::new()]);
        table.push(vec!["b".into(), "1s".into(), "x".into()]);
        let rows = table.take_rows();
        assert_eq!(table.header() + &rows, "NAME  AGE   NOTE\ncafé  5m3s\nb     1s    x\n");
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.push(vec!["\u{1b}[2Jevil\nrow".into()]);
        assert_eq!(table.take_rows(), "\u{fffd}[2Jevil\u{fffd}row\n");
        assert_eq!(clean("\u{202e}tib\u{2066}"), "\u{fffd}tib\u{fffd}");
    }
}

//! Tables and bars of text.

use console::measure_text_width;

use crate::cli::screen;

/// Columns of texts with a heading each.
pub struct Table {
    headings: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows; a heading that begins with `>` is of a column of numbers.
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.iter().map(|h| h.trim_start_matches('>')).collect(),
            right: headings.iter().map(|h| h.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows
            .push(cells.iter().map(|c| screen::printable(c).replace(['\n', '\t'], " ")).collect());
    }

    /// Its lines. Columns without any text are left out.
    pub fn lines(&self) -> Vec<String> {
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let used: Vec<usize> = (0..self.headings.len())
            .filter(|&i| self.rows.iter().any(|row| !cell(row, i).is_empty()))
            .collect();
        let width = |i: usize| {
            let widths = self.rows.iter().map(|row| measure_text_width(&cell(row, i)));
            widths.chain([measure_text_width(self.headings[i])]).max().unwrap_or(0)
        };
        let line = |of: &dyn Fn(usize) -> String| {
            let mut out = String::new();
            for &i in &used {
                let text = of(i);
                let blanks = " ".repeat(width(i) - measure_text_width(&text));
                out.push_str(if out.is_empty() { "" } else { "  " });
                match self.right[i] {
                    true => out.push_str(&format!("{blanks}{text}")),
                    false => out.push_str(&format!("{text}{blanks}")),
                }
            }
            out.trim_end().to_string()
        };
        let mut lines = vec![line(&|i| self.headings[i].to_string())];
        lines.extend(self.rows.iter().map(|row| line(&|i| cell(row, i))));
        lines
    }

    /// Prints it.
    pub fn print(&self) {
        self.lines().iter().for_each(|line| screen::line(line));
    }
}

/// A bar of a length between 0 and 1.
pub fn bar(share: f64) -> String {
    const WIDTH: f64 = 40.0;
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * WIDTH * 8.0).ceil() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// A text cut to so many columns of the terminal.
pub fn cut(text: &str, width: usize) -> String {
    console::truncate_str(text, width, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&["name", ">rows", "empty"]);
        table.row(vec!["木x".into(), "5".into(), String::new()]);
        table.row(vec!["a\nb\u{1b}".into(), "1,234".into(), String::new()]);
        assert_eq!(table.lines(), ["name        rows", "木x            5", "a b\\u{1b}  1,234"]);
        assert_eq!((bar(0.0), bar(1.0), bar(0.5)), ("".into(), "█".repeat(40), "█".repeat(20)));
    }
}

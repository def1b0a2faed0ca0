//! Data on stdout: JSON for programs, lines and tables for people.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How data is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// How data is printed.
    #[arg(long, short, env = "C3OS_OUTPUT", value_enum, default_value_t)]
    output: Format,
}

/// A form of data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Output {
    /// Prints `data` as JSON, or the text that `text` makes.
    pub(super) fn print<T: Serialize>(&self, data: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = match self.output {
            Format::Text => text(),
            Format::Json => serde_json::to_string_pretty(data)? + "\n",
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }

    /// Whether people read it.
    pub(super) fn is_text(&self) -> bool {
        self.output == Format::Text
    }
}

/// Whether somebody looks at stdout.
pub(super) fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// What a word is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Doubtful,
    Bad,
}

/// `text` in a colour, if somebody looks at it and did not set `NO_COLOR`.
pub(super) fn coloured(text: &str, tone: Tone) -> String {
    if !on_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// What another machine calls itself, without anything that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// A table: columns of a heading and a greatest width, two blanks apart; longer cells end in `…`.
pub(super) fn table<const N: usize>(columns: [(&str, usize); N], rows: &[[String; N]]) -> String {
    let cut = |cell: &str, limit: usize| {
        let cell = plain(cell);
        if cell.chars().count() <= limit {
            return cell;
        }
        cell.chars().take(limit - 1).chain(['…']).collect()
    };
    let mut lines = vec![columns.map(|(heading, _)| heading.to_owned())];
    lines.extend(rows.iter().map(|row| std::array::from_fn(|at| cut(&row[at], columns[at].1))));
    let widths: [usize; N] =
        std::array::from_fn(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A duration of so many microseconds, as ping(8) prints it.
pub(super) fn milliseconds(microseconds: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people, three digits after the point")]
    let milliseconds = microseconds as f64 / 1000.0;
    if milliseconds < 10.0 { format!("{milliseconds:.2} ms") } else { format!("{milliseconds:.1} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_never_wider_than_its_limits() {
        let rows = [["shelf".to_owned(), "10.1.0.7".to_owned()], ["a".repeat(30), String::new()]];
        let text = table([("NAME", 8), ("ADDRESS", 15)], &rows);
        assert_eq!(text, "NAME      ADDRESS\nshelf     10.1.0.7\naaaaaaa…\n");
    }

    #[test]
    fn names_of_others_cannot_steer_the_terminal() {
        let rows = [["\x1b[2Jshelf\r\n".to_owned()]];
        assert_eq!(table([("NAME", 20)], &rows), "NAME\n[2Jshelf\n");
    }

    #[test]
    fn short_round_trips_show_more_digits() {
        assert_eq!((milliseconds(432), milliseconds(23_460)), ("0.43 ms".to_owned(), "23.5 ms".to_owned()));
    }
}

//! Tables of text, and short forms of numbers, for people.

use std::fmt::Write;
pub(crate) use yue::admin::graph::duration;

/// The width of lines if the output is not a terminal.
pub(crate) const WIDTH: usize = 80;

/// The width of the terminal, or [`WIDTH`].
pub(crate) fn width() -> usize {
    use std::io::IsTerminal;
    let terminal = std::io::stdout().is_terminal();
    let size = terminal.then(ratatui::crossterm::terminal::size);
    let columns = size.and_then(Result::ok).map_or(0, |(columns, _)| columns);
    match usize::from(columns) {
        0 => WIDTH,
        columns => columns.max(40),
    }
}

/// A column of a table.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    /// Numbers end at the same position.
    right: bool,
    /// The column may be cut to this width where the table is too wide.
    shrinks_to: Option<usize>,
    /// A cut removes the begin, not the end.
    keeps_end: bool,
    /// The column is left out where the table is too wide.
    is_extra: bool,
}

/// A column of texts.
pub(crate) const fn text(name: &'static str) -> Column {
    Column {
        name,
        right: false,
        shrinks_to: None,
        keeps_end: false,
        is_extra: false,
    }
}

/// A column of texts that may be cut.
pub(crate) const fn long(name: &'static str, shrinks_to: usize) -> Column {
    Column {
        shrinks_to: Some(shrinks_to),
        ..text(name)
    }
}

/// A column of paths or addresses, whose ends say most.
pub(crate) const fn path(name: &'static str, shrinks_to: usize) -> Column {
    Column {
        keeps_end: true,
        ..long(name, shrinks_to)
    }
}

/// A column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column {
        right: true,
        ..text(name)
    }
}

/// The column, which is left out where there is no room for it.
pub(crate) const fn extra(column: Column) -> Column {
    Column {
        is_extra: true,
        ..column
    }
}

/// Lays a table out in lines of at most `width` characters: the names of the columns first.
pub(crate) fn lay_out(columns: &[Column], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let widest = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        let cells = cells.map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(columns[index].name.len())
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    // Room that texts could give is not enough: the last extra column gives way.
    let least = |index: &usize, widths: &[usize]| {
        let full = widths[*index];
        columns[*index]
            .shrinks_to
            .map_or(full, |least| least.min(full))
    };
    loop {
        let gaps = 2 * kept.len().saturating_sub(1);
        let needed: usize = kept.iter().map(|index| least(index, &widths)).sum();
        let extra = kept.iter().rposition(|index| columns[*index].is_extra);
        match extra {
            Some(position) if needed + gaps > width => kept.remove(position),
            _ => break,
        };
    }
    let gaps = 2 * kept.len().saturating_sub(1);
    let total: usize = kept.iter().map(|index| widths[*index]).sum();
    // The widest column is cut first.
    for _ in 0..(total + gaps).saturating_sub(width) {
        let shrinking = kept
            .iter()
            .filter(|index| least(index, &widths) < widths[**index]);
        match shrinking.max_by_key(|index| widths[**index]) {
            Some(index) => widths[*index] -= 1,
            None => break,
        }
    }
    let names: Vec<String> = columns
        .iter()
        .map(|column| column.name.to_owned())
        .collect();
    let all = std::iter::once(&names).chain(rows);
    let kept: Vec<(Column, usize, usize)> = kept
        .into_iter()
        .map(|index| (columns[index], index, widths[index]))
        .collect();
    all.map(|row| line(&kept, row, width)).collect()
}

/// A row, of columns with their positions and widths.
fn line(columns: &[(Column, usize, usize)], row: &[String], width: usize) -> String {
    let mut out = String::new();
    for (column, index, room) in columns {
        let cell = row.get(*index).map_or("", String::as_str);
        let cell = match column.keeps_end {
            true => cut_begin(cell, *room),
            false => cut(cell, *room),
        };
        let pad = room - cell.chars().count();
        if !out.is_empty() {
            out.push_str("  ");
        }
        // Writing to a String cannot fail.
        let _ = match column.right {
            true => write!(out, "{:pad$}{cell}", ""),
            false => write!(out, "{cell}{:pad$}", ""),
        };
    }
    cut(out.trim_end(), width)
}

/// Cuts a text to its last `max` characters.
pub(crate) fn cut_begin(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(count + 1 - max.max(1)).collect();
    if max == 0 { kept } else { format!("…{kept}") }
}

/// Cuts a text to `max` characters; the last one tells that something is missing.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    if max == 0 { kept } else { kept + "…" }
}

/// Whether a character would act on a terminal: controls, and the marks that change the direction of what follows.
pub(crate) fn acts_on_terminal(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that somebody else chose, without characters that would control the terminal.
pub(crate) fn plain(text: &str) -> String {
    let shown = |c: char| if acts_on_terminal(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// A peer's address, without the part that most have in common.
pub(crate) fn peer(address: &str) -> String {
    plain(address.strip_prefix("tcp://").unwrap_or(address))
}

/// A count, in four or five characters: `950`, `12.3k`, `4.5M`.
pub(crate) fn count(value: f64) -> String {
    match value {
        _ if value < 10.0 && value.fract() > 0.05 => format!("{value:.1}"),
        _ if value < 9_999.5 => format!("{value:.0}"),
        _ if value < 999_950.0 => format!("{:.1}k", value / 1e3),
        _ if value < 999_950_000.0 => format!("{:.1}M", value / 1e6),
        _ => format!("{:.1}G", value / 1e9),
    }
}

/// An amount of memory.
pub(crate) fn bytes(value: u64) -> String {
    let value = value as f64;
    match value {
        _ if value < 1e4 => format!("{value:.0} B"),
        _ if value < 1e6 => format!("{:.0} kB", value / 1e3),
        _ if value < 1e9 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.1} GB", value / 1e9),
    }
}

/// The time of day (UTC) of seconds since 1970, with milliseconds.
pub(crate) fn clock(seconds: f64) -> String {
    let ms = (seconds.max(0.0) * 1e3) as u64;
    let (hours, minutes) = (ms / 3_600_000 % 24, ms / 60_000 % 60);
    let (rest, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{hours:02}:{minutes:02}:{rest:02}.{ms:03}")
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_width_and_keeps_its_numbers() {
        let columns = [number("PID"), path("NAME", 6), extra(text("DRIVER"))];
        let rows = [
            vec![
                "1".to_owned(),
                "a/long/path.lua".to_owned(),
                "mio".to_owned(),
            ],
            vec!["4711".to_owned(), "b.lua".to_owned(), "io_uring".to_owned()],
        ];
        let lines = lay_out(&columns, &rows, 24);
        assert_eq!(
            lines,
            [
                " PID  NAME      DRIVER",
                "   1  …ath.lua  mio",
                "4711  b.lua     io_uring"
            ]
        );
        assert!(lay_out(&columns, &rows, 80)[1].contains("a/long/path.lua"));
        // Extra columns give way before texts do not tell anything any more.
        let narrow = lay_out(&columns, &rows, 16);
        assert_eq!(narrow, [" PID  NAME", "   1  …/path.lua", "4711  b.lua"]);
        let narrow = lay_out(&columns, &rows, 10);
        assert!(narrow.iter().all(|line| line.chars().count() <= 10));
    }

    #[test]
    fn texts_of_strangers_do_not_control_the_terminal() {
        assert_eq!(
            plain("a\x1b[2Jb\n\u{202e}c\u{e9}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{e9}"
        );
    }

    #[test]
    fn numbers_are_short() {
        let counts = [
            0.0, 0.4, 9.0, 950.4, 9_999.0, 12_345.0, 999_949.0, 4.5e6, 2e9,
        ];
        let shown = [
            "0", "0.4", "9", "950", "9999", "12.3k", "999.9k", "4.5M", "2.0G",
        ];
        assert_eq!(counts.map(count), shown);
        let seconds = [
            0.0, 0.000_83, 0.001_2, 0.25, 1.25, 725.0, 3_700.0, 274_000.0,
        ];
        let shown = [
            "0 us", "830 us", "1.2 ms", "250 ms", "1.2 s", "12m 5s", "1h 1m", "3d 4h",
        ];
        assert_eq!(seconds.map(duration), shown);
        assert_eq!(
            [500, 20_000, 5_250_000].map(bytes),
            ["500 B", "20 kB", "5.2 MB"]
        );
        assert_eq!(clock(86_399.999_4), "23:59:59.999");
    }
}

//! How commands print: tables for people, JSON for scripts.

use crate::os::host;
use bytesize::ByteSize;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A terminal narrower than this gets lines that it breaks itself: words torn to pieces help nobody.
const NARROWEST: u16 = 100;

/// A column's title and whether it holds numbers.
pub type Column = (&'static str, bool);

/// Prints rows below their titles. As wide as the terminal, or as the longest cells.
pub fn table(columns: &[Column], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(columns.iter().map(|(title, _)| *title)).add_rows(rows);
    for (column, (_, number)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        if *number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(width) = host::terminal_columns().filter(|width| *width >= NARROWEST) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for row in table.lines() {
        line(row.trim_end());
    }
}

/// Prints a line. That its reader has gone (`| head`) is no reason to leave work half done.
pub fn line(text: impl Display) {
    let _nobody_reads = writeln!(io::stdout(), "{text}");
}

/// A value as JSON that is harmless on a terminal, too.
pub fn json(value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| format!("cannot write JSON: {error}"))?;
    line(harmless_json(&text));
    Ok(())
}

/// serde_json escapes what JSON demands. DEL, the C1 controls and marks that change the direction of
/// writing can only stand inside strings, where any character may be written as its number.
fn harmless_json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        if c != '\n' && is_harmful(c) {
            plain.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            plain.push(c);
        }
        plain
    })
}

/// Text of unknown origin: what could move the cursor or hide something is shown as its number.
pub fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut plain, c| {
        if is_harmful(c) {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
        plain
    })
}

/// Control characters, and invisible marks that reorder what is written.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `512.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// `2026-11-21T14:05:09Z`.
pub fn time(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day since 1970. Years are counted from March, so that the leap day comes last;
/// every 400 years (146,097 days) it begins anew.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // From 1 March of the year 0.
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// `3 d`: how long ago, in the largest unit.
pub fn age(since: SystemTime) -> String {
    let seconds = since.elapsed().unwrap_or(Duration::ZERO).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `1 volume`, `2 volumes`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| time(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(1_795_269_909), "2026-11-21T14:05:09Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn text_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\n\u{9b}ü\u{202e}"), "a\\u{1b}[2J\\n\\u{9b}ü\\u{202e}");
        let text = serde_json::json!({ "name": "a\u{7f}\u{9b}\u{202e}ü\n" }).to_string();
        let harmless = harmless_json(&text);
        assert!(!harmless.chars().any(is_harmful), "{harmless}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&harmless).ok(),
            serde_json::from_str(&text).ok()
        );
    }

    #[test]
    fn sizes_and_numbers() {
        assert_eq!(bytes(512 << 20), "512.0 MiB");
        assert_eq!((count(1, "volume"), count(0, "volume")), ("1 volume".into(), "0 volumes".into()));
        assert_eq!(age(SystemTime::now() - Duration::from_secs(7200)), "2 h");
    }
}

//! How answers look on a terminal. Every text that came from elsewhere is escaped.

mod progress;
mod table;

pub(crate) use progress::ProgressLine;
pub(crate) use table::table;

use serde::Serialize;

/// Makes control characters, bidirectional overrides and line breaks visible.
pub(crate) fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if is_hidden(c) { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Whether a character does something to a terminal, to the order of its line or to nothing that can be seen. The joiners
/// U+200C and U+200D stay: whole scripts and many pictures need them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
        || matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' | '\u{ef00}'..='\u{efff}')
}

/// A number of bytes for people, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Prints an object as one line of JSON.
pub(crate) fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("larder: {error}"),
    }
}

/// Prints a line; a reader that went away ends the program quietly, as other tools do.
pub(crate) fn line(text: &str) {
    use std::io::Write;
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("larder: stdout: {error}");
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(escape("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(escape("photo\u{202e}gpj.exe"), "photo\\u{202e}gpj.exe");
        assert_eq!(escape("Zoë 🏖"), "Zoë 🏖");
    }

    /// The corpus of hostile names: whatever is printed, the terminal sees no command and no hidden character.
    #[test]
    fn hostile_names_are_only_text_on_a_terminal() {
        let corpus = include_str!("../../../protocol/testdata/hostile-names.txt");
        let mut count = 0;
        for line in corpus.lines().filter_map(|line| line.strip_prefix("carry ")) {
            let mut parts = line.split("\\u{");
            let mut name = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (digits, rest) = part.split_once('}').unwrap();
                name.push(char::from_u32(u32::from_str_radix(digits, 16).unwrap()).unwrap());
                name += rest;
            }
            let shown = escape(&name);
            assert!(!shown.chars().any(is_hidden), "{line}");
            // In JSON the name is exact.
            let json = serde_json::to_string(&name).unwrap();
            assert!(!json.contains(|c: char| c < ' ') && serde_json::from_str::<String>(&json).unwrap() == name);
            count += 1;
        }
        assert!(count >= 400);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }
}

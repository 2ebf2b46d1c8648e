//! Columns that line up.

use super::escape;

/// Prints rows under a header; the last column is not padded. Widths count characters.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let escaped: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
    let width = |column: usize| {
        escaped
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain(header.get(column).map(|cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        text.trim_end().to_owned()
    };
    super::line(&render(&mut header.iter().copied()));
    for row in &escaped {
        super::line(&render(&mut row.iter().map(String::as_str)));
    }
}

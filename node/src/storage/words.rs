//! Words of a text, as searches compare them.

/// Its words in lower case: runs of letters and digits.
pub(super) fn split(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

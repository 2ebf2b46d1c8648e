//! From names to what is looked up: one spelling per text, three letters at a time.

use unicode_normalization::UnicodeNormalization;

/// One spelling for all that look alike: compatibility-composed and lower case.
pub(super) fn normal(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    // Lower-casing can undo a composition, hence once more.
    text.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}

/// Three characters in one number; 21 bits hold any character.
fn gram(a: char, b: char, c: char) -> u64 {
    u64::from(u32::from(a)) << 42 | u64::from(u32::from(b)) << 21 | u64::from(u32::from(c))
}

/// Stands before the beginning of a word; no name contains it.
const START: char = '\0';

/// Scripts without spaces: every character may begin a word.
fn is_dense(c: char) -> bool {
    matches!(u32::from(c), 0x2e80..=0xa4cf | 0xac00..=0xd7af | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

/// Whether a word begins with `c` when `before` stands in front of it.
fn begins_word(before: Option<char>, c: char) -> bool {
    c.is_alphanumeric()
        && before.is_none_or(|before| !before.is_alphanumeric() || is_dense(c) || before.is_numeric() != c.is_numeric())
}

/// All grams of a normal text, sorted: every three letters, and one and two letters from each beginning of a word.
pub(super) fn grams(text: &str, into: &mut Vec<u64>) {
    into.clear();
    let (mut before, mut two_before) = (None, None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if begins_word(before, c) {
            into.push(gram(START, START, c));
            if let Some(next) = chars.peek().filter(|next| next.is_alphanumeric()) {
                into.push(gram(START, c, *next));
            }
        }
        if let (Some(two_before), Some(before)) = (two_before, before) {
            into.push(gram(two_before, before, c));
        }
        (two_before, before) = (before, Some(c));
    }
    into.sort_unstable();
    into.dedup();
}

/// One word of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    text: String,
    pub(super) grams: Vec<u64>,
}

impl Word {
    /// The words of a query; one or two signs without a letter or digit are no word.
    pub(super) fn all(query: &str) -> Vec<Self> {
        normal(query).split_whitespace().filter_map(Self::new).collect()
    }

    fn new(text: &str) -> Option<Self> {
        let chars: Vec<char> = text.chars().collect();
        let grams = match chars[..] {
            [a] if a.is_alphanumeric() => vec![gram(START, START, a)],
            [a, b] if a.is_alphanumeric() && b.is_alphanumeric() => vec![gram(START, a, b)],
            [_] | [_, _] => return None,
            _ => {
                let mut grams: Vec<u64> = chars.windows(3).map(|three| gram(three[0], three[1], three[2])).collect();
                grams.sort_unstable();
                grams.dedup();
                grams
            }
        };
        Some(Self { text: text.to_owned(), grams })
    }

    /// Whether a normal text has this word: anywhere, or for one or two letters at the beginning of a word.
    pub(super) fn is_in(&self, text: &str) -> bool {
        if self.text.chars().nth(2).is_some() {
            return text.contains(&self.text);
        }
        text.match_indices(&self.text).any(|(at, found)| {
            found.chars().next().is_some_and(|first| begins_word(text[..at].chars().next_back(), first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(query: &str, text: &str) -> bool {
        let text = normal(text);
        let mut all = Vec::new();
        grams(&text, &mut all);
        let words = Word::all(query);
        let by_word = !words.is_empty() && words.iter().all(|word| word.is_in(&text));
        let by_gram = words.iter().all(|word| word.grams.iter().all(|gram| all.binary_search(gram).is_ok()));
        assert!(!by_word || by_gram, "the index must propose all that matches: {query:?} in {text:?}");
        by_word
    }

    #[test]
    fn words_and_parts_of_words_are_found() {
        let text = "Photos/2019 Größe/Beach_House-IMG0042.JPG";
        for query in
            ["beach", "BEACH 2019", "each", "img", "0042.jpg", "b", "be", "ho", "GRÖßE", "im 00", "photos/2019", "jp"]
        {
            assert!(found(query, text), "{query}");
        }
        for query in ["ea", "eac x", "beach 2020", "_", "", "grosse"] {
            assert!(!found(query, text), "{query}");
        }
        assert!(found("gro\u{308}ße", text), "both spellings of an umlaut");
        assert!(found("ﬁle", "profile"), "a ligature is two letters");
        assert!(found("写真", "家族写真.jpg") && found("真", "家族写真.jpg"));
    }

    proptest! {
        #[test]
        fn the_index_proposes_whatever_matches(text in "[aAäb0 ./_写İß-]{0,12}", at in 0usize..12, len in 1usize..5) {
            let part: String = normal(&text).chars().skip(at).take(len).collect();
            found(&part, &text);
        }
    }
}

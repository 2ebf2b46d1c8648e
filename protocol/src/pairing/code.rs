//! The code that people say aloud: `37-apple-river-onion`.

use bip39::Language;
use zeroize::Zeroizing;

/// Numbers are below this.
const NUMBERS: u8 = 100;
const WORDS: usize = 3;

/// Why a text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It is not a number and three words.
    #[error("is not a number and three words")]
    Shape,
    /// It does not begin with a number below 100.
    #[error("does not begin with a number below 100")]
    Number,
    /// A word is not on the list; counted from 1.
    #[error("word {0} is not on the list")]
    Word(usize),
}

/// A number, which says which invite is meant, and three words of 2,048, which are secret: 33 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    number: u8,
    words: [u16; WORDS],
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Code({}-…)", self.number)
    }
}

/// Words of the English list of BIP-39 by their numbers; only the lower eleven bits of each count.
pub(super) fn words(numbers: &[u16]) -> Vec<&'static str> {
    let list = Language::English.word_list();
    numbers.iter().map(|number| list[usize::from(number % 2048)]).collect()
}

impl Code {
    /// Takes a number that no other open invite has, and random bytes for the words.
    pub fn new(number: u8, random: [u8; 2 * WORDS]) -> Self {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(random.chunks_exact(2)) {
            *word = u16::from_le_bytes([bytes[0], bytes[1]]) % 2048;
        }
        Self { number: number % NUMBERS, words }
    }

    /// Which invite is meant. Not secret.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The text to say.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}-{}", self.number, words(&self.words).join("-")))
    }

    /// Reads the text; case does not matter, nor whether hyphens or spaces separate.
    ///
    /// # Errors
    /// [`CodeError`] says what is wrong with it.
    pub fn from_text(text: &str) -> Result<Self, CodeError> {
        let text = Zeroizing::new(text.to_lowercase());
        let parts: Vec<&str> =
            text.split(|c: char| c == '-' || c.is_whitespace()).filter(|it| !it.is_empty()).collect();
        let [number, rest @ ..] = &parts[..] else { return Err(CodeError::Shape) };
        if rest.len() != WORDS {
            return Err(CodeError::Shape);
        }
        let digits = number.len() <= 2 && number.bytes().all(|digit| digit.is_ascii_digit());
        let number = number.parse().ok().filter(|_| digits).ok_or(CodeError::Number)?;
        let mut words = [0; WORDS];
        for (at, (word, text)) in words.iter_mut().zip(rest).enumerate() {
            *word = Language::English.find_word(text).ok_or(CodeError::Word(at + 1))?;
        }
        Ok(Self { number, words })
    }

    /// What both ends put into the key exchange.
    pub(super) fn password(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key("larder 2026 pairing words v1", self.to_text().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(number in 0..NUMBERS, random: [u8; 6]) {
            let code = Code::new(number, random);
            let text = code.to_text();
            prop_assert_eq!(&Code::from_text(&text).unwrap(), &code);
            let spoken = format!("  {} ", text.to_uppercase().replace('-', " "));
            prop_assert_eq!(Code::from_text(&spoken).unwrap(), code);
        }

        #[test]
        fn nothing_else_is_a_code(text in "\\PC{0,40}") {
            if let Ok(code) = Code::from_text(&text) {
                prop_assert_eq!(Code::from_text(&code.to_text()).unwrap(), code);
            }
        }
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        assert_eq!(Code::from_text("").unwrap_err(), CodeError::Shape);
        assert_eq!(Code::from_text("37-apple-river").unwrap_err(), CodeError::Shape);
        assert_eq!(Code::from_text("37-apple-river-onion-onion").unwrap_err(), CodeError::Shape);
        assert_eq!(Code::from_text("apple-river-onion-37").unwrap_err(), CodeError::Number);
        for number in ["100", "-1x", "+7", "7.0", "٣"] {
            let code = Code::from_text(&format!("{number} apple river onion"));
            assert_eq!(code.unwrap_err(), CodeError::Number, "{number}");
        }
        assert_eq!(Code::from_text("37-apple-rivr-onion").unwrap_err(), CodeError::Word(2));
        assert_eq!(format!("{:?}", Code::from_text("37-apple-river-onion").unwrap()), "Code(37-…)");
    }
}

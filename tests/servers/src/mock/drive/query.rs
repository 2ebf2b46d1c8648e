//! The `q` of a listing: `name = 'a' and ('x' in parents or trashed = false)`.
//!
//! Source: Google, "Search query terms and operators". Known here: `name` (`=`, `!=`, `contains`), `mimeType` (`=`, `!=`,
//! `contains`), `trashed`, `parents`, `modifiedTime` and `createdTime` (RFC 3339 in UTC), `appProperties` and `properties`
//! (`has`), `and`, `or`, `not`, parentheses.

use super::{files::File, shown};

/// A parsed query.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Query {
    And(Box<Query>, Box<Query>),
    Or(Box<Query>, Box<Query>),
    Not(Box<Query>),
    Compare { field: Field, operator: Operator, value: String },
    In(String),
    Has { own: bool, key: String, value: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    Mime,
    Trashed,
    Modified,
    Created,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Contains,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl Query {
    /// `None` when it is malformed or uses what is not known here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut tokens = tokens(text)?;
        tokens.reverse();
        let query = or(&mut tokens)?;
        tokens.is_empty().then_some(query)
    }

    /// `root` is the id that `root` stands for in `parents`.
    pub(super) fn matches(&self, file: &File, root: &str) -> bool {
        match self {
            Self::And(a, b) => a.matches(file, root) && b.matches(file, root),
            Self::Or(a, b) => a.matches(file, root) || b.matches(file, root),
            Self::Not(a) => !a.matches(file, root),
            Self::In(parent) => file.parent == if parent == "root" { root } else { parent },
            Self::Has { own, key, value } => {
                let properties = if *own { &file.app_properties } else { &file.properties };
                properties.get(key).is_some_and(|found| found == value)
            }
            Self::Compare { field, operator, value } => operator.holds(&field.of(file), value),
        }
    }
}

impl Field {
    fn of(self, file: &File) -> String {
        match self {
            Self::Name => file.name.clone(),
            Self::Mime => file.mime.clone(),
            Self::Trashed => file.trashed.to_string(),
            Self::Modified => file.modified.clone(),
            Self::Created => shown(file.created),
        }
    }
}

impl Operator {
    fn holds(self, found: &str, value: &str) -> bool {
        match self {
            Self::Equal => found == value,
            Self::NotEqual => found != value,
            // Documented for names: words by their beginnings, in any case.
            Self::Contains => {
                let (found, value) = (found.to_lowercase(), value.to_lowercase());
                let mut words = found.match_indices(&value).map(|(at, _)| at);
                words.any(|at| !found[..at].chars().next_back().is_some_and(char::is_alphanumeric))
            }
            // Times in UTC compare as text; a fraction may be missing.
            Self::Less => bare(found) < bare(value),
            Self::LessOrEqual => bare(found) <= bare(value),
            Self::Greater => bare(found) > bare(value),
            Self::GreaterOrEqual => bare(found) >= bare(value),
        }
    }
}

fn bare(time: &str) -> &str {
    time.trim_end_matches('Z')
}

/// Tokens come last first.
fn or(tokens: &mut Vec<Token>) -> Option<Query> {
    let mut left = and(tokens)?;
    while take_word(tokens, "or") {
        left = Query::Or(left.into(), and(tokens)?.into());
    }
    Some(left)
}

fn and(tokens: &mut Vec<Token>) -> Option<Query> {
    let mut left = term(tokens)?;
    while take_word(tokens, "and") {
        left = Query::And(left.into(), term(tokens)?.into());
    }
    Some(left)
}

fn term(tokens: &mut Vec<Token>) -> Option<Query> {
    if take_word(tokens, "not") {
        return Some(Query::Not(term(tokens)?.into()));
    }
    match tokens.pop()? {
        Token::Sign("(") => {
            let inner = or(tokens)?;
            take_sign(tokens, ")").then_some(inner)
        }
        Token::Text(parent) => (take_word(tokens, "in") && take_word(tokens, "parents")).then_some(Query::In(parent)),
        Token::Word(word) if word == "appProperties" || word == "properties" => {
            has(tokens).map(|(key, value)| Query::Has { own: word == "appProperties", key, value })
        }
        Token::Word(word) => {
            let field = match word.as_str() {
                "name" => Field::Name,
                "mimeType" => Field::Mime,
                "trashed" => Field::Trashed,
                "modifiedTime" => Field::Modified,
                "createdTime" => Field::Created,
                _ => return None,
            };
            let operator = operator(tokens)?;
            let value = match (field, tokens.pop()?) {
                (Field::Trashed, Token::Word(value)) if value == "true" || value == "false" => value,
                (Field::Trashed, _) => return None,
                (_, Token::Text(value)) => value,
                _ => return None,
            };
            let time = matches!(field, Field::Modified | Field::Created);
            let fits = match operator {
                Operator::Equal | Operator::NotEqual => true,
                Operator::Contains => matches!(field, Field::Name | Field::Mime),
                _ => time,
            };
            fits.then_some(Query::Compare { field, operator, value })
        }
        Token::Sign(_) => None,
    }
}

fn operator(tokens: &mut Vec<Token>) -> Option<Operator> {
    Some(match tokens.pop()? {
        Token::Sign("=") => Operator::Equal,
        Token::Sign("!=") => Operator::NotEqual,
        Token::Sign("<") => Operator::Less,
        Token::Sign("<=") => Operator::LessOrEqual,
        Token::Sign(">") => Operator::Greater,
        Token::Sign(">=") => Operator::GreaterOrEqual,
        Token::Word(word) if word == "contains" => Operator::Contains,
        _ => return None,
    })
}

/// `has { key='…' and value='…' }`.
fn has(tokens: &mut Vec<Token>) -> Option<(String, String)> {
    let named = |tokens: &mut Vec<Token>, name: &str| match (take_word(tokens, name), take_sign(tokens, "=")) {
        (true, true) => match tokens.pop()? {
            Token::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    };
    if !take_word(tokens, "has") || !take_sign(tokens, "{") {
        return None;
    }
    let key = named(tokens, "key")?;
    let value = take_word(tokens, "and").then(|| named(tokens, "value"))??;
    take_sign(tokens, "}").then_some((key, value))
}

fn take_word(tokens: &mut Vec<Token>, word: &str) -> bool {
    let found = matches!(tokens.last(), Some(Token::Word(next)) if next == word);
    if found {
        tokens.pop();
    }
    found
}

fn take_sign(tokens: &mut Vec<Token>, sign: &str) -> bool {
    let found = matches!(tokens.last(), Some(Token::Sign(next)) if *next == sign);
    if found {
        tokens.pop();
    }
    found
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    const SIGNS: [&str; 10] = ["!=", "<=", ">=", "=", "<", ">", "(", ")", "{", "}"];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else if let Some(quoted) = rest.strip_prefix('\'') {
            let (value, after) = quoted_text(quoted)?;
            tokens.push(Token::Text(value));
            rest = after;
        } else {
            let end = rest.find(|char: char| !char.is_alphanumeric()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Some(tokens)
}

/// Up to the closing quote; `\'` and `\\` stand for themselves.
fn quoted_text(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\'' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn chooses_files() {
        let mut file = File::new("1".into(), "it's a beach.jpg".into(), "p".into(), SystemTime::UNIX_EPOCH);
        file.app_properties.insert("chunk".into(), "abc".into());
        let chosen = |q: &str| Query::parse(q).unwrap_or_else(|| panic!("{q}")).matches(&file, "r");
        for yes in [
            r"name = 'it\'s a beach.jpg' and trashed = false",
            "name contains 'beach'",
            "'p' in parents and (name = 'x' or not trashed=true)",
            "modifiedTime < '1970-01-02T00:00:00' and createdTime >= '1970-01-01T00:00:00Z'",
            "appProperties has { key='chunk' and value='abc' }",
            "mimeType != 'application/vnd.google-apps.folder'",
            // `and` binds closer than `or`.
            "name = 'x' and name = 'y' or 'p' in parents",
        ] {
            assert!(chosen(yes), "{yes}");
        }
        for no in
            ["name = 'beach'", "name contains 'each'", "'root' in parents", "trashed = true", "not 'p' in parents"]
        {
            assert!(!chosen(no), "{no}");
        }
    }

    #[test]
    fn refuses_what_is_malformed_or_unknown() {
        for wrong in [
            "name",
            "name = beach",
            "name = 'x",
            "owner = 'x'",
            "name < 'a'",
            "trashed = 'x'",
            "name = 'a' 'b'",
            "(name = 'a'",
            "",
        ] {
            assert_eq!(Query::parse(wrong), None, "{wrong}");
        }
    }
}

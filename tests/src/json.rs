//! Reading the JSON that `larder` prints.

use serde_json::Value;

/// A field that holds text.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {value:#}"))
}

/// A field that holds a whole number.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no whole number `{field}` in {value:#}"))
}

/// A field that holds a list.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("no list `{field}` in {value:#}"))
}

/// Demands every field of a contract. Further ones are allowed: the contract grows.
///
/// # Panics
/// When one is missing.
#[track_caller]
pub fn has_fields(value: &Value, fields: &[&str]) {
    let missing: Vec<_> = fields.iter().filter(|field| value.get(field).is_none()).collect();
    assert!(missing.is_empty(), "no {missing:?} in {value:#}");
}

/// Demands an RFC 3339 time in UTC or with an offset.
///
/// # Panics
/// When the field holds anything else.
#[track_caller]
pub fn is_time(value: &Value, field: &str) {
    let text = text(value, field);
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(
        shape.starts_with("0000-00-00T00:00:00") && (shape.ends_with('Z') || shape.ends_with("00:00")),
        "`{field}` is no RFC 3339 time: {text}"
    );
}

/// Demands `digits` lower-case hex digits.
///
/// # Panics
/// When the field holds anything else.
#[track_caller]
pub fn is_hex(value: &Value, field: &str, digits: usize) {
    let text = text(value, field);
    let fits = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    assert!(fits, "`{field}` is not {digits} hex digits: {text}");
}

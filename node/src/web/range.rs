//! Ranges and conditions of a GET (RFC 9110 §13 and §14).

use hyper::{HeaderMap, header};
use std::ops::Range;

/// What of a content is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it.
    Whole,
    /// One range of bytes.
    Part(Range<u64>),
    /// A range that it does not have.
    Unsatisfiable,
    /// Nothing: the asker has it.
    NotModified,
}

/// Reads the conditions of a request. What is malformed or not supported, such as several ranges at once, is ignored, as the
/// RFC allows: the answer is the whole then.
pub(super) fn asked(headers: &HeaderMap, tag: &str, size: u64, is_head: bool) -> Asked {
    let values = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let weakly = |value: &str| value.trim() == "*" || value.trim().trim_start_matches("W/") == tag;
    if values(header::IF_NONE_MATCH).flat_map(|value| value.split(',')).any(weakly) {
        return Asked::NotModified;
    }
    let mut ranges = values(header::RANGE);
    let (Some(text), None) = (ranges.next(), ranges.next()) else { return Asked::Whole };
    // Ranges are defined for GET only. An If-Range that is a date is never known to hold.
    let unchanged = headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
    if is_head || !unchanged {
        return Asked::Whole;
    }
    parse(text, size).unwrap_or(Asked::Whole)
}

/// `None` for what is no single range of bytes.
fn parse(text: &str, size: u64) -> Option<Asked> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    if first.is_empty() {
        let suffix = number(last)?;
        if suffix == 0 || size == 0 {
            return Some(Asked::Unsatisfiable);
        }
        return Some(Asked::Part(size.saturating_sub(suffix)..size));
    }
    let first = number(first)?;
    let end = match last {
        "" => size,
        last => {
            let last = number(last)?;
            if last < first {
                return None;
            }
            last.saturating_add(1).min(size)
        }
    };
    Some(if first < size { Asked::Part(first..end) } else { Asked::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    fn with(pairs: &[(header::HeaderName, &str)]) -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        asked(&headers, TAG, 100, false)
    }

    #[test]
    fn ranges_of_every_form() {
        for (text, expected) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=10-19", Asked::Part(10..20)),
            ("BYTES=99-", Asked::Part(99..100)),
            ("bytes=50-5000", Asked::Part(50..100)),
            ("bytes=-1", Asked::Part(99..100)),
            ("bytes=-500", Asked::Part(0..100)),
            ("bytes=100-", Asked::Unsatisfiable),
            ("bytes=100-200", Asked::Unsatisfiable),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=0-18446744073709551615", Asked::Part(0..100)),
            ("bytes=0-1,5-6", Asked::Whole),
            ("bytes=9-3", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=99999999999999999999-", Asked::Whole),
            ("lines=1-2", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(with(&[(header::RANGE, text)]), expected, "{text}");
        }
        assert_eq!(with(&[]), Asked::Whole);
        assert_eq!(with(&[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=2-3")]), Asked::Whole);
    }

    #[test]
    fn an_empty_content_has_no_range() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-".parse().unwrap());
        assert_eq!(asked(&headers, TAG, 0, false), Asked::Unsatisfiable);
        headers.insert(header::RANGE, "bytes=-5".parse().unwrap());
        assert_eq!(asked(&headers, TAG, 0, false), Asked::Unsatisfiable);
    }

    #[test]
    fn conditions_are_kept() {
        let range = (header::RANGE, "bytes=0-1");
        assert_eq!(with(&[range.clone(), (header::IF_RANGE, TAG)]), Asked::Part(0..2));
        assert_eq!(with(&[range.clone(), (header::IF_RANGE, "\"other\"")]), Asked::Whole);
        assert_eq!(with(&[range.clone(), (header::IF_RANGE, "W/\"abc\"")]), Asked::Whole);
        assert_eq!(with(&[range.clone(), (header::IF_RANGE, "Sat, 29 Oct 1994 19:43:31 GMT")]), Asked::Whole);
        assert_eq!(with(&[range.clone(), (header::IF_NONE_MATCH, "\"x\", W/\"abc\"")]), Asked::NotModified);
        assert_eq!(with(&[range, (header::IF_NONE_MATCH, "\"x\"")]), Asked::Part(0..2));
    }

    #[test]
    fn a_head_has_no_range() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-1".parse().unwrap());
        assert_eq!(asked(&headers, TAG, 100, true), Asked::Whole);
    }
}

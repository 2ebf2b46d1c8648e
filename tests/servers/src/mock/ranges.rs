//! `Range` and `Content-Range`, as far as the services document them.

use std::ops::Range;

/// What `Range` asks of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no header, or one that is not understood (RFC 9110, 14.2).
    Whole,
    /// These bytes.
    Part(Range<usize>),
    /// Bytes that it does not have: 416.
    Nothing,
}

/// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n`.
pub(super) fn wanted(header: Option<&str>, len: usize) -> Wanted {
    let Some((first, last)) = header.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::Whole;
    };
    let part = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(len),
        (Ok(first), Err(_)) if last.is_empty() => first..len,
        (Err(_), Ok(count)) if first.is_empty() => len.saturating_sub(count)..len,
        _ => return Wanted::Whole,
    };
    if part.start < part.end { Wanted::Part(part) } else { Wanted::Nothing }
}

/// `Content-Range` of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    /// The bytes that come; `None` for `bytes */…`, which asks how many have come.
    pub(super) bytes: Option<Range<usize>>,
    /// The size of the whole; `None` when it is not known yet (`*`).
    pub(super) total: Option<usize>,
}

/// Reads `bytes a-b/total`, `bytes a-b/*`, `bytes */total` and `bytes */*`.
pub(super) fn sent(header: &str) -> Option<Sent> {
    let (bytes, total) = header.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let bytes = if bytes == "*" {
        None
    } else {
        let (first, last) = bytes.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let in_total = total.is_none_or(|total| last < total);
        (first <= last && in_total).then_some(Some(first..last.checked_add(1)?))?
    };
    Some(Sent { bytes, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_rfc_9110_has_them() {
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=2-4"), 10), Wanted::Part(2..5));
        assert_eq!(wanted(Some("bytes=2-"), 10), Wanted::Part(2..10));
        assert_eq!(wanted(Some("bytes=-3"), 10), Wanted::Part(7..10));
        assert_eq!(wanted(Some("bytes=9-99"), 10), Wanted::Part(9..10));
        assert_eq!(wanted(Some("bytes=10-"), 10), Wanted::Nothing);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        assert_eq!(wanted(Some("lines=1-2"), 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=5-4"), 10), Wanted::Whole);
    }

    #[test]
    fn content_ranges_as_uploads_have_them() {
        assert_eq!(sent("bytes 0-4/10"), Some(Sent { bytes: Some(0..5), total: Some(10) }));
        assert_eq!(sent("bytes 5-9/*"), Some(Sent { bytes: Some(5..10), total: None }));
        assert_eq!(sent("bytes */10"), Some(Sent { bytes: None, total: Some(10) }));
        assert_eq!(sent("bytes */*"), Some(Sent { bytes: None, total: None }));
        for wrong in ["bytes 4-3/10", "bytes 0-10/10", "bytes a-b/c", "0-4/10", "bytes 0-4"] {
            assert_eq!(sent(wrong), None, "{wrong}");
        }
    }
}

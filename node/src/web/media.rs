//! What a browser may do with a content: show what is passive, save all else.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Characters that stand for themselves in an extended parameter (RFC 8187 §3.2.1).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Types that cannot run anything. SVG, HTML, XML and PDF can.
fn is_passive(media_type: &str) -> bool {
    let image = ["image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"];
    media_type.starts_with("audio/")
        || media_type.starts_with("video/")
        || media_type == "text/plain"
        || image.contains(&media_type)
}

/// Values of `Content-Type` and `Content-Disposition` for a file of that name.
pub(super) fn headers(name: &str) -> (String, String) {
    let guessed = mime_guess::from_path(name).first_or_octet_stream();
    let media_type = guessed.essence_str();
    let how = if is_passive(media_type) { "inline" } else { "attachment" };
    let charset = if media_type == "text/plain" { "; charset=utf-8" } else { "" };
    let name = utf8_percent_encode(name, PLAIN);
    (format!("{media_type}{charset}"), format!("{how}; filename*=UTF-8''{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_run_is_saved_and_never_shown() {
        for name in [
            "a.html", "a.htm", "a.svg", "a.xml", "a.xhtml", "a.js", "a.pdf", "a.mhtml", "a", "a.wasm", "a.css",
            "A.HTML",
        ] {
            assert!(headers(name).1.starts_with("attachment;"), "{name}");
        }
        for name in ["a.jpg", "a.mp4", "a.flac", "a.txt", "a.webm"] {
            assert!(headers(name).1.starts_with("inline;"), "{name}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_header() {
        let (_, disposition) = headers("a\"\r\nX: y; é ().txt");
        assert_eq!(disposition, "inline; filename*=UTF-8''a%22%0D%0AX%3A%20y%3B%20%C3%A9%20%28%29.txt");
        assert_eq!(headers("a.txt").0, "text/plain; charset=utf-8");
    }
}

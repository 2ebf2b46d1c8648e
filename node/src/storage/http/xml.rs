//! Small XML documents, read whole; names without their namespaces.

use quick_xml::{Reader, events::Event};

/// Deepest nesting that is read.
const DEPTH_MAX: usize = 32;

/// An element.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct Element {
    pub(in super::super) name: String,
    /// Its own text, without that of the elements in it.
    pub(in super::super) value: String,
    pub(in super::super) children: Vec<Element>,
}

impl Element {
    /// Children of a name.
    pub(in super::super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of a name.
    pub(in super::super) fn text(&self, name: &str) -> Option<&str> {
        self.children.iter().find(|child| child.name == name).map(|child| child.value.as_str())
    }

    /// The first element of a name, at any depth.
    pub(in super::super) fn find(&self, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|child| if child.name == name { Some(child) } else { child.find(name) })
    }
}

/// Reads a document and gives its root; `None` when it is not well-formed. Document types are not read, so that no entity
/// but the five of XML itself counts.
pub(in super::super) fn parse(document: &[u8]) -> Option<Element> {
    let text = std::str::from_utf8(document).ok()?;
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element::default()];
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                let name = start.local_name().as_ref().to_owned();
                open.push(Element { name, ..Element::default() });
                if open.len() > DEPTH_MAX {
                    return None;
                }
            }
            Event::Empty(start) => {
                let name = start.local_name().as_ref().to_owned();
                open.last_mut()?.children.push(Element { name, ..Element::default() });
            }
            Event::End(_) => {
                let done = open.pop()?;
                open.last_mut()?.children.push(done);
            }
            Event::Text(text) => open.last_mut()?.value.push_str(&text),
            Event::CData(text) => open.last_mut()?.value.push_str(&text),
            Event::GeneralRef(reference) => {
                let char = match reference.resolve_char_ref().ok()? {
                    Some(char) => char,
                    None => match &*reference {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                open.last_mut()?.value.push(char);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let root = open.pop()?;
    if open.is_empty() { root.children.into_iter().next() } else { None }
}

/// Text as it stands in a document.
pub(in super::super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_text_and_entities_are_read_and_tricks_refused() {
        let root =
            parse(br#"<?xml version="1.0"?><D:a xmlns:D="DAV:"><b>x &amp; &#233;<![CDATA[<]]></b><c/><b>2</b></D:a>"#);
        let root = root.unwrap();
        assert_eq!((root.name.as_str(), root.text("b")), ("a", Some("x & é<")));
        assert_eq!(root.all("b").count(), 2);
        assert!(root.find("c").is_some() && root.find("d").is_none());
        for bad in ["<a><b></a>", "<a>&bomb;</a>", "<a>", "", "plain", &"<a>".repeat(100)] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}

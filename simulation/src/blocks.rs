//! Files of counts: blocks of lines, each under a line that says what it counts.

use std::{fs, io, path::Path};

/// The block under a head, with that line; nothing if there is no such block or no file.
pub(crate) fn read(path: &Path, head: &str) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(text.split("\n\n").map(str::trim).find(|block| block.lines().next() == Some(head)).map(str::to_owned))
}

/// Puts a block in place of the one with the same head, beside all others.
pub(crate) fn write(path: &Path, block: &str) -> io::Result<()> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let others = text.split("\n\n").map(str::trim);
    let mut blocks: Vec<&str> =
        others.filter(|other| !other.is_empty() && other.lines().next() != block.lines().next()).collect();
    blocks.push(block);
    let fresh = path.with_extension("new");
    fs::write(&fresh, blocks.join("\n\n") + "\n")?;
    fs::rename(fresh, path)
}

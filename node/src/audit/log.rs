//! The audit log: what this device did, one line each, appended and never rewritten.
//!
//! A line is JSON and names the hash of the line before, so that a line that was changed or taken out shows. A last line
//! that a crash cut off is dropped at the next start.

use larder_protocol::{
    control::AuditLine,
    id::{DeviceId, to_hex},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Lines of a sound log and the hash of the last one, or the first line that does not continue the one before it.
pub type Checked = Result<(u64, [u8; 32]), u64>;

const HASH_CONTEXT: &str = "larder 2026 audit line v1";

/// A line as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    previous: String,
    #[serde(flatten)]
    line: AuditLine,
}

/// The audit log of a device.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    tail: Mutex<Tail>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    /// Bytes of whole lines. A failed append may have left more.
    len: u64,
    next_seq: u64,
    previous: [u8; 32],
}

impl Audit {
    /// Opens the log in a folder and drops a last line that was cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(dir: &Path, device: &DeviceId) -> io::Result<Self> {
        let path = dir.join("audit.jsonl");
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let mut reader = BufReader::new(&file);
        let (mut next_seq, mut previous, mut whole) = (0, first_link(device), 0u64);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            if line.last() != Some(&b'\n') {
                break;
            }
            whole += line.len() as u64;
            next_seq += 1;
            previous = line_hash(&line);
            line.clear();
        }
        drop(reader);
        // A crash leaves the beginning of a line. Anything else was a line once: it is kept for a person to look at.
        if !line.is_empty() && !looks_torn(&line) {
            fs::write(path.with_extension("jsonl.damaged"), &line)?;
        }
        file.set_len(whole)?;
        Ok(Self { path, tail: Mutex::new(Tail { file, len: whole, next_seq, previous }) })
    }

    /// The folder that it lies in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// How many lines there are, and the hash of the last one.
    pub fn head(&self) -> (u64, [u8; 32]) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        (tail.next_seq, tail.previous)
    }

    /// Appends a line and makes it durable.
    ///
    /// # Errors
    /// When it cannot be written; nothing half is kept.
    pub fn append(&self, now: Timestamp, event: Event) -> io::Result<()> {
        self.append_all(now, [event])
    }

    /// Appends several lines and makes them durable together.
    ///
    /// # Errors
    /// When they cannot be written; none of them is kept.
    pub fn append_all(&self, now: Timestamp, events: impl IntoIterator<Item = Event>) -> io::Result<()> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut bytes, mut previous, mut next_seq) = (Vec::new(), tail.previous, tail.next_seq);
        for event in events {
            let line = AuditLine {
                seq: next_seq,
                time: rfc3339(now),
                action: event.action.to_owned(),
                subject: event.subject,
                result: event.result.to_owned(),
                facts: event.facts,
            };
            let mut line = serde_json::to_vec(&Stored { previous: to_hex(&previous), line })?;
            line.push(b'\n');
            previous = line_hash(&line);
            next_seq += 1;
            bytes.extend(line);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        // What a failed append could not take back must not stand between two lines.
        if tail.file.metadata()?.len() != tail.len {
            tail.file.set_len(tail.len)?;
        }
        if let Err(error) = tail.file.write_all(&bytes).and_then(|()| tail.file.sync_data()) {
            tail.file.set_len(tail.len)?;
            return Err(error);
        }
        tail.len += bytes.len() as u64;
        (tail.previous, tail.next_seq) = (previous, next_seq);
        Ok(())
    }

    /// Checks the chain of the log in a folder: the number of lines and the hash of the last one, or the position of the
    /// first line that does not continue the one before it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn check(dir: &Path, device: &DeviceId) -> io::Result<Checked> {
        let mut reader = BufReader::new(File::open(dir.join("audit.jsonl"))?);
        let (mut lines, mut previous, mut line) = (0, first_link(device), Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 {
            // A line that a crash cut off was never told; the next start drops it.
            if line.last() != Some(&b'\n') {
                break;
            }
            let fits = serde_json::from_slice::<Stored>(&line)
                .is_ok_and(|stored| stored.previous == to_hex(&previous) && stored.line.seq == lines);
            if !fits {
                return Ok(Err(lines));
            }
            previous = line_hash(&line);
            lines += 1;
            line.clear();
        }
        Ok(Ok((lines, previous)))
    }

    /// All lines, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or a line is not one of ours.
    pub fn lines(&self) -> io::Result<Vec<AuditLine>> {
        let mut lines = Vec::new();
        for line in BufReader::new(File::open(&self.path)?).lines() {
            let stored: Stored = serde_json::from_str(&line?)?;
            lines.push(stored.line);
        }
        Ok(lines)
    }
}

/// Hash of a line by its number from 0; `None` when there are fewer.
pub(super) fn hash_of_line(dir: &Path, number: u64) -> io::Result<Option<[u8; 32]>> {
    let mut reader = BufReader::new(File::open(dir.join("audit.jsonl"))?);
    let (mut at, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
        if at == number {
            return Ok(Some(line_hash(&line)));
        }
        at += 1;
        line.clear();
    }
    Ok(None)
}

/// What the first line names as the line before: so that another device's log does not pass for this one's.
fn first_link(device: &DeviceId) -> [u8; 32] {
    line_hash(device.as_bytes())
}

/// Whether bytes without an end are what a crash leaves of a line: its beginning, or zeroes where the length grew first.
fn looks_torn(line: &[u8]) -> bool {
    let text = line.iter().position(|byte| *byte == 0).map_or(line, |end| &line[..end]);
    line[text.len()..].iter().all(|byte| *byte == 0) && (text.is_empty() || text.starts_with(b"{\"previous\":"))
}

fn line_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key(HASH_CONTEXT).update(bytes).finalize().as_bytes()
}

/// Something worth a line.
#[derive(Debug, Clone)]
pub struct Event {
    action: &'static str,
    subject: String,
    result: &'static str,
    facts: BTreeMap<String, String>,
}

impl Event {
    /// Something that was done.
    pub fn ok(action: &'static str, subject: impl ToString) -> Self {
        Self { action, subject: subject.to_string(), result: "ok", facts: BTreeMap::new() }
    }

    /// Something that was refused.
    pub fn refused(action: &'static str, subject: impl ToString) -> Self {
        Self { result: "refused", ..Self::ok(action, subject) }
    }

    /// Something that failed.
    pub fn failed(action: &'static str, subject: impl ToString) -> Self {
        Self { result: "failed", ..Self::ok(action, subject) }
    }

    /// The same with a fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Self {
        self.facts.insert(name.to_owned(), value.to_string());
        self
    }
}

/// A time as RFC 3339 text with milliseconds, in UTC.
pub fn rfc3339(time: Timestamp) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(0);
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_survive_a_restart_and_a_torn_last_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path(), &DeviceId::new([7; 32])).unwrap();
        audit.append(Timestamp::from_millis(1_000), Event::ok("get", "a\nb").fact("bytes", 7)).unwrap();
        drop(audit);
        let path = dir.path().join("audit.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":1,\"ti").unwrap();
        let audit = Audit::open(dir.path(), &DeviceId::new([7; 32])).unwrap();
        audit.append(Timestamp::from_millis(2_000), Event::refused("admit", "x")).unwrap();
        let lines = audit.lines().unwrap();
        assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(lines[0].subject, "a\nb");
        assert_eq!(lines[0].time, "1970-01-01T00:00:01.000Z");
        assert_eq!(lines[1].result, "refused");
        let text = std::fs::read_to_string(path).unwrap();
        let second: Stored = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(second.previous, to_hex(&line_hash(text.split_inclusive('\n').next().unwrap().as_bytes())));
    }
}

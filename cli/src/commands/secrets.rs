//! Secrets from a terminal or stdin; never from an argument.

use super::{device, io};
use larder_protocol::control::{ControlError, ErrorKind, RecoveryWords, Secret};
use std::{
    collections::BTreeMap,
    io::{BufRead, IsTerminal, Read},
    path::Path,
    process::{Command, Stdio},
};
use zeroize::Zeroizing;

/// More than any credential needs; the key of a service account is the longest.
const BYTES_MAX: u64 = 256 << 10;

/// A terminal that does not show what is typed, as long as this lives.
struct Silence;

impl Silence {
    fn begin() -> Self {
        stty("-echo");
        Self
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        stty("echo");
        eprintln!();
    }
}

/// A terminal without `stty` shows what is typed; nothing else depends on it.
fn stty(mode: &str) {
    let _ = Command::new("stty").arg(mode).stderr(Stdio::null()).status();
}

/// A passphrase: asked for on a terminal, else the first line of stdin.
pub(super) fn passphrase(prompt: &str) -> Result<Secret, ControlError> {
    let mut text = Zeroizing::new(String::new());
    let stdin = std::io::stdin();
    let silence = stdin.is_terminal().then(|| {
        eprint!("{prompt}: ");
        Silence::begin()
    });
    stdin.lock().take(BYTES_MAX).read_line(&mut text).map_err(|error| io("stdin", error))?;
    drop(silence);
    let line = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    Ok(Secret::new(line))
}

/// A new passphrase; typed twice on a terminal.
pub(super) fn new_passphrase() -> Result<Secret, ControlError> {
    let first = passphrase("New passphrase")?;
    if std::io::stdin().is_terminal() && first != passphrase("The same again")? {
        return Err(ControlError::new(ErrorKind::BadRequest, "passphrase").detail("the two are not the same"));
    }
    Ok(first)
}

/// `name=value` lines up to the end of stdin; those that are empty or begin with `#` do not count.
pub(super) fn lines(prompt: &str) -> Result<BTreeMap<String, Secret>, ControlError> {
    let mut text = Zeroizing::new(String::new());
    let stdin = std::io::stdin();
    let silence = stdin.is_terminal().then(|| {
        eprintln!("{prompt}");
        eprintln!("Type name=value lines, then Ctrl-D; nothing is shown.");
        Silence::begin()
    });
    stdin.lock().take(BYTES_MAX).read_to_string(&mut text).map_err(|error| io("stdin", error))?;
    drop(silence);
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| counts(line)) {
        let (name, value) = named(line).ok_or_else(|| {
            let detail = format!("line {} has no '='; each line is name=value", number + 1);
            ControlError::new(ErrorKind::BadRequest, "stdin").detail(detail)
        })?;
        values.insert(name, value);
    }
    Ok(values)
}

fn counts(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with('#')
}

fn named(line: &str) -> Option<(String, Secret)> {
    let (name, value) = line.split_once('=')?;
    Some((name.trim().to_owned(), Secret::new(Zeroizing::new(value.trim().to_owned()))))
}

/// Recovery words and `name=value` lines, from a file or, for `-`, from stdin: what has a `=` is one of the latter. On a
/// terminal, first the words are asked for, then the lines when `asks` names a storage that may want a credential.
pub(super) fn words_and_lines(
    path: &Path,
    asks: Option<&str>,
) -> Result<(RecoveryWords, BTreeMap<String, Secret>), ControlError> {
    if path == Path::new("-") && std::io::stdin().is_terminal() {
        let words = device::recovery_words(path)?;
        let ask =
            |address| lines(&format!("What {address} asks for, if anything; `larder provider list` has the names."));
        return Ok((words, asks.map(ask).transpose()?.unwrap_or_default()));
    }
    let mut text = Zeroizing::new(String::new());
    let name = path.display().to_string();
    let read = if path == Path::new("-") {
        std::io::stdin().take(BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| io(name, error))?;
    let (mut words, mut values) = (Zeroizing::new(String::new()), BTreeMap::new());
    for line in text.lines().filter(|line| counts(line)) {
        match named(line) {
            Some((name, value)) => drop(values.insert(name, value)),
            None => {
                words.push_str(line);
                words.push(' ');
            }
        }
    }
    Ok((RecoveryWords::new(words), values))
}

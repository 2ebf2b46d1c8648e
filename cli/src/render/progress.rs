//! Progress on stderr.

use super::{escape, size};
use crate::args::ProgressStyle;
use larder_protocol::control::Progress;
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Shows how far a command is.
pub(crate) struct ProgressLine {
    style: ProgressStyle,
    drawn: bool,
    started: Instant,
    last: Option<Instant>,
}

impl ProgressLine {
    /// Progress in a style; `auto` is silent where stderr is no terminal.
    pub(crate) fn new(style: ProgressStyle, quiet: bool) -> Self {
        let style = match style {
            _ if quiet => ProgressStyle::None,
            ProgressStyle::Auto if !std::io::stderr().is_terminal() => ProgressStyle::None,
            style => style,
        };
        Self { style, drawn: false, started: Instant::now(), last: None }
    }

    /// Shows an update, as often as the style allows.
    pub(crate) fn update(&mut self, progress: &Progress) {
        let every = match self.style {
            ProgressStyle::None => return,
            ProgressStyle::Json => Duration::ZERO,
            ProgressStyle::Auto => Duration::from_millis(100),
            ProgressStyle::Plain => Duration::from_secs(2),
        };
        if self.last.is_some_and(|last| last.elapsed() < every) {
            return;
        }
        self.last = Some(Instant::now());
        match self.style {
            ProgressStyle::Json => {
                if let Ok(text) = serde_json::to_string(&serde_json::json!({ "progress": progress })) {
                    eprintln!("{text}");
                }
            }
            ProgressStyle::Plain => eprintln!("{}", self.words(progress)),
            _ => {
                let mut words = self.words(progress);
                words.truncate(words.char_indices().nth(100).map_or(words.len(), |(at, _)| at));
                eprint!("\r\x1b[K{words}");
                let _ = std::io::stderr().flush();
                self.drawn = true;
            }
        }
    }

    fn words(&self, progress: &Progress) -> String {
        let mut text = progress.stage.clone();
        if progress.total > 0 {
            text += &format!(" {}/{}", progress.done, progress.total);
        } else if progress.done > 0 {
            text += &format!(" {}", progress.done);
        }
        if let Some(percent) = progress.bytes.saturating_mul(100).checked_div(progress.bytes_total) {
            text += &format!(", {percent} % of {}", size(progress.bytes_total));
            let elapsed = self.started.elapsed().as_secs_f64();
            if progress.bytes > 0 && elapsed > 1.0 {
                let rate = progress.bytes as f64 / elapsed;
                let left = progress.bytes_total.saturating_sub(progress.bytes) as f64 / rate;
                text += &format!(", {}/s, {left:.0} s left", size(rate as u64));
            }
        } else if progress.bytes > 0 {
            text += &format!(", {}", size(progress.bytes));
        }
        if !progress.path.is_empty() {
            text += &format!("  {}", escape(&progress.path));
        }
        text
    }

    /// Removes the line, before something else is printed.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}

//! `larder init`.

use super::{Context, Outcome, io};
use crate::{args::InitArgs, error, render};
use larder_protocol::control::{ControlError, ErrorKind};
use serde_json::json;
use std::{
    io::{BufRead, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
};

pub(crate) fn run(context: &Context, args: InitArgs) -> Outcome {
    let name = match args.name {
        Some(name) => name,
        None => default_name(),
    };
    // Opened before anything is made, so that the words are never without a place.
    let recovery_out = match &args.recovery_out {
        Some(path) => Some(
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| io(path.display().to_string(), error))?,
        ),
        None => None,
    };
    let made = larder_node::init(&context.home, &name, &args.group)?;
    match recovery_out {
        Some(mut file) => {
            writeln!(file, "{}", made.recovery_words.as_str())
                .and_then(|()| file.sync_all())
                .map_err(|error| io("--recovery-out", error))?;
        }
        None => show_words(&made.recovery_words)?,
    }
    let view = json!({ "device": name, "device_id": made.device_id, "group": args.group, "group_id": made.group_id });
    context.show(&view, |_| {
        render::line(&format!("{} is the first device of group '{}'.", render::escape(&name), args.group));
        render::line("Next: larder up, then larder location add NAME FOLDER.");
    });
    Ok(error::OK)
}

/// The host's name, as a device name to begin with.
pub(super) fn default_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "device".to_owned() } else { name }
}

fn show_words(words: &str) -> Result<(), ControlError> {
    eprintln!("Recovery words. They bring everything back when all devices are lost, and remove a stolen one.");
    eprintln!("Write them down now and keep them away from this machine; they are not shown again:\n");
    let words: Vec<_> = words.split(' ').collect();
    for line in words.chunks(6) {
        eprintln!("    {}", line.join(" "));
    }
    eprintln!();
    if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        eprint!("Press Enter when they are written down. ");
        std::io::stdin()
            .lock()
            .read_line(&mut String::new())
            .map_err(|error| ControlError::new(ErrorKind::Io, "stdin").detail(error.to_string()))?;
    }
    Ok(())
}

//! `larder join`.

use super::{Context, Outcome, init::default_name, up};
use crate::{args::JoinArgs, error, render};
use larder_protocol::control::{ControlError, ErrorKind};
use std::io::{IsTerminal, Read};

/// Longest text that is read as a code.
const CODE_BYTES_MAX: u64 = 4096;

pub(crate) fn run(context: &Context, args: JoinArgs) -> Outcome {
    let code = match args.code.as_deref() {
        Some(code) if code != "-" => code.to_owned(),
        _ => {
            if std::io::stdin().is_terminal() {
                eprint!("Invite code: ");
            }
            read_code().map_err(|error| ControlError::new(ErrorKind::Io, "stdin").detail(error.to_string()))?
        }
    };
    let name = args.name.unwrap_or_else(default_name);
    let code = code.trim();
    let joined = if larder_node::is_short_code(code) {
        may_ask(args.yes, "join")?;
        let compare = |words: String| async move {
            tokio::task::spawn_blocking(move || same_words(&words, args.yes)).await.unwrap_or(false)
        };
        super::block_on_value(larder_node::join_by_words(&context.home, code, &args.at, &name, compare))?
    } else {
        super::block_on_value(larder_node::join(&context.home, code, &name))?
    };
    up::start(context, &args.listen, None)?;
    context.show(&joined, |joined| {
        let name = render::escape(&name);
        // A vault has no key to read the group's name with.
        if joined.group.is_empty() {
            render::line(&format!("{name} joined the group as a vault: it keeps sealed objects, and reads none."));
        } else {
            render::line(&format!("{name} joined group '{}'.", render::escape(&joined.group)));
        }
    });
    Ok(error::OK)
}

/// Refuses a command that would have to ask where nobody can be asked.
pub(super) fn may_ask(yes: bool, what: &str) -> Result<(), ControlError> {
    if yes || std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(ControlError::new(ErrorKind::BadRequest, what).detail("--yes is needed here, as nobody can compare the words"))
}

/// Shows four words and asks whether the other screen shows the same. Blocks.
pub(super) fn same_words(words: &str, yes: bool) -> bool {
    eprintln!("Both screens must show these words: {words}");
    if yes {
        return true;
    }
    eprint!("Does the other one? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "yes")
}

fn read_code() -> std::io::Result<String> {
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        std::io::stdin().read_line(&mut text)?;
    } else {
        std::io::stdin().take(CODE_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

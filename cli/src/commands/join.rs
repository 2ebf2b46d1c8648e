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
    let joined = super::block_on_value(larder_node::join(&context.home, code.trim(), &name))?;
    up::start(context, &args.listen)?;
    context.show(&joined, |joined| {
        render::line(&format!("{} joined group '{}'.", render::escape(&name), render::escape(&joined.group)));
    });
    Ok(error::OK)
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

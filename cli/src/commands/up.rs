//! `larder up`: starts the node in the background, or is the node.

use super::{Context, Outcome, io, secrets};
use crate::{args::UpArgs, error, render};
use larder_node::{LogTarget, RunOptions};
use larder_protocol::control::{ControlError, ErrorKind, Secret};
use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// What the process in the background says when its node answers.
const READY: &str = "ready";

pub(crate) fn run(context: &Context, args: &UpArgs) -> Outcome {
    let passphrase = if args.passphrase_stdin { Some(secrets::passphrase("Passphrase")?) } else { None };
    start(context, &args.listen, passphrase.as_ref())?;
    context.note("the node is up");
    Ok(error::OK)
}

/// Starts the node in the background and returns when it answers.
///
/// # Errors
/// What the new process says of why it could not start.
pub(super) fn start(context: &Context, listen: &[SocketAddr], passphrase: Option<&Secret>) -> Result<(), ControlError> {
    if !larder_node::is_initialised(&context.home) {
        return Err(not_initialised(context));
    }
    let program = std::env::current_exe().map_err(|error| io("larder", error))?;
    let mut command = Command::new(program);
    if let Some(home) = &context.home_option {
        command.arg("--home").arg(home);
    }
    command.args(["up", "--detached"]);
    for address in listen {
        command.arg("--listen").arg(address.to_string());
    }
    for _ in 0..context.verbose {
        command.arg("-v");
    }
    if passphrase.is_some() {
        command.arg("--passphrase-stdin");
    }
    let mut child = command
        .current_dir("/")
        .process_group(0)
        .stdin(if passphrase.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| io("larder", error))?;
    if let (Some(passphrase), Some(mut stdin)) = (passphrase, child.stdin.take()) {
        // A child that has ended already says why on its stdout.
        let _ = writeln!(stdin, "{}", passphrase.as_str());
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|error| io("larder", error))?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    let status = child.wait().map_err(|error| io("larder", error))?;
    Err(serde_json::from_str(&line)
        .unwrap_or_else(|_| ControlError::new(ErrorKind::Internal, "larder up").detail(status.to_string())))
}

fn not_initialised(context: &Context) -> ControlError {
    let target = context.target();
    let home = target.config.parent().unwrap_or(&target.config).display().to_string();
    ControlError::new(ErrorKind::NotInitialised, home)
}

/// Is the node, until it is told to stop.
pub(crate) fn node(context: &Context, args: &UpArgs) -> Outcome {
    let log = if args.foreground { LogTarget::Stderr } else { LogTarget::File };
    let passphrase = if args.passphrase_stdin { Some(secrets::passphrase("Passphrase")?) } else { None };
    let options = RunOptions { listen: args.listen.clone(), log, passphrase, verbosity: context.verbose };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| io("the runtime", error))?;
    let detached = args.detached;
    if detached {
        // Lets go of the terminal; fails only for a process that leads its group, which then has none to lose.
        let _ = rustix::process::setsid();
    }
    let ready = move || {
        if detached {
            let mut stdout = std::io::stdout();
            let _ = writeln!(stdout, "{READY}").and_then(|()| stdout.flush());
        }
    };
    let outcome = if larder_node::is_initialised(&context.home) {
        runtime.block_on(larder_node::run(&context.home, options, ready))
    } else {
        Err(not_initialised(context))
    };
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match outcome {
        Err(error) if detached => {
            render::json(&error);
            Ok(error::exit_code(error.kind))
        }
        Err(error) => Err(error),
        Ok(()) => Ok(error::OK),
    }
}

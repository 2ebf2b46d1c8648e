//! `larder`: the node and the command line that queries it.

mod args;
mod client;
mod commands;
mod error;
mod render;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { error::USAGE } else { error::OK });
        }
    };
    let as_json = cli.json;
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error::print(&error, as_json);
            ExitCode::from(error::exit_code(error.kind))
        }
    }
}

impl Command {
    /// Whether the command needs several threads: only the node itself does.
    fn is_node(&self) -> bool {
        matches!(self, Self::Up(up) if up.foreground || up.detached)
    }
}

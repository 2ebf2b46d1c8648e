//! One module for each verb.

mod cat;
mod catalog;
mod connect;
mod credential;
mod demo;
mod device;
mod doctor;
mod down;
mod ensure;
mod find;
mod get;
mod index;
mod init;
mod invite;
mod join;
mod location;
mod log;
mod profile;
mod provider;
mod put;
mod secrets;
mod status;
mod up;
mod url;
mod r#where;

use crate::{
    args::{Cli, Command, ProgressStyle},
    client::{self, Target},
    error,
    render::{self, ProgressLine},
};
use larder_node::Home;
use larder_protocol::control::{ControlError, ErrorKind, StreamItem};
use serde::{Serialize, de::DeserializeOwned};
use std::{future::Future, path::PathBuf};
use tokio::sync::oneshot;

/// What every command has at hand.
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) home_option: Option<PathBuf>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    pub(crate) progress: ProgressStyle,
}

/// How a command ends: an exit code, or an error to be worded.
pub(crate) type Outcome = Result<u8, ControlError>;

/// Runs what was typed.
pub(crate) fn run(cli: Cli) -> Outcome {
    let home_option = cli.home.as_deref().map(std::path::absolute).transpose().map_err(|error| io("--home", error))?;
    let home = match &home_option {
        Some(dir) => Home::under(dir),
        None => Home::xdg(|name| std::env::var(name).ok())
            .map_err(|error| ControlError::new(ErrorKind::BadRequest, "--home").detail(error.to_string()))?,
    };
    let context =
        Context { home, home_option, json: cli.json, quiet: cli.quiet, verbose: cli.verbose, progress: cli.progress };
    if cli.command.is_node() {
        return match cli.command {
            Command::Up(up) => up::node(&context, &up),
            _ => Err(ControlError::new(ErrorKind::Internal, "up")),
        };
    }
    match cli.command {
        Command::Init(args) => init::run(&context, args),
        Command::Up(args) => up::run(&context, &args),
        Command::Down => block_on(down::run(&context)),
        Command::Status => block_on(status::run(&context)),
        Command::Invite(args) => block_on(invite::run(&context, args)),
        Command::Join(args) => join::run(&context, args),
        Command::Device(command) => block_on(device::run(&context, command)),
        Command::Location(command) => block_on(location::run(&context, command)),
        Command::Provider(command) => block_on(provider::run(&context, command)),
        Command::Profile(command) => block_on(profile::run(&context, command)),
        Command::Credential(command) => block_on(credential::run(&context, command)),
        Command::Connect(args) => block_on(connect::run(&context, args)),
        Command::Index(args) => block_on(index::run(&context, args)),
        Command::Find(args) => block_on(find::run(&context, args)),
        Command::Where(args) => block_on(r#where::run(&context, args)),
        Command::Get(args) => block_on(get::run(&context, args)),
        Command::Ensure(args) => block_on(ensure::run(&context, args)),
        Command::Put(args) => block_on(put::run(&context, args)),
        Command::Cat(args) => block_on(cat::run(&context, args)),
        Command::Url(args) => block_on(url::run(&context, args)),
        Command::Log(args) => block_on(log::run(&context, args)),
        Command::Catalog(command) => block_on_threads(catalog::run(&context, command)),
        Command::Doctor(args) => block_on(doctor::run(&context, args)),
        Command::Demo(args) => demo::run(&args),
    }
}

/// Runs a command that asks the node; Ctrl-C ends it, and with it what the node does for it.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| io("the runtime", error))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Err(ControlError::new(ErrorKind::Interrupted, "").retry()),
        }
    });
    // A read of stdin may never return.
    runtime.shutdown_background();
    outcome
}

/// The same for a command that does the work itself.
fn block_on_threads(command: impl Future<Output = Outcome>) -> Outcome {
    block_on_value(async {
        tokio::select! {
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Err(ControlError::new(ErrorKind::Interrupted, "").retry()),
        }
    })
}

/// Runs a future that is no command of its own.
fn block_on_value<T>(future: impl Future<Output = Result<T, ControlError>>) -> Result<T, ControlError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| io("the runtime", error))?;
    runtime.block_on(future)
}

/// A failed system call as an error of the command.
pub(crate) fn io(subject: impl Into<String>, error: std::io::Error) -> ControlError {
    ControlError::new(ErrorKind::Io, subject).detail(error.to_string())
}

impl Context {
    /// Where this home's node is.
    pub(crate) fn target(&self) -> Target {
        Target {
            socket: self.home.socket(),
            config: self.home.config_file(),
            initialised: larder_node::is_initialised(&self.home),
        }
    }

    /// Prints an object: as JSON where asked, else as `words` makes it.
    pub(crate) fn show<T: Serialize>(&self, value: &T, words: impl FnOnce(&T)) {
        if self.json { render::json(value) } else { words(value) }
    }

    /// Prints a note to stderr, unless asked to be quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            eprintln!("{text}");
        }
    }

    /// Asks for a stream, shows progress and errors, hands each result to `each`, and gives the exit code.
    ///
    /// Some errors among results end in exit code 3; errors alone end in that of the first one.
    pub(crate) async fn stream<T: DeserializeOwned>(
        &self,
        route: &str,
        request: &impl Serialize,
        each: impl FnMut(T),
    ) -> Outcome {
        let body = serde_json::to_vec(request)
            .map_err(|error| ControlError::new(ErrorKind::Internal, "request").detail(error.to_string()))?;
        self.stream_body(route, client::whole(body), None, each).await
    }

    /// The same with a body that is no single object; `ready` hears when the node has taken the request and wants the rest.
    pub(crate) async fn stream_body<T: DeserializeOwned>(
        &self,
        route: &str,
        body: client::Body,
        mut ready: Option<oneshot::Sender<()>>,
        mut each: impl FnMut(T),
    ) -> Outcome {
        let mut progress = ProgressLine::new(self.progress, self.quiet);
        let mut results = 0u64;
        let mut first_error = None;
        let mut client = self.target().connect().await?;
        let end = client
            .stream_body(route, body, |item| match item {
                StreamItem::Progress(update) => {
                    ready.take().map(|ready| ready.send(()));
                    progress.update(&update);
                }
                StreamItem::Result(result) => {
                    progress.clear();
                    results += 1;
                    each(result);
                }
                StreamItem::Error(error) => {
                    progress.clear();
                    error::print(&error, self.json);
                    first_error.get_or_insert(error.kind);
                }
                StreamItem::End => {}
            })
            .await;
        progress.clear();
        end?;
        Ok(match first_error {
            None => error::OK,
            Some(_) if results > 0 => 3,
            Some(kind) => error::exit_code(kind),
        })
    }
}

/// A reference as the node wants it: a path of this machine is made absolute, all else stays.
pub(crate) fn absolute_reference(text: &str) -> Result<String, ControlError> {
    let here = text.starts_with("./") || text.starts_with("../") || text == "." || text.starts_with('/');
    let known_form = text.contains(':');
    if here || (!known_form && std::path::Path::new(text).exists()) {
        let slash = if text.ends_with('/') { "/" } else { "" };
        let path = std::path::absolute(text).map_err(|error| io(text, error))?;
        let path = path.to_str().ok_or_else(|| ControlError::new(ErrorKind::BadRequest, text))?;
        return Ok(format!("{}{slash}", path.trim_end_matches('/')));
    }
    Ok(text.to_owned())
}

//! `larder device`.

use super::{Context, Outcome, io};
use crate::{args::DeviceCommand, error, render};
use hyper::Method;
use larder_protocol::control::{
    ControlError, DeviceView, ErrorKind, NamedRequest, RecoveryWords, RevokeDevice, RevokeOutcome, RevokedView,
    SetDeviceRole,
};
use std::{
    io::{BufRead, IsTerminal, Read},
    path::Path,
};
use zeroize::Zeroizing;

/// Longest text that is read as recovery words.
const WORDS_BYTES_MAX: u64 = 4096;

pub(crate) async fn run(context: &Context, command: DeviceCommand) -> Outcome {
    match command {
        DeviceCommand::List => {
            let devices: Vec<DeviceView> =
                context.target().connect().await?.call(Method::GET, "/v1/devices", &()).await?;
            show(context, &devices);
        }
        DeviceCommand::Show { device } => {
            let request = NamedRequest { name: device };
            let view = context.target().connect().await?.call(Method::POST, "/v1/devices/show", &request).await?;
            show(context, &[view]);
        }
        DeviceCommand::SetRole { device, role } => {
            let request = SetDeviceRole { device, role: role.into() };
            let view = context.target().connect().await?.call(Method::POST, "/v1/devices/role", &request).await?;
            show(context, &[view]);
        }
        DeviceCommand::Revoke { device, recovery, yes } => {
            // A node that is off is told before anybody types 24 words.
            let mut client = context.target().connect().await?;
            let recovery = recovery.as_deref().map(recovery_words).transpose()?;
            if !yes && recovery.is_none() && std::io::stdin().is_terminal() && !agreed(&device)? {
                return Ok(error::OK);
            }
            let request = RevokeDevice { device, recovery };
            let view: RevokedView = client.call(Method::POST, "/v1/devices/revoke", &request).await?;
            context.show(&view, tell);
        }
    }
    Ok(error::OK)
}

fn show(context: &Context, devices: &[DeviceView]) {
    if context.json {
        devices.iter().for_each(render::json);
        return;
    }
    let state = |device: &DeviceView| {
        let online = match (device.this, device.online) {
            (true, _) => "this device",
            (false, true) => "online",
            (false, false) => "off",
        };
        if device.votes.is_empty() {
            online.to_owned()
        } else {
            format!("{online}, {} voted to remove it", device.votes.join(" and "))
        }
    };
    let row = |d: &DeviceView| vec![d.name.clone(), d.role.clone(), state(d), d.id.clone()];
    render::table(&["NAME", "ROLE", "STATE", "ID"], &devices.iter().map(row).collect::<Vec<_>>());
}

/// Reads the recovery words from a file, or from stdin for `-`.
pub(super) fn recovery_words(path: &Path) -> Result<RecoveryWords, ControlError> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        if std::io::stdin().is_terminal() {
            eprint!("Recovery words: ");
            std::io::stdin().read_line(&mut text).map_err(|error| io("stdin", error))?;
        } else {
            std::io::stdin().take(WORDS_BYTES_MAX).read_to_string(&mut text).map_err(|error| io("stdin", error))?;
        }
    } else {
        let file = std::fs::File::open(path).map_err(|error| io(path.display().to_string(), error))?;
        file.take(WORDS_BYTES_MAX).read_to_string(&mut text).map_err(|error| io(path.display().to_string(), error))?;
    }
    Ok(RecoveryWords::new(text))
}

fn agreed(device: &str) -> Result<bool, ControlError> {
    eprint!("Remove '{}' for good? It could join again only as a new device. [y/N] ", render::escape(device));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| ControlError::new(ErrorKind::Io, "stdin").detail(error.to_string()))?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

fn names(names: &[String]) -> String {
    render::escape(&names.join(", "))
}

fn tell(view: &RevokedView) {
    let name = render::escape(&view.name);
    match view.outcome {
        RevokeOutcome::Removed => render::line(&format!(
            "{name} is removed: it learns nothing new, and every device that has heard of it refuses it."
        )),
        RevokeOutcome::Voted => {
            render::line(&format!("{name} is senior to this device, so this is a vote. It is not removed yet."));
            render::line(&format!("Voted so far: {}. More than half of the admins must.", names(&view.votes)));
            render::line("The recovery words decide at once: larder device revoke NAME --recovery -");
        }
    }
    if !view.online.is_empty() {
        render::line(&format!("Told now: {}.", names(&view.online)));
    }
    if !view.offline.is_empty() {
        render::line(&format!("Hear of it when they are back: {}.", names(&view.offline)));
    }
    let readable = &view.readable;
    render::line("What it could still read:");
    render::line(&format!("  names and places of {} contents, as of now", readable.contents));
    for held in &readable.held {
        let location = render::escape(&held.location);
        render::line(&format!("  its own location {location}: {} files, {}", held.files, render::size(held.bytes)));
    }
    if !readable.sealed.is_empty() {
        render::line(&format!("  what was sealed so far, if it gets at the storage: {}", names(&readable.sealed)));
    }
    if !readable.credentials.is_empty() {
        render::line(&format!("Change the credentials of: {}", names(&readable.credentials)));
    }
}

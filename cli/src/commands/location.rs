//! `larder location`.

use super::{Context, Outcome, index, io};
use crate::{
    args::{LocationAddArgs, LocationAllowArgs, LocationCommand, LocationSetArgs, PurposeArg},
    error, render,
};
use hyper::Method;
use larder_protocol::{
    control::{
        AddLocation, AllowLocation, ControlError, CustodianRequest, CustodianView, DefaultLocation, DefaultView,
        DefaultWhy, ErrorKind, IndexRequest, LocationView, NamedRequest, ScanMode, SetLocation,
    },
    record::{Action, Purpose},
};
use std::io::{BufRead, IsTerminal};

pub(crate) async fn run(context: &Context, command: LocationCommand) -> Outcome {
    match command {
        LocationCommand::Add(args) => add(context, args).await,
        LocationCommand::List => {
            let locations: Vec<LocationView> =
                context.target().connect().await?.call(Method::GET, "/v1/locations", &()).await?;
            if context.json {
                locations.iter().for_each(render::json);
            } else {
                let row = |l: &LocationView| {
                    vec![
                        l.name.clone(),
                        l.steward.clone(),
                        l.state.clone(),
                        l.profile.clone(),
                        l.files.to_string(),
                        render::size(l.bytes),
                        fullness(l).unwrap_or_default(),
                        l.path.clone().or_else(|| l.address.clone()).unwrap_or_default(),
                    ]
                };
                let header = ["NAME", "DEVICE", "STATE", "PROFILE", "FILES", "SIZE", "USED", "PATH"];
                render::table(&header, &locations.iter().map(row).collect::<Vec<_>>());
            }
            Ok(error::OK)
        }
        LocationCommand::Show { location } => {
            let request = NamedRequest { name: location };
            let view: LocationView =
                context.target().connect().await?.call(Method::POST, "/v1/locations/show", &request).await?;
            context.show(&view, details);
            Ok(error::OK)
        }
        LocationCommand::Test { location } => {
            let request = NamedRequest { name: location };
            let view: LocationView =
                context.target().connect().await?.call(Method::POST, "/v1/locations/test", &request).await?;
            context.show(&view, |view| {
                let serves = if view.address.is_some() { "; this device is a gateway of it" } else { "" };
                render::line(&format!("{} is {}{serves}.", render::escape(&view.name), view.state));
            });
            Ok(error::OK)
        }
        LocationCommand::Allow(args) => allow(context, args).await,
        LocationCommand::Default { location, unset } => default(context, location, unset).await,
        LocationCommand::Set(args) => set(context, args).await,
        LocationCommand::Custodian { location, device } => {
            let request = CustodianRequest { location, device };
            let view: CustodianView =
                context.target().connect().await?.call(Method::POST, "/v1/locations/custodian", &request).await?;
            context.show(&view, |view| {
                let (device, location) = (render::escape(&view.device), render::escape(&view.location));
                render::line(&format!("{device} alone deletes in {location}."));
            });
            Ok(error::OK)
        }
        LocationCommand::Remove { location, yes } => remove(context, location, yes).await,
    }
}

/// All that is known of a location.
fn details(view: &LocationView) {
    let purposes: Vec<&str> = view.purposes.iter().map(|purpose| word(*purpose)).collect();
    let mut rows = vec![
        ("name", view.name.clone()),
        ("id", view.id.clone()),
        ("state", view.state.clone()),
        ("device", view.steward.clone()),
        ("path", view.path.clone().or_else(|| view.address.clone()).unwrap_or_default()),
        ("purpose", if purposes.is_empty() { "-".to_owned() } else { purposes.join(", ") }),
        ("profile", view.profile.clone()),
        ("encrypted", view.encrypted.to_string()),
        ("chunked", view.chunked.to_string()),
        ("read-only", view.read_only.to_string()),
        ("default", if view.default { "new files of this device go there" } else { "-" }.to_owned()),
        ("files", view.files.to_string()),
        ("size", render::size(view.bytes)),
    ];
    rows.extend(view.settings.iter().map(|(name, value)| ("setting", format!("{name}={value}"))));
    let who = |words: &[String]| if words.is_empty() { "nobody".to_owned() } else { words.join(", ") };
    rows.push(("may read", who(&view.access.read)));
    rows.push(("may write", who(&view.access.write)));
    rows.push(("may delete", who(&view.access.delete)));
    let here = view.access.here.iter().map(|action| match action {
        Action::Read => "read",
        Action::Write => "write",
        Action::Delete => "delete",
    });
    let here: Vec<&str> = here.collect();
    rows.push(("this may", if here.is_empty() { "nothing".to_owned() } else { here.join(", ") }));
    rows.extend(view.access.by.iter().map(|device| ("said by", device.clone())));
    rows.extend(view.custodian.iter().map(|device| ("custodian", device.clone())));
    for (name, value) in rows {
        render::line(&format!("{name:<10} {}", render::escape(&value)));
    }
    if let Some(used) = fullness(view) {
        render::line(&format!("{:<10} {used}", "used"));
    }
    for gateway in &view.gateways {
        let online = if gateway.online { "online" } else { "off" };
        let why = gateway.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        let next = gateway.next.as_ref().map_or_else(String::new, |next| format!("; run there: {next}"));
        let line = format!("{}: {}, {online}, {}{why}{next}", gateway.device, gateway.state, gateway.seen);
        render::line(&format!("{:<10} {}", "gateway", render::escape(&line)));
    }
}

fn word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Inbox => "inbox",
        Purpose::Organized => "organized",
        Purpose::Archive => "archive",
        Purpose::Backup => "backup",
        Purpose::Overflow => "overflow",
    }
}

fn purpose(purpose: PurposeArg) -> Purpose {
    match purpose {
        PurposeArg::Inbox => Purpose::Inbox,
        PurposeArg::Organized => Purpose::Organized,
        PurposeArg::Archive => Purpose::Archive,
        PurposeArg::Backup => Purpose::Backup,
        PurposeArg::Overflow => Purpose::Overflow,
    }
}

async fn allow(context: &Context, args: LocationAllowArgs) -> Outcome {
    let everyone = || Some(vec!["everyone".to_owned()]);
    let request = if args.everyone {
        AllowLocation { location: args.location, read: everyone(), write: everyone(), delete: everyone() }
    } else {
        AllowLocation { location: args.location, read: args.read, write: args.write, delete: args.delete }
    };
    let view: LocationView =
        context.target().connect().await?.call(Method::POST, "/v1/locations/allow", &request).await?;
    context.show(&view, details);
    Ok(error::OK)
}

async fn default(context: &Context, location: Option<String>, unset: bool) -> Outcome {
    let request = DefaultLocation { location, unset };
    let view: DefaultView =
        context.target().connect().await?.call(Method::POST, "/v1/locations/default", &request).await?;
    context.show(&view, |view| {
        let why = match view.why {
            DefaultWhy::Set => "it was set",
            DefaultWhy::Inbox => "it is the inbox of this device",
            DefaultWhy::Only => "it is the only one that this device can write",
            DefaultWhy::Local => "it is the only one in a folder of this device",
            DefaultWhy::None => "none is set, and it is not clear which",
        };
        let name = view.location.as_ref().map_or_else(|| "no location".to_owned(), |name| render::escape(name));
        render::line(&format!("New files go to {name}: {why}."));
    });
    Ok(error::OK)
}

async fn set(context: &Context, args: LocationSetArgs) -> Outcome {
    let purposes = (args.no_purpose || !args.purposes.is_empty())
        .then(|| args.purposes.into_iter().map(purpose).collect::<Vec<Purpose>>());
    let request = SetLocation { location: args.location, name: args.name, purposes, settings: args.set };
    let view: LocationView =
        context.target().connect().await?.call(Method::POST, "/v1/locations/set", &request).await?;
    context.show(&view, details);
    Ok(error::OK)
}

async fn add(context: &Context, args: LocationAddArgs) -> Outcome {
    let shown = args.path.display().to_string();
    let text = args.path.to_str().ok_or_else(|| ControlError::new(ErrorKind::BadRequest, shown.clone()))?;
    // What has a scheme is no path of this machine.
    let address = text.split_once("://").is_some_and(|(scheme, _)| scheme != "file" && !scheme.contains('/'));
    let path = if address {
        text.to_owned()
    } else {
        let path = text.strip_prefix("file://").unwrap_or(text);
        let path = std::fs::canonicalize(path).map_err(|error| io(shown.clone(), error))?;
        path.to_str().ok_or_else(|| ControlError::new(ErrorKind::BadRequest, shown))?.to_owned()
    };
    let request = AddLocation {
        name: args.name,
        path,
        profile: args.profile,
        purposes: args.purposes.into_iter().map(purpose).collect(),
        read_only: args.read_only,
        trust_store: args.trust_store,
        settings: args.set,
    };
    let view: LocationView = context.target().connect().await?.call(Method::POST, "/v1/locations", &request).await?;
    context.show(&view, |view| {
        render::line(&format!("{} is a location of this device ({}).", render::escape(&view.name), view.profile));
    });
    if !args.scan {
        return Ok(error::OK);
    }
    let request = IndexRequest { location: Some(view.id), mode: ScanMode::Smart, accept_loss: false };
    index::scan(context, &request).await
}

async fn remove(context: &Context, location: String, yes: bool) -> Outcome {
    if !yes {
        if !std::io::stdin().is_terminal() {
            return Err(ControlError::new(ErrorKind::BadRequest, "location remove").detail("--yes is needed here"));
        }
        eprint!("Forget '{}'? Its files stay as they are. [y/N] ", render::escape(&location));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|error| io("stdin", error))?;
        if !matches!(answer.trim(), "y" | "yes") {
            return Ok(error::OK);
        }
    }
    let request = NamedRequest { name: location };
    let view: LocationView =
        context.target().connect().await?.call(Method::POST, "/v1/locations/remove", &request).await?;
    context.show(&view, |view| render::line(&format!("{} is forgotten.", render::escape(&view.name))));
    Ok(error::OK)
}

/// How full the storage is, where it tells.
fn fullness(view: &LocationView) -> Option<String> {
    let of = view.total.map_or_else(String::new, |total| format!(" of {}", render::size(total)));
    view.used.map(|used| format!("{}{of}", render::size(used)))
}

//! `larder profile`.

use super::{Context, Outcome};
use crate::{
    args::{ProfileAddArgs, ProfileCommand},
    error, render,
};
use hyper::Method;
use larder_protocol::control::{AddProfile, NamedRequest, ProfileView};

pub(crate) async fn run(context: &Context, command: ProfileCommand) -> Outcome {
    let mut client = context.target().connect().await?;
    match command {
        ProfileCommand::Add(args) => {
            let view: ProfileView = client.call(Method::POST, "/v1/profiles", &request(args)).await?;
            context.show(&view, |view| {
                let name = render::escape(&view.name);
                render::line(&format!("{name} is a profile of {}.", view.provider.as_deref().unwrap_or_default()));
                context.note(&format!("Next: larder credential set {name}, if its storage asks who you are."));
            });
        }
        ProfileCommand::List => {
            let profiles: Vec<ProfileView> = client.call(Method::GET, "/v1/profiles", &()).await?;
            if context.json {
                profiles.iter().for_each(render::json);
            } else {
                let header = ["NAME", "PROVIDER", "ENCRYPTED", "CHUNKED", "CREDENTIAL", "DEFAULT FOR", "LOCATIONS"];
                render::table(&header, &profiles.iter().map(row).collect::<Vec<_>>());
            }
        }
        ProfileCommand::Show { profile } => {
            let request = NamedRequest { name: profile };
            let view: ProfileView = client.call(Method::POST, "/v1/profiles/show", &request).await?;
            context.show(&view, |view| {
                let rows = [
                    ("name", view.name.clone()),
                    ("provider", view.provider.clone().unwrap_or_else(|| "any".to_owned())),
                    ("encrypted", view.encrypted.to_string()),
                    ("chunked", view.chunked.to_string()),
                    ("credential", credential(view).to_owned()),
                    ("default", view.default.clone().unwrap_or_default()),
                    ("locations", view.locations.join(", ")),
                ];
                for (name, value) in rows {
                    render::line(&format!("{name:<12} {}", render::escape(&value)));
                }
                for (name, value) in &view.settings {
                    render::line(&format!("{:<12} {}", render::escape(name), render::escape(value)));
                }
            });
        }
        ProfileCommand::Remove { profile } => {
            let request = NamedRequest { name: profile };
            let view: ProfileView = client.call(Method::POST, "/v1/profiles/remove", &request).await?;
            context.show(&view, |view| render::line(&format!("{} is removed.", render::escape(&view.name))));
        }
    }
    Ok(error::OK)
}

/// What `--x` and `--no-x` say.
fn chosen(yes: bool, no: bool) -> Option<bool> {
    if yes { Some(true) } else { no.then_some(false) }
}

fn request(args: ProfileAddArgs) -> AddProfile {
    AddProfile {
        name: args.name,
        provider: args.provider,
        settings: args.set.into_iter().collect(),
        encrypted: chosen(args.encrypted, args.no_encrypted),
        chunked: chosen(args.chunked, args.no_chunked),
    }
}

fn credential(view: &ProfileView) -> &'static str {
    match (view.credential, &view.default) {
        (Some(true), _) => "set",
        (Some(false), _) => "none",
        (None, None) => "locked",
        (None, Some(_)) => "",
    }
}

fn row(view: &ProfileView) -> Vec<String> {
    vec![
        view.name.clone(),
        view.provider.clone().unwrap_or_else(|| "any".to_owned()),
        view.encrypted.to_string(),
        view.chunked.to_string(),
        credential(view).to_owned(),
        view.default.clone().unwrap_or_default(),
        view.locations.join(", "),
    ]
}

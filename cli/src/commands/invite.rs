//! `larder invite`.

use super::{Context, Outcome};
use crate::{
    args::{InviteArgs, InviteCommand},
    error, render,
};
use hyper::Method;
use larder_protocol::control::{InviteRequest, InviteView, OpenInvite};

pub(crate) async fn run(context: &Context, args: InviteArgs) -> Outcome {
    let mut client = context.target().connect().await?;
    match args.command {
        None => {
            let request = OpenInvite { ttl_seconds: args.ttl.as_secs(), role: args.role.into() };
            let view: InviteView = client.call(Method::POST, "/v1/invites", &request).await?;
            context.show(&view, |view| {
                render::line(view.code.as_deref().unwrap_or_default());
                context.note(&format!("Good once, as {}, until {}.", view.role, view.expires_at));
                context.note("On the other machine: larder join, then paste the code.");
            });
        }
        Some(InviteCommand::List) => {
            let invites: Vec<InviteView> = client.call(Method::GET, "/v1/invites", &()).await?;
            if context.json {
                invites.iter().for_each(render::json);
            } else {
                let row = |i: &InviteView| vec![i.id.clone(), i.role.clone(), i.state.clone(), i.expires_at.clone()];
                render::table(&["ID", "ROLE", "STATE", "UNTIL"], &invites.iter().map(row).collect::<Vec<_>>());
            }
        }
        Some(InviteCommand::Revoke { id }) => {
            let view: InviteView = client.call(Method::POST, "/v1/invites/revoke", &InviteRequest { id }).await?;
            context.show(&view, |view| render::line(&format!("{} {}", view.id, view.state)));
        }
    }
    Ok(error::OK)
}

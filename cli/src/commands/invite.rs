//! `larder invite`.

use super::{
    Context, Outcome,
    join::{may_ask, same_words},
};
use crate::{
    args::{InviteArgs, InviteCommand},
    error, render,
};
use hyper::Method;
use larder_protocol::control::{CompareWords, ControlError, InviteRequest, InviteView, OpenInvite, StreamItem};
use tokio::sync::mpsc::unbounded_channel;

pub(crate) async fn run(context: &Context, args: InviteArgs) -> Outcome {
    if args.words && args.command.is_none() {
        return by_words(context, &args).await;
    }
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

/// Opens a short code and stays until somebody has joined with it.
async fn by_words(context: &Context, args: &InviteArgs) -> Outcome {
    may_ask(args.yes, "invite --words")?;
    let request = OpenInvite { ttl_seconds: args.ttl.as_secs(), role: args.role.into() };
    let mut client = context.target().connect().await?;
    // The node tells at its own pace while the person here is asked.
    let (told, mut tells) = unbounded_channel();
    let telling = async move {
        client.stream("/v1/invites/words", &request, |item: StreamItem<InviteView>| drop(told.send(item))).await
    };
    let listening = async {
        let mut failed = None;
        while let Some(item) = tells.recv().await {
            match item {
                StreamItem::Result(view) => heard(context, args.yes, &view).await?,
                StreamItem::Error(error) => failed = Some(error),
                StreamItem::Progress(_) | StreamItem::End => {}
            }
        }
        failed.map_or(Ok(()), Err::<(), ControlError>)
    };
    tokio::try_join!(telling, listening)?;
    Ok(error::OK)
}

/// Shows what has become of a short code, and asks where that is called for.
async fn heard(context: &Context, yes: bool, view: &InviteView) -> Result<(), ControlError> {
    context.show(view, |view| {
        if let Some(code) = &view.code {
            render::line(code);
            context.note(&format!("Good once, as {}, until {}, while this command waits.", view.role, view.expires_at));
            let at: String = view.at.iter().map(|at| format!(" --at {at}")).collect();
            context.note(&format!("On the other machine: larder join {code}{at}"));
        }
        if let Some(device) = &view.device {
            render::line(&format!("{} has joined.", render::escape(device)));
        }
    });
    if let Some(words) = &view.words {
        let (id, words) = (view.id.clone(), words.clone());
        let same = tokio::task::spawn_blocking(move || same_words(&words, yes)).await.unwrap_or(false);
        let answer = CompareWords { id, same };
        context.target().connect().await?.call::<()>(Method::POST, "/v1/invites/compared", &answer).await?;
    }
    Ok(())
}

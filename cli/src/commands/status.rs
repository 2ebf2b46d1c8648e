//! `larder status`.

use super::{Context, Outcome};
use crate::{error, render};
use hyper::Method;
use larder_protocol::control::StatusView;

pub(crate) async fn run(context: &Context) -> Outcome {
    let view: StatusView = context.target().connect().await?.call(Method::GET, "/v1/status", &()).await?;
    context.show(&view, |view| {
        render::line(&format!("{} in group '{}'", render::escape(&view.device), render::escape(&view.group)));
        render::line(&format!("{} contents known", view.contents));
        if view.pending_transfers > 0 {
            render::line(&format!("{} transfers under way or queued", view.pending_transfers));
        }
        for ahead in &view.ahead {
            let (device, count) = (render::escape(&ahead.device), ahead.statements);
            render::line(&format!("{count} statements of '{device}' are held back: its clock is ahead of this one"));
        }
        if view.provisional > 0 {
            render::line(&format!("{} statements wait to be told until another device is met", view.provisional));
        }
        for fork in &view.forks {
            let (device, count) = (render::escape(&fork.device), fork.histories);
            render::line(&format!("'{device}' has signed {count} histories: a copy of it is or was in use"));
        }
        for disputed in &view.disputed {
            let (device, count) = (render::escape(&disputed.device), disputed.statements);
            render::line(&format!("{count} statements of '{device}', which was removed, do not count"));
        }
        for (peer, trouble) in view.peers.iter().filter_map(|peer| Some((peer, peer.trouble.as_ref()?))) {
            let name = render::escape(&peer.name);
            if trouble.faults > 0 {
                let (count, last) = (trouble.faults, render::escape(&trouble.last));
                let silenced = if trouble.silenced { "; it is not listened to for a while" } else { "" };
                render::line(&format!("'{name}' sent what no sound device sends, {count} times: {last}{silenced}"));
            }
            if trouble.over_quota > 0 {
                let count = trouble.over_quota;
                render::line(&format!("'{name}' is over its daily quota: {count} statements were not kept"));
            }
        }
        if !view.peers.is_empty() {
            render::line("");
            let row = |peer: &larder_protocol::control::PeerView| {
                let state = if peer.online { "online" } else { "off" };
                vec![peer.name.clone(), state.to_owned(), peer.addr.clone().unwrap_or_default()]
            };
            render::table(&["DEVICE", "STATE", "ADDRESS"], &view.peers.iter().map(row).collect::<Vec<_>>());
        }
        if !view.locations.is_empty() {
            render::line("");
            let row = |l: &larder_protocol::control::LocationSummary| {
                vec![l.name.clone(), l.state.clone(), l.files.to_string(), render::size(l.bytes)]
            };
            render::table(&["LOCATION", "STATE", "FILES", "SIZE"], &view.locations.iter().map(row).collect::<Vec<_>>());
        }
    });
    Ok(error::OK)
}

//! `larder find`.

use super::{Context, Outcome};
use crate::{args::FindArgs, error, render};
use hyper::Method;
use larder_protocol::control::{CopyView, FindQuery, FoundView};

pub(crate) async fn run(context: &Context, args: FindArgs) -> Outcome {
    let query = FindQuery {
        query: args.query.join(" "),
        location: args.location,
        media_type: args.media_type,
        reachable: args.reachable,
        limit: args.limit,
    };
    let hits: Vec<FoundView> = context.target().connect().await?.call(Method::POST, "/v1/find", &query).await?;
    if context.json {
        hits.iter().for_each(render::json);
    } else if hits.is_empty() {
        context.note("nothing found");
    } else {
        let row = |hit: &FoundView| {
            vec![
                hit.name.clone(),
                render::size(hit.size),
                hit.content_id.chars().take(10).collect(),
                hit.replicas.iter().map(copy).collect::<Vec<_>>().join(", "),
            ]
        };
        render::table(&["NAME", "SIZE", "CONTENT", "COPIES"], &hits.iter().map(row).collect::<Vec<_>>());
    }
    Ok(error::OK)
}

fn copy(copy: &CopyView) -> String {
    let mut text = copy.location.clone();
    if copy.encrypted {
        text += " (sealed)";
    }
    if copy.state != "present" {
        text += &format!(" ({})", copy.state);
    } else if !copy.reachable {
        text += " (off)";
    }
    text
}

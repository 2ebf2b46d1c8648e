//! `larder where`.

use super::{Context, Outcome, absolute_reference};
use crate::{args::ReferenceArgs, error, render};
use hyper::Method;
use larder_protocol::control::{CopyView, Evidence, WhereQuery, WhereView};

pub(crate) async fn run(context: &Context, args: ReferenceArgs) -> Outcome {
    let query = WhereQuery { reference: absolute_reference(&args.reference)? };
    let view: WhereView = context.target().connect().await?.call(Method::POST, "/v1/where", &query).await?;
    context.show(&view, |view| {
        render::line(&format!("{}  {}", view.content_id, render::size(view.size)));
        for copy in &view.replicas {
            render::line(&describe(copy));
        }
        if view.replicas.is_empty() {
            render::line("  no copy is known");
        }
    });
    Ok(error::OK)
}

fn describe(copy: &CopyView) -> String {
    let mut text = format!("  {}", render::escape(&copy.location));
    if let Some(path) = &copy.path {
        text += &format!(":{}", render::escape(path));
    }
    let devices: Vec<_> = copy.devices.iter().map(|name| render::escape(name)).collect();
    text += &format!("  on {}", devices.join(", "));
    if copy.encrypted {
        text += ", sealed";
    }
    let known = match copy.evidence {
        Evidence::Verified => "verified here",
        Evidence::Listed => "listed here",
        Evidence::Told => "told by its device",
    };
    text += &format!("; {}, {known}, bytes checked {}", copy.state, copy.verified_at);
    match &copy.action {
        Some(action) => text + &format!("\n      to reach it: {}", render::escape(action)),
        None => text,
    }
}

//! `larder url`.

use super::{Context, Outcome, absolute_reference};
use crate::{args::UrlArgs, error, render};
use hyper::Method;
use larder_protocol::control::{UrlKind, UrlRequest, UrlView};

pub(crate) async fn run(context: &Context, args: UrlArgs) -> Outcome {
    let reference = absolute_reference(&args.reference)?;
    let request = UrlRequest { reference, ttl_seconds: args.ttl.as_secs(), local: args.local };
    let view: UrlView = context.target().connect().await?.call(Method::POST, "/v1/url", &request).await?;
    context.show(&view, |view| {
        render::line(&view.url);
        match view.kind {
            UrlKind::Local => {}
            UrlKind::Presigned => {
                context.note("The storage serves it: whoever has the address can read it from anywhere.")
            }
            UrlKind::Public => context.note("The storage serves it to everybody, and for good."),
        }
    });
    Ok(error::OK)
}

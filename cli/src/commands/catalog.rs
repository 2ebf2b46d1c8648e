//! `larder catalog`.

use super::{Context, Outcome};
use crate::{args::CatalogCommand, error, render};
use hyper::Method;
use larder_protocol::control::DigestView;

pub(crate) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Digest => {
            let view: DigestView =
                context.target().connect().await?.call(Method::GET, "/v1/catalog/digest", &()).await?;
            context.show(&view, |view| render::line(&view.digest));
        }
    }
    Ok(error::OK)
}

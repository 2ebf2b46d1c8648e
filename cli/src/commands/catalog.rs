//! `larder catalog`.

use super::{Context, Outcome};
use crate::{args::CatalogCommand, error, render};
use hyper::Method;
use larder_protocol::control::DigestView;

pub(crate) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Rebuild => {
            let view = larder_node::rebuild_catalog(&context.home)?;
            context.show(&view, |view| {
                render::line(&format!(
                    "{} contents in {} files, from {} batches.",
                    view.contents, view.files, view.batches
                ));
                if let Some(aside) = &view.aside {
                    render::line(&format!(
                        "The old database is {}; remove it when all is well.",
                        render::escape(aside)
                    ));
                }
                for device in &view.damaged {
                    render::line(&format!("Part of the log of {device} is damaged; other devices will tell it again."));
                }
                render::line(&format!("Digest: {}", view.digest));
            });
        }
        CatalogCommand::Digest => {
            let view: DigestView =
                context.target().connect().await?.call(Method::GET, "/v1/catalog/digest", &()).await?;
            context.show(&view, |view| render::line(&view.digest));
        }
    }
    Ok(error::OK)
}

//! `larder catalog`.

use super::{Context, Outcome};
use crate::{
    args::{CatalogCommand, RebuildArgs},
    error,
    render::{self, ProgressLine},
};
use hyper::Method;
use larder_protocol::control::DigestView;
use std::{path::Path, sync::Arc};

pub(crate) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Rebuild(RebuildArgs { from: Some(from), recovery: Some(recovery), to: Some(to) }) => {
            return restore(context, &from, &recovery, &to).await;
        }
        CatalogCommand::Rebuild(_) => {
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

/// Gets every file back from a sealed location. Needs neither a home nor a node.
async fn restore(context: &Context, from: &Path, recovery: &Path, to: &Path) -> Outcome {
    let words = super::device::recovery_words(recovery)?;
    let storage = larder_node::storage::fs::FsProvider::open(from.to_owned())
        .map_err(|error| super::io(from.display().to_string(), std::io::Error::other(error.detail)))?;
    let mut progress = ProgressLine::new(context.progress, context.quiet);
    let (mut restored, mut first_error) = (0u64, None);
    let ended = larder_node::recover(Arc::new(storage), &words, to, |file, update| {
        progress.clear();
        match file {
            Ok(view) => {
                restored += 1;
                context.show(&view, |view| {
                    render::line(&format!("{}  {}", render::escape(&view.path), render::size(view.bytes)));
                });
            }
            Err(error) => {
                error::print(&error, context.json);
                first_error.get_or_insert(error.kind);
            }
        }
        progress.update(&update);
    })
    .await;
    progress.clear();
    ended?;
    Ok(match first_error {
        None => error::OK,
        Some(_) if restored > 0 => 3,
        Some(kind) => error::exit_code(kind),
    })
}

//! `larder catalog`.

use super::{Context, Outcome, secrets};
use crate::{
    args::{CatalogCommand, RebuildArgs},
    error,
    render::{self, ProgressLine},
};
use hyper::Method;
use larder_node::storage::Credential;
use larder_protocol::control::{ControlError, DigestView};
use std::path::{Path, PathBuf};

/// What to do about a part of a location that cannot be restored.
const LOST_HINT: &str = "the rest is restored; try another sealed location of the group for this";

pub(crate) async fn run(context: &Context, command: CatalogCommand) -> Outcome {
    match command {
        CatalogCommand::Rebuild(RebuildArgs {
            from: Some(from),
            set,
            recovery: Some(recovery),
            profile,
            to: Some(to),
        }) => {
            return restore(context, from, (set, profile), &recovery, &to).await;
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

/// Gets every file back from a sealed location. Needs no node, and a home only to keep a login that the service replaces.
async fn restore(
    context: &Context,
    from: PathBuf,
    (settings, profile): (Vec<(String, String)>, Option<String>),
    recovery: &Path,
    to: &Path,
) -> Outcome {
    let asks = from.to_str().filter(|from| from.contains("://"));
    let (words, values) = secrets::words_and_lines(recovery, asks)?;
    let credential = values.iter().map(|(name, value)| (name.clone(), value.as_str().to_owned())).collect();
    let source = larder_node::Source::new(from, settings.into_iter().collect(), Credential::new(credential))?;
    let source = source.with_logins(&context.home, profile.as_deref())?;
    let mut progress = ProgressLine::new(context.progress, context.quiet);
    let (mut restored, mut lost) = (0u64, Vec::<ControlError>::new());
    let ended = larder_node::recover(&source, &words, to, |file, update| {
        progress.clear();
        match file {
            Ok(view) => {
                restored += 1;
                context.show(&view, |view| {
                    render::line(&format!("{}  {}", render::escape(&view.path), render::size(view.bytes)));
                });
            }
            Err(error) => {
                error::print_with(&error, LOST_HINT, context.json);
                lost.push(error);
            }
        }
        progress.update(&update);
    })
    .await;
    progress.clear();
    if !lost.is_empty() && !context.json {
        context.note(&format!("{restored} files are there. Not restored:"));
        lost.iter().for_each(|error| context.note(&format!("  {}", render::escape(&error.subject))));
    }
    if let Some(name) = source.login_kept() {
        context
            .note(&format!("The login is kept in this home, for a profile that is called {}.", render::escape(name)));
    }
    ended?;
    Ok(match lost.first() {
        None => error::OK,
        Some(_) if restored > 0 => 3,
        Some(error) => error::exit_code(error.kind),
    })
}

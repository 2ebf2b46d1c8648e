//! `larder index`.

use super::{Context, Outcome};
use crate::{args::IndexArgs, render};
use larder_protocol::control::{IndexRequest, IndexView, ScanMode};

pub(crate) async fn run(context: &Context, args: IndexArgs) -> Outcome {
    let mode = match (args.quick, args.full) {
        (true, _) => ScanMode::Quick,
        (_, true) => ScanMode::Full,
        _ => ScanMode::Smart,
    };
    let request = IndexRequest { location: args.location, mode, accept_loss: args.accept_loss };
    scan(context, &request).await
}

/// Runs an index request and prints its summaries; `location add --scan` uses it too.
pub(super) async fn scan(context: &Context, request: &IndexRequest) -> Outcome {
    context
        .stream("/v1/index", request, |view: IndexView| {
            context.show(&view, |view| {
                render::line(&format!(
                    "{}: {} files, {} new, {} changed, {} moved, {} missing; {} read in {:.2} s",
                    render::escape(&view.location),
                    view.scanned,
                    view.added,
                    view.changed,
                    view.moved,
                    view.missing,
                    render::size(view.hashed_bytes),
                    view.seconds,
                ));
            });
        })
        .await
}

//! `larder cat`.

use super::{Context, Outcome, absolute_reference};
use crate::{args::CatArgs, error};
use larder_protocol::control::CatQuery;
use std::io::Write;

pub(crate) async fn run(context: &Context, args: CatArgs) -> Outcome {
    let query = CatQuery {
        reference: absolute_reference(&args.reference)?,
        first: args.range.map(|(first, _)| first),
        last: args.range.and_then(|(_, last)| last),
    };
    let mut stdout = std::io::stdout().lock();
    context.target().connect().await?.bytes("/v1/cat", &query, |bytes| stdout.write_all(bytes)).await?;
    stdout.flush().map_err(|error| super::io("stdout", error))?;
    Ok(error::OK)
}

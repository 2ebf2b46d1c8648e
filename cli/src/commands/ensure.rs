//! `larder ensure`.

use super::{Context, Outcome, absolute_reference};
use crate::{args::EnsureArgs, render};
use larder_protocol::control::{EnsureRequest, EnsureView};

pub(crate) async fn run(context: &Context, args: EnsureArgs) -> Outcome {
    let references = args.references.iter().map(|text| absolute_reference(text)).collect::<Result<_, _>>()?;
    let request = EnsureRequest { references, location: args.at, path: args.path };
    let mut queued = false;
    let code = context
        .stream("/v1/ensure", &request, |view: EnsureView| {
            queued |= view.queued;
            context.show(&view, |view| {
                let how = match (view.queued, view.already) {
                    (true, _) => "queued until its device returns",
                    (false, true) => "was there already",
                    (false, false) => "stored",
                };
                let path = render::escape(&view.path);
                render::line(&format!("{}:{path}  {how}", render::escape(&view.location)));
            });
        })
        .await?;
    Ok(if queued && code == 0 { 3 } else { code })
}

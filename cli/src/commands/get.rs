//! `larder get`.

use super::{Context, Outcome, absolute_reference, io};
use crate::{args::GetArgs, render};
use larder_protocol::control::{ControlError, ErrorKind, GetRequest, GotView};
use std::path::Path;

pub(crate) async fn run(context: &Context, args: GetArgs) -> Outcome {
    let single = matches!(&args.references[..], [one] if !one.ends_with('/') && !one.ends_with(':'));
    let output = args.output.as_deref().unwrap_or(Path::new("."));
    let is_file = single && args.output.is_some() && !output.is_dir() && !ends_with_slash(output);
    let output = std::path::absolute(output).map_err(|error| io(output.display().to_string(), error))?;
    let output = output
        .to_str()
        .ok_or_else(|| ControlError::new(ErrorKind::BadRequest, output.display().to_string()))?
        .to_owned();
    let references = args.references.iter().map(|text| absolute_reference(text)).collect::<Result<_, _>>()?;
    let request = GetRequest { references, output, output_is_file: is_file, force: args.force };
    context
        .stream("/v1/get", &request, |view: GotView| {
            context.show(&view, |view| {
                let from: Vec<_> = view.sources.iter().map(|source| render::escape(&source.name)).collect();
                let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(", ")) };
                render::line(&format!("{}  {}{from}", render::escape(&view.path), render::size(view.bytes)));
            });
        })
        .await
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

//! `larder put`.

use super::{Context, Outcome, io};
use crate::{args::PutArgs, client::Body, render};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use larder_protocol::control::{ControlError, ErrorKind, PutRequest, PutView};
use std::{fs::File, os::fd::AsFd, path::Path};
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;

/// Bytes of stdin that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

pub(crate) async fn run(context: &Context, args: PutArgs) -> Outcome {
    let is_stdin = |source: &Path| source == Path::new("-");
    let mut queued = false;
    let show = |view: PutView| {
        queued |= view.queued;
        context.show(&view, |view| {
            let kept = view.kept_at.as_deref().map(render::escape).unwrap_or_default();
            let how = match (view.queued, view.already) {
                (true, _) => format!("queued until its device returns; kept at '{kept}'"),
                (false, true) => "was there already".to_owned(),
                (false, false) if kept.is_empty() => "stored".to_owned(),
                (false, false) => format!("stored; kept at '{kept}', too"),
            };
            let (location, path) = (render::escape(&view.location), render::escape(&view.path));
            render::line(&format!("{location}:{path}  {}  {how}", render::size(view.bytes)));
        });
    };
    if !args.sources.iter().any(|source| is_stdin(source)) {
        let absolute = |source: &std::path::PathBuf| {
            let full = std::path::absolute(source).map_err(|error| io(source.display().to_string(), error))?;
            full.to_str()
                .map(str::to_owned)
                .ok_or_else(|| ControlError::new(ErrorKind::BadRequest, full.display().to_string()))
        };
        let sources = args.sources.iter().map(absolute).collect::<Result<_, _>>()?;
        let request = PutRequest { sources, location: args.to, path: args.path };
        let code = context.stream("/v1/put", &request, show).await?;
        return Ok(exit(code, queued));
    }
    let bad = |subject: &str, detail: &str| ControlError::new(ErrorKind::BadRequest, subject).detail(detail);
    if args.sources.len() > 1 {
        return Err(bad("-", "stdin is put alone"));
    }
    if args.path.as_ref().is_none_or(|path| path.ends_with('/')) {
        return Err(bad("-", "stdin has no name: give one with --as PATH"));
    }
    let request = PutRequest { sources: Vec::new(), location: args.to, path: args.path };
    let (ready, wanted) = oneshot::channel();
    let code = context.stream_body("/v1/put/stream", stdin(&request, wanted)?, Some(ready), show).await?;
    Ok(exit(code, queued))
}

/// What waits for another device is not where it was to be.
fn exit(code: u8, queued: bool) -> u8 {
    if queued && code == 0 { 3 } else { code }
}

/// A line with the request, then, once the node wants it, all of stdin.
fn stdin(request: &PutRequest, wanted: oneshot::Receiver<()>) -> Result<Body, ControlError> {
    use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};
    let mut line = serde_json::to_vec(request).map_err(|error| io("stdin", error.into()))?;
    line.push(b'\n');
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| io("stdin", error))?;
    let input = ReaderStream::with_capacity(tokio::fs::File::from_std(File::from(input)), PIECE_BYTES);
    let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
    let input = wanted.map_err(refused).map_ok(move |()| input).try_flatten_stream();
    let pieces = stream::iter([Ok(Bytes::from(line))]).chain(input);
    Ok(StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync())
}

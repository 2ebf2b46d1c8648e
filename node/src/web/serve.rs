//! The server: connections, requests, answers.

use super::{
    guard,
    links::{self, Link},
    media,
    range::{Asked, asked},
    seconds,
    signing::PathError,
};
use crate::{
    node::{Node, now},
    operations::{blocking, cat::Reading, errors, presign},
};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use larder_protocol::control::{ControlError, ErrorKind};
use std::{convert::Infallible, io, net::SocketAddr, ops::Range, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::TaskTracker;

/// Connections at once, each with at most two pieces in memory; a later one waits until one of them ends.
const CONNECTIONS_MAX: usize = 32;
/// How long the head of a request may take, from the moment that a connection stands or the request before has ended.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Bytes of the first piece, which somebody waits for, and of all later ones.
const FIRST_BYTES: u64 = 256 << 10;
const PIECE_BYTES: u64 = 4 << 20;
/// A page may show the content and nothing else, and nothing in it runs.
const POLICY: &str = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'; sandbox";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves until the node stops.
pub(super) async fn serve(node: Arc<Node>, listener: TcpListener, address: SocketAddr) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = node.stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: the ones in use must be given back first.
                tracing::warn!(%error, "web: accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (asked, stop) = (node.clone(), node.stop.clone());
        let service = service_fn(move |request| {
            let node = asked.clone();
            async move { Ok::<_, Infallible>(answer(&node, address, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "web: connection ended");
                },
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer(node: &Arc<Node>, address: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let mut response = match content(node, address, &request).await {
        Ok(response) => response,
        Err(status) => refusal(status),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "private, no-store"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A refusal says no more than its status.
fn refusal(status: StatusCode) -> Response<Body> {
    let text = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(body(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

async fn content(
    node: &Arc<Node>,
    address: SocketAddr,
    request: &Request<Incoming>,
) -> Result<Response<Body>, StatusCode> {
    guard::check(address, request.method(), request.uri(), request.headers())?;
    let handle = node.web.key.check(request.uri().path(), now()).map_err(|error| match error {
        PathError::Expired => StatusCode::GONE,
        PathError::Malformed | PathError::Signature => StatusCode::NOT_FOUND,
    })?;
    let finding = node.clone();
    let link = blocking(move || links::find(&finding.catalog, &handle).map_err(errors::catalog)).await;
    let link = link.map_err(|error| failed(&error))?.ok_or(StatusCode::NOT_FOUND)?;

    let tag = node.web.key.entity_tag(&link.content);
    let is_head = request.method() == Method::HEAD;
    let (media_type, disposition) = media::headers(&link.name);
    let response = Response::builder()
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, &tag)
        .header(header::CONTENT_DISPOSITION, disposition);
    let (response, range) = match asked(request.headers(), &tag, link.size, is_head) {
        Asked::Whole => (response, 0..link.size),
        Asked::Part(range) => {
            let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, link.size);
            (response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, shown), range)
        }
        Asked::Unsatisfiable => {
            let mut response = refusal(StatusCode::RANGE_NOT_SATISFIABLE);
            let shown = HeaderValue::from_str(&format!("bytes */{}", link.size));
            response.headers_mut().extend(shown.ok().map(|shown| (header::CONTENT_RANGE, shown)));
            return Ok(response);
        }
        Asked::NotModified => {
            let response = response.status(StatusCode::NOT_MODIFIED).body(body(Bytes::new()));
            return response.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    if !is_head && let Some(url) = elsewhere(node, &link).await.map_err(|error| failed(&error))? {
        let mut response = Response::new(body(Bytes::new()));
        *response.status_mut() = StatusCode::FOUND;
        response.headers_mut().insert(header::LOCATION, url);
        return Ok(response);
    }
    let response =
        response.header(header::CONTENT_TYPE, media_type).header(header::CONTENT_LENGTH, range.end - range.start);
    let bytes = if is_head {
        body(Bytes::new())
    } else {
        let reading = Reading::of(node, link.content, link.size).await.map_err(|error| failed(&error))?;
        stream_of(reading, range).await.map_err(|error| failed(&error))?
    };
    response.body(bytes).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The address of a storage that alone has the content, bare, and gives it itself. It is signed anew for each request, so that
/// a player that comes back to the address of this device never meets one that has ended.
async fn elsewhere(node: &Arc<Node>, link: &Link) -> Result<Option<HeaderValue>, ControlError> {
    let left = Duration::from_secs(u64::try_from(seconds(link.expires) - seconds(now())).unwrap_or(1).max(1));
    let url = presign::redirect(node, link.content, link.size, left).await?;
    Ok(url.and_then(|url| HeaderValue::try_from(url).ok()))
}

/// Verified bytes piece by piece, each read when the one before has gone out. The first is read at once, so that what
/// cannot be read at all is an answer with a status.
async fn stream_of(mut reading: Reading, range: Range<u64>) -> Result<Body, ControlError> {
    let head = range.start..range.end.min(range.start + FIRST_BYTES);
    let first = reading.read(head.clone()).await?;
    let pieces = stream::try_unfold((reading, head.end, Some(first)), move |(mut reading, at, first)| async move {
        if let Some(first) = first {
            return Ok(Some((Frame::data(Bytes::from(first)), (reading, at, None))));
        }
        if at >= range.end {
            return Ok(None);
        }
        let end = range.end.min(at + PIECE_BYTES);
        let piece = reading.read(at..end).await.map_err(io::Error::other)?;
        Ok(Some((Frame::data(Bytes::from(piece)), (reading, end, None))))
    });
    Ok(StreamBody::new(pieces).boxed_unsync())
}

fn failed(error: &ControlError) -> StatusCode {
    match error.kind {
        ErrorKind::NoSource => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotAllowed => StatusCode::FORBIDDEN,
        _ => {
            tracing::warn!(kind = ?error.kind, "web: request failed");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

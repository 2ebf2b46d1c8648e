//! The part that all mocks share: connections, faults and the log around a service that answers whole requests.

use super::{Clock, Entry, Fault, Faults, Kind, Log};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, StatusCode,
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// A request with its whole body, or with as much of it as arrived.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Percent-encoded, as sent.
    pub(super) path: String,
    /// Percent-encoded, as sent.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether the body is whole.
    pub(super) complete: bool,
    /// How much of the body an upload session keeps at most.
    pub(super) keep_at_most: Option<usize>,
}

impl Request {
    /// A parameter of the query, decoded.
    pub(super) fn param(&self, name: &str) -> Option<String> {
        self.params().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All parameters of the query, decoded.
    pub(super) fn params(&self) -> impl Iterator<Item = (String, String)> {
        form_urlencoded::parse(self.query.as_bytes()).into_owned()
    }

    /// A number in the query, or what holds without it.
    pub(super) fn number(&self, name: &str, otherwise: usize) -> usize {
        self.param(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The token of `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// The segments of the path, encoded as sent.
    pub(super) fn segments(&self) -> Vec<&str> {
        segments(&self.path)
    }

    /// The body as JSON; an empty one counts as `{}`.
    pub(super) fn json(&self) -> Option<Value> {
        if self.body.is_empty() {
            Some(Value::Object(Default::default()))
        } else {
            serde_json::from_slice(&self.body).ok()
        }
    }
}

pub(super) fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

/// Decodes one segment of a path.
pub(super) fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub(super) fn json(status: u16, value: &Value) -> Self {
        Self::status(status).header("content-type", "application/json; charset=UTF-8").body(value.to_string())
    }

    #[must_use]
    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// What a mock does with requests.
pub(super) trait Service: Send + Sync + 'static {
    /// What a request is for, from its head.
    fn kind(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind;

    /// Carries it out.
    fn answer(&self, kind: Kind, request: &Request) -> Reply;
}

/// The switches of a mock.
#[derive(Debug, Clone, Default)]
pub(super) struct Switches {
    pub(super) clock: Clock,
    pub(super) faults: Faults,
    pub(super) log: Log,
}

/// A listening mock. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    addresses: Vec<SocketAddr>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Sockets that the service's URLs are made of before it runs.
pub(super) fn listen(count: usize) -> Vec<TcpListener> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
    (0..count).map(bind).collect()
}

/// `http://127.0.0.1:PORT` of a socket.
pub(super) fn base_of(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().expect("a bound socket has an address"))
}

impl Server {
    pub(super) fn start(listeners: Vec<TcpListener>, switches: Switches, service: Arc<dyn Service>) -> Self {
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                for listener in listeners {
                    listener.set_nonblocking(true).expect("a socket can be polled");
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket can be polled");
                    tokio::spawn(accept(listener, switches.clone(), service.clone()));
                }
                // Also when the sender is gone.
                let _ = ended.await;
            });
            // Requests that hang by order hang no longer.
            runtime.shutdown_timeout(Duration::ZERO);
        };
        let thread = std::thread::Builder::new().name("mock".to_owned()).spawn(run).expect("a thread");
        Self { addresses, end: Some(end), thread: Some(thread) }
    }

    /// `http://127.0.0.1:PORT` of a socket, in the order of [`listen`].
    pub(super) fn base(&self, index: usize) -> String {
        format!("http://{}", self.addresses[index])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, switches: Switches, service: Arc<dyn Service>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        // Shares the socket, so that a fault can have it reset when the connection is given up.
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { continue };
        let connection = Arc::new(Connection { socket, switches: switches.clone(), service: service.clone() });
        tokio::spawn(async move {
            let exchange = service_fn(move |request| exchange(connection.clone(), request));
            // Ends with an error when a fault asks for it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), exchange).await;
        });
    }
}

struct Connection {
    socket: OwnedFd,
    switches: Switches,
    service: Arc<dyn Service>,
}

impl Connection {
    /// Has the socket answer with RST when its last handle is closed, and gives the error that closes it.
    fn reset(&self) -> io::Error {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        io::ErrorKind::ConnectionReset.into()
    }
}

async fn exchange(
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Answer>, io::Error> {
    let (head, incoming) = request.into_parts();
    let Connection { switches, service, .. } = &*connection;
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let kind = service.kind(&head.method, &path, &query, &head.headers);
    let fault = switches.faults.strike(kind);
    let most = if let Some(Fault::CutBody(most)) = &fault { *most } else { usize::MAX };
    let (body, complete) = read(incoming, most).await;
    let keep_at_most = if let Some(Fault::KeepOnly(most)) = &fault { Some(*most) } else { None };
    let mut request = Request { method: head.method, path, query, headers: head.headers, body, complete, keep_at_most };

    let reply = match &fault {
        Some(Fault::Status { status, headers, body }) => {
            Some(Reply { status: *status, headers: headers.clone(), body: body.clone() })
        }
        Some(Fault::Reset) => None,
        // Of a body that broke off only an upload session makes use.
        _ if !complete && kind != Kind::Part => None,
        _ => {
            // A proxy waits for its server: others go on meanwhile.
            let service = service.clone();
            let work = tokio::task::spawn_blocking(move || {
                let reply = service.answer(kind, &request);
                (request, reply)
            });
            let (back, reply) = work.await.map_err(|_| connection.reset())?;
            request = back;
            Some(reply)
        }
    };
    let answered = complete && !matches!(fault, Some(Fault::Reset | Fault::ResetAfterwards | Fault::Hang));
    switches.log.push(entry(kind, &request, reply.as_ref().filter(|_| answered), fault.clone()));

    let Some(reply) = reply else { return Err(connection.reset()) };
    match fault {
        Some(Fault::Reset | Fault::ResetAfterwards | Fault::CutBody(_)) => Err(connection.reset()),
        Some(Fault::Hang) => std::future::pending().await,
        _ if !complete => Err(connection.reset()),
        fault => Ok(response(reply, fault)),
    }
}

/// Reads a body, at most so many bytes of it; says whether it is whole.
async fn read(mut incoming: Incoming, most: usize) -> (Bytes, bool) {
    let mut body = Vec::new();
    while body.len() < most {
        match incoming.frame().await.map(|frame| frame.map(Frame::into_data)) {
            None => return (body.into(), true),
            Some(Ok(Ok(data))) => body.extend_from_slice(&data),
            Some(Ok(Err(_trailers))) => {}
            Some(Err(_)) => return (body.into(), false),
        }
    }
    body.truncate(most);
    (body.into(), false)
}

fn entry(kind: Kind, request: &Request, reply: Option<&Reply>, fault: Option<Fault>) -> Entry {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    Entry {
        kind,
        method: request.method.to_string(),
        target: format!("{}{query}", request.path),
        authorized: request.headers.contains_key("authorization"),
        range: request.header("range").map(str::to_owned),
        content_range: request.header("content-range").map(str::to_owned),
        body_len: request.body.len(),
        status: reply.map(|reply| reply.status),
        fault,
    }
}

fn response(reply: Reply, fault: Option<Fault>) -> hyper::Response<Answer> {
    let Reply { status, headers, mut body } = reply;
    let len = body.len();
    if fault == Some(Fault::WrongBytes) {
        let mut wrong = body.to_vec();
        if let Some(byte) = wrong.get_mut(len / 2) {
            *byte ^= 1;
        }
        body = wrong.into();
    }
    let after = match fault {
        Some(Fault::Truncate(_)) => After::Break,
        Some(Fault::Stall(_)) => After::Silence,
        _ => After::End,
    };
    if let Some(Fault::Truncate(most) | Fault::Stall(most)) = fault {
        body.truncate(most);
    }
    let mut response = hyper::Response::new(Answer { body: Some(body), after });
    *response.status_mut() = StatusCode::from_u16(status).expect("services use valid codes");
    let length = ("content-length".to_owned(), len.to_string());
    // 204 and 304 have no body and no length (RFC 9110, 8.6).
    let has_length = headers.iter().any(|(name, _)| name == "content-length");
    let length = (status != 204 && status != 304 && !has_length).then_some(length);
    for (name, value) in headers.into_iter().chain(length) {
        let name: hyper::header::HeaderName = name.parse().expect("services use valid names");
        response.headers_mut().append(name, value.parse().expect("services use valid values"));
    }
    response
}

/// A body that may break off or stop.
struct Answer {
    body: Option<Bytes>,
    after: After,
}

#[derive(Clone, Copy)]
enum After {
    End,
    Break,
    Broken,
    Silence,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match (self.body.take().filter(|body| !body.is_empty()), self.after) {
            (Some(body), _) => Poll::Ready(Some(Ok(Frame::data(body)))),
            (None, After::End) => Poll::Ready(None),
            // What an error overtakes is not sent: hyper sends while it waits.
            (None, After::Break) => {
                self.after = After::Broken;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            (None, After::Broken) => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            // Never woken: the connection ends when the client gives up or the mock is dropped.
            (None, After::Silence) => Poll::Pending,
        }
    }
}

/// Unwraps an answer that is the same either way.
pub(super) fn either(result: Result<Reply, Reply>) -> Reply {
    result.unwrap_or_else(|refusal| refusal)
}

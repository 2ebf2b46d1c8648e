//! A plain HTTP client, and a browser that follows a redirect: what the tests of the servers and of providers drive by hand.

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{io, thread, time::Duration};

/// How long an exchange may take unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that has not been sent.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    patience: Duration,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing listens there.
    Connect(io::Error),
    /// No answer at all: the connection broke before it began.
    Broken(hyper::Error),
    /// The answer's body ended early.
    Truncated {
        /// Its status.
        status: u16,
        /// What arrived.
        body: Bytes,
    },
    /// It took longer than it may.
    Late,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// A request without headers and body.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        let method = method.parse().expect("a method");
        Self { method, url: url.into(), headers: Vec::new(), body: Bytes::new(), patience: PATIENCE }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.headers.push((name.as_ref().to_owned(), value.into()));
        self
    }

    /// `Authorization: Bearer …`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header(AUTHORIZATION, format!("Bearer {token}"))
    }

    /// `Authorization: Basic …`.
    #[must_use]
    pub fn basic(self, user: &str, password: &str) -> Self {
        self.header(AUTHORIZATION, format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())))
    }

    /// The body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.header(CONTENT_TYPE, "application/json").body(value.to_string())
    }

    /// A form as body.
    #[must_use]
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
    }

    /// How long the exchange may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sends it over a connection of its own, and waits for the whole answer. Redirects are answers.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn send(self) -> Result<Answer, Failure> {
        let patience = self.patience;
        tokio::time::timeout(patience, self.exchange()).await.unwrap_or(Err(Failure::Late))
    }

    /// [`Call::send`] on a thread and runtime of its own: for plain tests, and for async ones too.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn try_go(self) -> Result<Answer, Failure> {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        let run = move || runtime().map_err(Failure::Connect)?.block_on(self.send());
        thread::spawn(run).join().expect("an exchange does not panic")
    }

    /// [`Call::try_go`] for what must answer.
    ///
    /// # Panics
    /// When there is no whole answer.
    #[track_caller]
    pub fn go(self) -> Answer {
        let shown = format!("{} {}", self.method, self.url);
        self.try_go().unwrap_or_else(|failure| panic!("{shown}: {failure:?}"))
    }

    async fn exchange(self) -> Result<Answer, Failure> {
        let uri: Uri = self.url.parse().unwrap_or_else(|error| panic!("{}: {error}", self.url));
        let authority = uri.authority().expect("a URL with a host").as_str();
        let stream = tokio::net::TcpStream::connect(authority).await.map_err(Failure::Connect)?;
        let mut request = hyper::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target.parse().expect("a part of a URI is one");
        let named = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = (!named).then(|| (HOST.as_str().to_owned(), authority.to_owned()));
        for (name, value) in self.headers.into_iter().chain(host) {
            let name: hyper::header::HeaderName = name.parse().expect("a header's name");
            request.headers_mut().append(name, value.parse().expect("a header's value"));
        }
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(Failure::Broken)?;
        let driver = tokio::spawn(connection);
        let sent = sender.send_request(request).await;
        let received = match sent {
            Ok(response) => collect(response).await,
            Err(error) => Err(Failure::Broken(error)),
        };
        driver.abort();
        received
    }
}

async fn collect(response: hyper::Response<hyper::body::Incoming>) -> Result<Answer, Failure> {
    let (head, mut incoming) = response.into_parts();
    let status = head.status.as_u16();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => body.extend_from_slice(&data),
            Ok(Err(_trailers)) => {}
            Err(_) => return Err(Failure::Truncated { status, body: body.into() }),
        }
    }
    Ok(Answer { status, headers: head.headers, body: body.into() })
}

impl Answer {
    /// Demands a status.
    ///
    /// # Panics
    /// When it has another one.
    #[track_caller]
    #[must_use]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status; the body: {}", self.text());
        self
    }

    /// A header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The parameters of the URL in `Location`, as a redirect to a loopback address carries them.
    pub fn redirected_with(&self, name: &str) -> Option<String> {
        let (_, query) = self.header("location").split_once('?')?;
        form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// Percent-encodes one value of a query or one segment of a path.
pub fn encode(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

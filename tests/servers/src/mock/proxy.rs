//! The faults and the log of the mocks in front of a real server.
//!
//! A client that is given the proxy's address instead of the server's talks to the server through it, byte for byte: paths, `Host`
//! and so signatures stay as they are. Requests are taken whole before they are passed on, and so are answers.

use super::{
    Faults, Kind, Log,
    server::{Reply, Request, Server, Service, Switches, either, listen},
};
use crate::http::Call;
use hyper::{HeaderMap, Method};
use std::sync::Arc;

/// What the server speaks, which tells what a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// S3, with the bucket in the path.
    S3,
    /// WebDAV.
    WebDav,
    /// Cloud Storage, both APIs.
    Gcs,
}

/// A proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    switches: Switches,
}

impl Proxy {
    /// Starts one in front of `http://127.0.0.1:PORT`.
    pub fn start(protocol: Protocol, upstream: impl Into<String>) -> Self {
        let switches = Switches::default();
        let service = Arc::new(Forward { protocol, upstream: upstream.into() });
        Self { server: Server::start(listen(1), switches.clone(), service), switches }
    }

    /// What clients use in the place of the server's address.
    pub fn endpoint(&self) -> String {
        self.server.base(0)
    }

    /// Its faults. An upload session's [`super::Fault::KeepOnly`] has no effect here.
    pub fn faults(&self) -> &Faults {
        &self.switches.faults
    }

    /// What passed.
    pub fn log(&self) -> &Log {
        &self.switches.log
    }
}

struct Forward {
    protocol: Protocol,
    upstream: String,
}

impl Service for Forward {
    fn kind(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind {
        match self.protocol {
            Protocol::S3 => s3(method, path, query, headers),
            Protocol::WebDav => webdav(method, headers),
            Protocol::Gcs => super::gcs::kind(method, path, query, headers),
        }
    }

    fn answer(&self, _: Kind, request: &Request) -> Reply {
        if !request.complete {
            // What broke off never reaches the server; the client's connection is reset.
            return Reply::status(400);
        }
        either(self.pass_on(request))
    }
}

impl Forward {
    fn pass_on(&self, request: &Request) -> Result<Reply, Reply> {
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        let url = format!("{}{}{query}", self.upstream, request.path);
        let mut call = Call::new(request.method.as_str(), url).body(request.body.clone());
        for (name, value) in &request.headers {
            if !of_this_hop(name.as_str()) {
                call = call.header(name, value.to_str().map_err(|_| Reply::status(400))?);
            }
        }
        let answer = call.try_go().map_err(|failure| Reply::status(502).body(format!("{failure:?}")))?;
        let mut reply = Reply::status(answer.status);
        for (name, value) in &answer.headers {
            // HEAD has a length and no body.
            let length = name == "content-length" && request.method == Method::HEAD;
            if length || !of_this_hop(name.as_str()) {
                reply = reply.header(name.as_str(), value.to_str().unwrap_or_default());
            }
        }
        Ok(reply.body(answer.body))
    }
}

/// Headers that the next connection gets of its own.
fn of_this_hop(name: &str) -> bool {
    ["connection", "keep-alive", "transfer-encoding", "content-length", "expect", "te", "upgrade"].contains(&name)
}

fn s3(method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Kind {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let object = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    match (method.as_str(), object) {
        ("GET", false) => Kind::List,
        ("HEAD", false) => Kind::About,
        ("POST", false) if has("delete") => Kind::Batch,
        ("POST", true) if has("uploads") => Kind::BeginUpload,
        ("POST", true) if has("uploadId") => Kind::CompleteUpload,
        ("PUT", true) if has("uploadId") => Kind::Part,
        ("GET", true) if has("uploadId") => Kind::UploadStatus,
        ("DELETE", true) if has("uploadId") => Kind::CancelUpload,
        ("PUT", true) if headers.contains_key("x-amz-copy-source") => Kind::Copy,
        ("PUT", true) => Kind::Put,
        ("GET", true) => Kind::Download,
        ("HEAD", true) => Kind::Stat,
        ("DELETE", true) => Kind::Delete,
        _ => Kind::Unknown,
    }
}

fn webdav(method: &Method, headers: &HeaderMap) -> Kind {
    let one = headers.get("depth").is_some_and(|depth| depth == "0");
    match method.as_str() {
        "PROPFIND" if one => Kind::Stat,
        "PROPFIND" => Kind::List,
        "HEAD" => Kind::Stat,
        "GET" => Kind::Download,
        "PUT" => Kind::Put,
        "MKCOL" => Kind::CreateFolder,
        "MOVE" | "PROPPATCH" => Kind::Update,
        "COPY" => Kind::Copy,
        "DELETE" => Kind::Delete,
        "OPTIONS" => Kind::About,
        _ => Kind::Unknown,
    }
}

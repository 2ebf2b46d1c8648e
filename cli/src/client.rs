//! Talks to the node over its control socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use larder_protocol::control::{ControlError, ErrorKind, StreamItem};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    convert::Infallible,
    path::{Path, PathBuf},
};

/// What is sent with a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body whose bytes are all there.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A connection to a node.
pub(crate) struct Client {
    sender: http1::SendRequest<Body>,
}

fn not_running(socket: &Path) -> ControlError {
    ControlError::new(ErrorKind::NodeNotRunning, socket.display().to_string()).retry()
}

fn broken(error: impl std::fmt::Display) -> ControlError {
    ControlError::new(ErrorKind::Internal, "control socket").detail(error.to_string()).retry()
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ErrorKind::NodeNotRunning`] when nobody answers, [`ErrorKind::NotAllowed`] when it is another user's.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, ControlError> {
        let stream = larder_node::connect_control(socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                ControlError::new(ErrorKind::NotAllowed, socket.display().to_string()).detail(error.to_string())
            }
            _ => not_running(socket),
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| not_running(socket))?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    async fn send(&mut self, method: Method, route: &str, body: Body) -> Result<Response<Incoming>, ControlError> {
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "larder")
            .header("content-type", "application/json")
            .body(body)
            .map_err(broken)?;
        let response = self.sender.send_request(request).await.map_err(broken)?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| broken(format!("status {status}"))))
    }

    /// Asks for one object.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        route: &str,
        request: &impl Serialize,
    ) -> Result<T, ControlError> {
        let response = self.send(method, route, whole(serde_json::to_vec(request).map_err(broken)?)).await?;
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        serde_json::from_slice(&body).map_err(broken)
    }

    /// Asks for a stream of items and hands each to `each`; a stream that ends without its end mark is an error.
    pub(crate) async fn stream<T: DeserializeOwned>(
        &mut self,
        route: &str,
        request: &impl Serialize,
        each: impl FnMut(StreamItem<T>),
    ) -> Result<(), ControlError> {
        self.stream_body(route, whole(serde_json::to_vec(request).map_err(broken)?), each).await
    }

    /// The same with a body that is no single object.
    pub(crate) async fn stream_body<T: DeserializeOwned>(
        &mut self,
        route: &str,
        body: Body,
        mut each: impl FnMut(StreamItem<T>),
    ) -> Result<(), ControlError> {
        let mut body = self.send(Method::POST, route, body).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            pending.extend_from_slice(frame.map_err(broken)?.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(broken)? {
                    StreamItem::End => return Ok(()),
                    item => each(item),
                }
            }
        }
        Err(broken("the node stopped before it had answered"))
    }

    /// Asks for bytes and hands each piece to `each`; fewer than announced is an error.
    pub(crate) async fn bytes(
        &mut self,
        route: &str,
        request: &impl Serialize,
        mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), ControlError> {
        let body = serde_json::to_vec(request).map_err(broken)?;
        let response = self.send(Method::POST, route, whole(body)).await?;
        let expected: Option<u64> =
            response.headers().get("x-larder-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = response.into_body();
        let mut got = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            if let Some(data) = frame.data_ref() {
                got += data.len() as u64;
                each(data).map_err(|error| ControlError::new(ErrorKind::Io, "stdout").detail(error.to_string()))?;
            }
        }
        match expected {
            Some(expected) if expected != got => {
                Err(broken(format!("the node gave {got} of {expected} bytes; its log says why")))
            }
            _ => Ok(()),
        }
    }
}

/// Where to find the node.
pub(crate) struct Target {
    pub(crate) socket: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) initialised: bool,
}

impl Target {
    /// Connects, and tells a home without a device from one whose node is off.
    pub(crate) async fn connect(&self) -> Result<Client, ControlError> {
        if !self.initialised {
            let home = self.config.parent().unwrap_or(&self.config);
            return Err(ControlError::new(ErrorKind::NotInitialised, home.display().to_string()));
        }
        Client::connect(&self.socket).await
    }
}

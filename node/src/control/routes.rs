//! The routes of the control socket.

use super::stream::respond;
use crate::{node::Node, operations};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt, TryStreamExt};
use larder_protocol::{
    control::{
        AddLocation, AddProfile, AllowLocation, CatQuery, CompareWords, ControlError, CustodianRequest,
        DefaultLocation, DigestView, EnsureRequest, ErrorKind, FindQuery, GetRequest, IndexRequest, InviteRequest,
        LogQuery, NamedRequest, OpenInvite, ProtectCredentials, PutRequest, RevokeDevice, SetCredential, SetDeviceRole,
        SetLocation, UnlockCredentials, WhereQuery,
    },
    membership::Role,
};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// Bytes of the request that comes before a stream.
const REQUEST_LINE_MAX: usize = 64 << 10;

type Shared = State<Arc<Node>>;

/// An error on its way out.
struct Refusal(ControlError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            ErrorKind::BadRequest | ErrorKind::SecretSetting => StatusCode::BAD_REQUEST,
            ErrorKind::UnknownReference => StatusCode::NOT_FOUND,
            ErrorKind::NotAllowed
            | ErrorKind::NeedsLogin
            | ErrorKind::CredentialRefused
            | ErrorKind::StoreUntrusted
            | ErrorKind::OwnDevice
            | ErrorKind::RecoveryWrong => StatusCode::FORBIDDEN,
            ErrorKind::Internal | ErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::CONFLICT,
        };
        (status, Json(self.0)).into_response()
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        Self(error)
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| ControlError::new(ErrorKind::BadRequest, "request").detail(error.to_string()).into())
}

/// The same for what holds secrets, which an error must not repeat.
fn secret_body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|_| ControlError::new(ErrorKind::BadRequest, "request").into())
}

fn answer<T: Serialize>(result: Result<T, ControlError>) -> Answer<T> {
    Ok(Json(result?))
}

pub(super) fn router(node: Arc<Node>) -> Router {
    // What reads or writes the catalog, which a vault cannot.
    let catalog = Router::new()
        .route("/v1/locations", get(locations).post(add_location))
        .route("/v1/locations/show", post(location))
        .route("/v1/locations/test", post(test_location))
        .route("/v1/locations/remove", post(remove_location))
        .route("/v1/locations/allow", post(allow_location))
        .route("/v1/locations/set", post(set_location))
        .route("/v1/locations/default", post(default_location))
        .route("/v1/locations/custodian", post(custodian))
        .route("/v1/index", post(index))
        .route("/v1/find", post(find))
        .route("/v1/where", post(where_is))
        .route("/v1/get", post(get_contents))
        .route("/v1/ensure", post(ensure))
        .route("/v1/put", post(put))
        .route("/v1/put/stream", post(put_stream))
        .route("/v1/cat", post(cat))
        .route("/v1/catalog/digest", get(digest))
        .route("/v1/providers", get(providers))
        .route("/v1/profiles", get(profiles).post(add_profile))
        .route("/v1/profiles/show", post(profile))
        .route("/v1/profiles/remove", post(remove_profile))
        .route("/v1/credentials", get(credentials).post(set_credential))
        .route("/v1/credentials/remove", post(remove_credential))
        .route("/v1/credentials/unlock", post(unlock_credentials))
        .route("/v1/credentials/protect", post(protect_credentials));
    #[cfg(feature = "clouds")]
    let catalog = catalog.route("/v1/connect", post(connect));
    #[cfg(feature = "web")]
    let catalog = catalog.route("/v1/url", post(url));
    let catalog = catalog.route_layer(from_fn_with_state(node.clone(), readers_only));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/doctor", get(doctor))
        .route("/v1/shutdown", post(shutdown))
        .route("/v1/devices", get(devices))
        .route("/v1/devices/show", post(device))
        .route("/v1/devices/revoke", post(revoke_device))
        .route("/v1/devices/role", post(set_device_role))
        .route("/v1/invites", get(invites).post(open_invite))
        .route("/v1/invites/revoke", post(revoke_invite))
        .route("/v1/invites/words", post(open_words))
        .route("/v1/invites/compared", post(compared))
        .route("/v1/log", post(log))
        .route("/v1/events", get(events))
        .merge(catalog)
        .with_state(node)
}

async fn readers_only(State(node): Shared, request: Request, next: Next) -> Result<Response, Refusal> {
    // A device that was removed still reads what it has; a vault has nothing to read.
    if node.members.role(&node.device()) == Some(Role::Vault) {
        return Err(operations::errors::vault().into());
    }
    Ok(next.run(request).await)
}

async fn status(State(node): Shared) -> impl IntoResponse {
    answer(operations::status::status(&node).await)
}

async fn doctor(State(node): Shared) -> impl IntoResponse {
    answer(operations::blocking(move || crate::doctor::examine_running(&node)).await)
}

async fn shutdown(State(node): Shared) -> Json<()> {
    node.stop();
    Json(())
}

async fn devices(State(node): Shared) -> impl IntoResponse {
    answer(operations::devices::list(&node).await)
}

async fn device(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::devices::show(&node, &request.name).await)
}

async fn revoke_device(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: RevokeDevice = body(&bytes)?;
    answer(operations::devices::revoke(&node, request).await)
}

async fn set_device_role(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: SetDeviceRole = body(&bytes)?;
    answer(operations::devices::set_role(&node, request).await)
}

async fn invites(State(node): Shared) -> impl IntoResponse {
    answer(operations::invites::list(&node).await)
}

async fn open_invite(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: OpenInvite = body(&bytes)?;
    answer(operations::invites::open(&node, &request).await)
}

async fn open_words(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: OpenInvite = body(&bytes)?;
    Ok(respond(|reporter| operations::invites::open_words(node, request, reporter)))
}

async fn compared(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: CompareWords = body(&bytes)?;
    answer(operations::invites::compared(&node, &request))
}

async fn revoke_invite(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: InviteRequest = body(&bytes)?;
    answer(operations::invites::revoke(&node, &request.id).await)
}

async fn locations(State(node): Shared) -> impl IntoResponse {
    answer(operations::locations::list(&node).await)
}

async fn add_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: AddLocation = body(&bytes)?;
    answer(operations::locations::add(&node, request).await)
}

async fn location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::locations::show(&node, &request.name).await)
}

async fn test_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::clouds::test(&node, &request.name).await)
}

async fn remove_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::locations::remove(&node, &request.name).await)
}

async fn allow_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: AllowLocation = body(&bytes)?;
    answer(operations::access::allow(&node, request).await)
}

async fn set_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: SetLocation = body(&bytes)?;
    answer(operations::locations::set(&node, request).await)
}

async fn default_location(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: DefaultLocation = body(&bytes)?;
    answer(operations::defaults::default(&node, request).await)
}

async fn custodian(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: CustodianRequest = body(&bytes)?;
    answer(operations::access::custody(&node, request).await)
}

async fn index(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: IndexRequest = body(&bytes)?;
    Ok(respond(|reporter| operations::index::index(node, request, reporter)))
}

async fn find(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: FindQuery = body(&bytes)?;
    answer(operations::find::find(&node, request).await)
}

async fn where_is(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: WhereQuery = body(&bytes)?;
    answer(operations::find::where_is(&node, &request.reference).await)
}

async fn get_contents(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: GetRequest = body(&bytes)?;
    Ok(respond(|reporter| operations::get::get(node, request, reporter)))
}

async fn ensure(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: EnsureRequest = body(&bytes)?;
    Ok(respond(|reporter| operations::ensure::ensure(node, request, reporter)))
}

async fn put(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: PutRequest = body(&bytes)?;
    Ok(respond(|reporter| operations::put::put(node, request, reporter)))
}

/// The first line is the request, all that follows the bytes to put.
async fn put_stream(State(node): Shared, request: Request) -> Result<Response, Refusal> {
    let mut stream = request.into_body().into_data_stream();
    let mut head = Vec::new();
    let line = loop {
        if let Some(end) = head.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        match stream.next().await {
            Some(Ok(piece)) if head.len() < REQUEST_LINE_MAX => head.extend_from_slice(&piece),
            _ => return Err(ControlError::new(ErrorKind::BadRequest, "request").into()),
        }
    };
    let rest = Bytes::from(head.split_off(line + 1));
    let request: PutRequest = body(&Bytes::from(head))?;
    let stream = futures::stream::iter([Ok(rest)]).chain(stream.map_err(std::io::Error::other));
    Ok(respond(|reporter| operations::put::put_stream(node, request, Box::pin(stream), reporter)))
}

async fn cat(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: CatQuery = body(&bytes)?;
    let (length, pieces) = operations::cat::cat(node, request).await?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned())];
    let mut response = (headers, Body::from_stream(pieces)).into_response();
    response.headers_mut().insert("x-larder-length", length.into());
    Ok(response)
}

async fn providers(State(node): Shared) -> impl IntoResponse {
    answer(Ok(operations::profiles::providers(&node)))
}

async fn profiles(State(node): Shared) -> impl IntoResponse {
    answer(operations::profiles::list(&node).await)
}

async fn add_profile(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: AddProfile = body(&bytes)?;
    answer(operations::profiles::add(&node, request).await)
}

async fn profile(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::profiles::show(&node, &request.name).await)
}

async fn remove_profile(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::profiles::remove(&node, &request.name).await)
}

async fn credentials(State(node): Shared) -> impl IntoResponse {
    answer(operations::credentials::list(&node).await)
}

async fn set_credential(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: SetCredential = secret_body(&bytes)?;
    answer(operations::credentials::set(&node, request).await)
}

async fn remove_credential(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: NamedRequest = body(&bytes)?;
    answer(operations::credentials::remove(&node, &request.name).await)
}

async fn unlock_credentials(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: UnlockCredentials = secret_body(&bytes)?;
    answer(operations::credentials::unlock(&node, request.passphrase).await)
}

async fn protect_credentials(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: ProtectCredentials = secret_body(&bytes)?;
    answer(operations::credentials::protect(&node, request).await)
}

#[cfg(feature = "clouds")]
async fn connect(State(node): Shared, bytes: Bytes) -> Result<Response, Refusal> {
    let request: larder_protocol::control::ConnectRequest = secret_body(&bytes)?;
    Ok(respond(|reporter| operations::connect::connect(node, request, reporter)))
}

#[cfg(feature = "web")]
async fn url(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: larder_protocol::control::UrlRequest = body(&bytes)?;
    answer(operations::url::url(&node, request).await)
}

async fn log(State(node): Shared, bytes: Bytes) -> Answer<impl Serialize> {
    let request: LogQuery = body(&bytes)?;
    answer(operations::log::log(&node, request).await)
}

async fn digest(State(node): Shared) -> impl IntoResponse {
    answer(operations::status::digest(&node).await.map(|digest| DigestView { digest }))
}

async fn events(State(node): Shared) -> Response {
    respond(|reporter| operations::events::events(node, reporter))
}

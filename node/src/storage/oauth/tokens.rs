//! Access tokens that are renewed before they end.

use super::{Service, client, exchange, needs_login};
use crate::storage::{
    Credential, StorageError,
    http::{Http, Reply},
};
use reqwest::RequestBuilder;
use std::{
    ops::Range,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// A token is renewed this long before it ends.
const MARGIN: Duration = Duration::from_secs(120);

/// The tokens of one account. One refresh at a time; a rotated refresh token is kept before the new access token is used.
pub(in super::super) struct Tokens {
    service: Service,
    state: tokio::sync::Mutex<State>,
}

struct State {
    credential: Credential,
    access: Option<(Zeroizing<String>, Instant)>,
    /// The service ended the grant: it is not asked again.
    ended: Option<StorageError>,
}

impl Tokens {
    pub(in super::super) fn new(service: Service, credential: Credential) -> Self {
        Self { service, state: tokio::sync::Mutex::new(State { credential, access: None, ended: None }) }
    }

    /// An access token that holds for a while. `refused`: one that the service did not take although its time is not up.
    pub(in super::super) async fn access(
        &self,
        http: &Http,
        refused: Option<&str>,
    ) -> Result<Zeroizing<String>, StorageError> {
        let mut state = self.state.lock().await;
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        if let Some((access, ends)) = &state.access {
            // A short life is used to its half.
            if Instant::now() < *ends && refused != Some(access.as_str()) {
                return Ok(access.clone());
            }
        }
        // Another storage of the same profile may have renewed it: one at a time, each with the newest.
        let shared = state.credential.shared();
        let _turn = match &shared {
            Some(shared) => Some(shared.turn().lock().await),
            None => None,
        };
        state.credential.refresh();
        let Some(refresh) = state.credential.get("refresh_token").map(str::to_owned) else {
            return Err(needs_login(&self.service, "no login yet"));
        };
        let mut fields = client(&state.credential);
        fields.extend([("grant_type", "refresh_token".to_owned()), ("refresh_token", refresh.clone())]);
        let granted = match exchange(http, &self.service, &fields).await? {
            Ok(granted) => granted,
            Err(code) => {
                let ended = needs_login(&self.service, &code);
                state.ended = Some(ended.clone());
                return Err(ended);
            }
        };
        if let Some(new) = granted.refresh.filter(|new| *new != refresh)
            && let Err(error) = state.credential.set("refresh_token", new)
        {
            // It goes on in memory; the next start may have to log in.
            tracing::error!(provider = self.service.provider, %error, "a renewed login cannot be kept");
        }
        let life = Duration::from_secs(granted.seconds);
        let margin = MARGIN.min(life / 2);
        let access = Zeroizing::new(granted.access);
        state.access = Some((access.clone(), Instant::now() + life - margin));
        Ok(access)
    }

    /// Sends a request with a token; once more with a new one when that is refused. `range`: what is read of an object.
    pub(in super::super) async fn send(
        &self,
        http: &Http,
        range: Option<&Range<u64>>,
        build: impl Fn() -> Result<RequestBuilder, StorageError>,
    ) -> Result<Reply, StorageError> {
        let token = self.access(http, None).await?;
        let reply = http.send_for_object(build()?.bearer_auth(&*token), range).await?;
        if reply.status != 401 {
            return Ok(reply);
        }
        let token = self.access(http, Some(&token)).await?;
        http.send_for_object(build()?.bearer_auth(&*token), range).await
    }
}

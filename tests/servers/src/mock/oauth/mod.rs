//! The OAuth servers of Google and Microsoft: authorization with PKCE and loopback redirect, device flow, refresh, revocation.
//!
//! Sources: RFC 6749, 7636, 8252, 8628; Google, "OAuth 2.0 for iOS & Desktop Apps" and "for TV and Limited-Input Device
//! Applications"; Microsoft identity platform, "authorization code flow" and "device authorization grant flow".
//!
//! Where the two differ, each mock does as its own: Google wants the client's secret even from installed apps, names
//! `verification_url`, answers polls with 428 and 403 and gives no new refresh token on refresh; Microsoft refuses a secret
//! from a public client, wants `offline_access` for a refresh token, names `authorization_declined`, and rotates.
//!
//! Stricter than the services: PKCE is demanded; parameters of the token endpoint must be in the body; Microsoft's old
//! refresh token dies at its use (the service lets it live on; [`OAuth::set_rotation`]).
//! Looser: consent takes no page and no cookie; there is one client and one user; Microsoft's `id_token` is missing.

mod requests;

use super::Clock;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// accounts.google.com and oauth2.googleapis.com.
    Google,
    /// login.microsoftonline.com.
    Microsoft,
}

/// What the user does on the page of consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// Agrees to everything.
    Agrees,
    /// Agrees to these scopes only, as Google's page allows.
    AgreesTo(Vec<String>),
    /// Declines.
    Declines,
    /// Is led back with a state that the client never gave: somebody else's answer.
    ForgesState,
}

/// What a refresh does to the refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The same goes on; the answer has none.
    Keep,
    /// A new one comes; the old one goes on too.
    Rotate,
    /// A new one comes; the old one is void.
    RotateAndRevoke,
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// For requests.
    pub access: String,
    /// For the next access token.
    pub refresh: String,
}

/// An OAuth server with one client and one user.
#[derive(Debug, Clone)]
pub struct OAuth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    flavour: Flavour,
    base: String,
    clock: Clock,
    client_id: String,
    client_secret: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    user: User,
    rotation: Rotation,
    access_lifetime: Duration,
    refresh_lifetime: Option<Duration>,
    device_interval: Duration,
    device_lifetime: Duration,
    codes: BTreeMap<String, Code>,
    access: BTreeMap<String, Token>,
    refresh: BTreeMap<String, Token>,
    devices: BTreeMap<String, Device>,
    /// Number of the next grant: what one consent led to.
    grants: u64,
    secrets: Vec<String>,
}

#[derive(Debug, Clone)]
struct Code {
    redirect: String,
    challenge: String,
    scopes: Vec<String>,
    offline: bool,
    expires: SystemTime,
    /// The grant that it was exchanged for.
    used: Option<u64>,
}

#[derive(Debug, Clone)]
struct Token {
    grant: u64,
    scopes: Vec<String>,
    expires: Option<SystemTime>,
}

#[derive(Debug, Clone)]
struct Device {
    user_code: String,
    scopes: Vec<String>,
    expires: SystemTime,
    interval: Duration,
    polled: Option<SystemTime>,
    agreed: Option<bool>,
}

impl OAuth {
    pub(super) fn new(flavour: Flavour, base: String, clock: Clock) -> Self {
        let google = flavour == Flavour::Google;
        let state = State {
            user: User::Agrees,
            rotation: if google { Rotation::Keep } else { Rotation::RotateAndRevoke },
            access_lifetime: Duration::from_secs(3600),
            refresh_lifetime: (!google).then_some(Duration::from_secs(90 * 24 * 3600)),
            device_interval: Duration::from_secs(5),
            device_lifetime: Duration::from_secs(if google { 1800 } else { 900 }),
            codes: BTreeMap::new(),
            access: BTreeMap::new(),
            refresh: BTreeMap::new(),
            devices: BTreeMap::new(),
            grants: 0,
            secrets: Vec::new(),
        };
        let mut shared = Shared {
            flavour,
            base,
            clock,
            client_id: format!("client-{}", random("")),
            client_secret: google.then(|| random("secret-")),
            state: Mutex::new(state),
        };
        let secret = shared.client_secret.clone();
        shared.state.get_mut().unwrap_or_else(PoisonError::into_inner).secrets.extend(secret);
        Self(Arc::new(shared))
    }

    /// The registered client.
    pub fn client_id(&self) -> &str {
        &self.0.client_id
    }

    /// Its secret; Microsoft's public clients have none.
    pub fn client_secret(&self) -> Option<&str> {
        self.0.client_secret.as_deref()
    }

    /// Where a browser is sent. A request there is what the user does ([`OAuth::set_user`]).
    pub fn authorize_url(&self) -> String {
        self.url("/o/oauth2/v2/auth", "/common/oauth2/v2.0/authorize")
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        self.url("/token", "/common/oauth2/v2.0/token")
    }

    /// The start of the device flow.
    pub fn device_url(&self) -> String {
        self.url("/device/code", "/common/oauth2/v2.0/devicecode")
    }

    /// Where a grant is given back; Microsoft has no such endpoint.
    pub fn revoke_url(&self) -> Option<String> {
        (self.0.flavour == Flavour::Google).then(|| format!("{}/revoke", self.0.base))
    }

    /// What the user does from now on.
    pub fn set_user(&self, user: User) {
        self.state().user = user;
    }

    /// What refreshes do from now on.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.state().rotation = rotation;
    }

    /// How long access tokens given from now on hold; one hour otherwise.
    pub fn set_access_lifetime(&self, lifetime: Duration) {
        self.state().access_lifetime = lifetime;
    }

    /// How long refresh tokens given from now on hold. Google's live on, but for 7 days while the client is in "testing";
    /// Microsoft's hold 90 days.
    pub fn set_refresh_lifetime(&self, lifetime: Option<Duration>) {
        self.state().refresh_lifetime = lifetime;
    }

    /// How long a device waits between two polls, in whole seconds; 5 otherwise.
    pub fn set_device_interval(&self, interval: Duration) {
        self.state().device_interval = interval;
    }

    /// The user enters a code of the device flow and agrees or declines; false when there is no such code.
    pub fn enter_code(&self, user_code: &str, agrees: bool) -> bool {
        let mut state = self.state();
        let device = state.devices.values_mut().find(|device| device.user_code == user_code);
        device.map(|device| device.agreed = Some(agrees)).is_some()
    }

    /// Tokens for these scopes, as though the user had agreed.
    pub fn grant(&self, scopes: &[&str]) -> Tokens {
        let scopes: Vec<_> = scopes.iter().map(ToString::to_string).collect();
        let now = self.0.clock.now();
        let mut state = self.state();
        let grant = state.new_grant();
        Tokens { access: state.new_access(grant, &scopes, now), refresh: state.new_refresh(grant, &scopes, now) }
    }

    /// The user withdraws consent: every token is void.
    pub fn withdraw(&self) {
        let mut state = self.state();
        state.access.clear();
        state.refresh.clear();
    }

    /// Every secret that was given out: tokens, device codes, the client's secret. None of them belongs into a URL.
    pub fn secrets(&self) -> Vec<String> {
        self.state().secrets.clone()
    }

    /// The scopes of a request's access token; `None` when it has none or a void one.
    pub(super) fn scopes(&self, bearer: Option<&str>) -> Option<Vec<String>> {
        let now = self.0.clock.now();
        let state = self.state();
        let token = state.access.get(bearer?)?;
        token.holds(now).then(|| token.scopes.clone())
    }

    fn url(&self, google: &str, microsoft: &str) -> String {
        let path = if self.0.flavour == Flavour::Google { google } else { microsoft };
        format!("{}{path}", self.0.base)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new_grant(&mut self) -> u64 {
        self.grants += 1;
        self.grants
    }

    fn new_access(&mut self, grant: u64, scopes: &[String], now: SystemTime) -> String {
        let (token, expires) = (random("access-"), Some(now + self.access_lifetime));
        self.access.insert(token.clone(), Token { grant, scopes: scopes.to_vec(), expires });
        self.secrets.push(token.clone());
        token
    }

    fn new_refresh(&mut self, grant: u64, scopes: &[String], now: SystemTime) -> String {
        let (token, expires) = (random("refresh-"), self.refresh_lifetime.map(|lifetime| now + lifetime));
        self.refresh.insert(token.clone(), Token { grant, scopes: scopes.to_vec(), expires });
        self.secrets.push(token.clone());
        token
    }

    fn end_grant(&mut self, grant: u64) {
        self.access.retain(|_, token| token.grant != grant);
        self.refresh.retain(|_, token| token.grant != grant);
    }
}

impl Token {
    fn holds(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

fn random(prefix: &str) -> String {
    format!("{prefix}{}", crate::servers::random_text())
}

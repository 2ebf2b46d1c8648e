//! What each request does.

use super::{Code, Device, Flavour, OAuth, Rotation, State, User, random};
use crate::mock::{
    Kind,
    server::{Reply, Request, decoded, segments},
};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use hyper::Method;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// How long an authorization code holds.
const CODE_LIFETIME: Duration = Duration::from_secs(600);
/// The scopes of Google that the device flow may ask for; the documents list no other ones of Drive.
const GOOGLE_DEVICE_SCOPES: [&str; 5] = [
    "https://www.googleapis.com/auth/drive.file",
    "https://www.googleapis.com/auth/drive.appdata",
    "openid",
    "email",
    "profile",
];

impl OAuth {
    pub(in crate::mock) fn kind(&self, method: &Method, path: &str) -> Option<Kind> {
        match (self.0.flavour, method.as_str(), &segments(path)[..]) {
            (Flavour::Google, "GET", ["o", "oauth2", "v2", "auth"]) => Some(Kind::Authorize),
            (Flavour::Google, "POST", ["token"]) => Some(Kind::Token),
            (Flavour::Google, "POST", ["device", "code"]) => Some(Kind::DeviceCode),
            (Flavour::Google, "POST", ["revoke"]) => Some(Kind::Revoke),
            (Flavour::Microsoft, method, [_tenant, "oauth2", "v2.0", end]) => match (method, *end) {
                ("GET", "authorize") => Some(Kind::Authorize),
                ("POST", "token") => Some(Kind::Token),
                ("POST", "devicecode") => Some(Kind::DeviceCode),
                _ => None,
            },
            _ => None,
        }
    }

    pub(in crate::mock) fn answer(&self, kind: Kind, request: &Request) -> Reply {
        let form: BTreeMap<_, _> = form_urlencoded::parse(&request.body).into_owned().collect();
        match kind {
            Kind::Authorize => self.authorize(request),
            // A secret in a URL ends in logs of proxies and servers.
            _ if !request.query.is_empty() => refused(400, "invalid_request", "parameters belong into the body"),
            Kind::Token => self.token(request, &form).unwrap_or_else(|refusal| refusal),
            Kind::DeviceCode => self.device_code(&form),
            Kind::Revoke => self.revoke(&form),
            _ => Reply::status(404),
        }
    }

    fn authorize(&self, request: &Request) -> Reply {
        let params: BTreeMap<_, _> = request.params().collect();
        let param = |name: &str| params.get(name).map(String::as_str).unwrap_or_default();
        let redirect = param("redirect_uri");
        // What cannot be trusted is not redirected to: the user sees a page.
        if param("client_id") != self.client_id() || !is_loopback(redirect) {
            return Reply::status(400).body("invalid client or redirect_uri");
        }
        let back = |answer: &[(&str, &str)]| {
            let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
            Reply::status(302).header("location", format!("{redirect}?{query}"))
        };
        let given = param("state");
        if param("response_type") != "code" {
            return back(&[("error", "unsupported_response_type"), ("state", given)]);
        }
        let challenge = param("code_challenge");
        if param("code_challenge_method") != "S256" || challenge.len() != 43 || param("scope").is_empty() {
            return back(&[("error", "invalid_request"), ("state", given)]);
        }
        let asked = scopes_in(param("scope"));
        let offline = match self.0.flavour {
            Flavour::Google => param("access_type") == "offline",
            Flavour::Microsoft => asked.iter().any(|scope| scope == "offline_access"),
        };
        let mut state = self.state();
        let (scopes, given) = match &state.user {
            User::Agrees => (asked, given.to_owned()),
            User::AgreesTo(some) => {
                (asked.into_iter().filter(|scope| some.contains(scope)).collect(), given.to_owned())
            }
            User::ForgesState => (asked, random("forged-")),
            User::Declines => return back(&[("error", "access_denied"), ("state", given)]),
        };
        let code = random("code-");
        let entry = Code {
            redirect: redirect.to_owned(),
            challenge: challenge.to_owned(),
            scopes,
            offline,
            expires: self.0.clock.now() + CODE_LIFETIME,
            used: None,
        };
        state.codes.insert(code.clone(), entry);
        back(&[("code", &code), ("state", &given)])
    }

    fn token(&self, request: &Request, form: &BTreeMap<String, String>) -> Result<Reply, Reply> {
        self.check_client(request, form)?;
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        match field("grant_type") {
            "authorization_code" => self.exchange(field("code"), field("redirect_uri"), field("code_verifier")),
            "refresh_token" => self.refresh(field("refresh_token")),
            "urn:ietf:params:oauth:grant-type:device_code" => self.poll(field("device_code")),
            _ => Err(refused(400, "unsupported_grant_type", "no such grant")),
        }
    }

    /// The client's id and secret, in the body or, for Google, as Basic authentication.
    fn check_client(&self, request: &Request, form: &BTreeMap<String, String>) -> Result<(), Reply> {
        let basic = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
        let basic = basic.and_then(|value| String::from_utf8(BASE64.decode(value.as_bytes()).ok()?).ok());
        let basic = basic.as_deref().and_then(|pair| pair.split_once(':'));
        let decoded = basic.map(|(id, secret)| (decoded(id), decoded(secret)));
        let (id, secret) = match decoded {
            Some((id, secret)) => (Some(id), Some(secret)),
            None => (form.get("client_id").cloned(), form.get("client_secret").cloned()),
        };
        let known = id.as_deref() == Some(self.client_id());
        let right = match self.0.flavour {
            Flavour::Google => secret.as_deref() == self.client_secret(),
            // AADSTS700025: a public client must not present a secret.
            Flavour::Microsoft => secret.is_none(),
        };
        if known && right { Ok(()) } else { Err(refused(401, "invalid_client", "unknown client or wrong secret")) }
    }

    fn exchange(&self, code: &str, redirect: &str, verifier: &str) -> Result<Reply, Reply> {
        let now = self.0.clock.now();
        let mut state = self.state();
        let entry = state.codes.get(code).cloned().ok_or_else(|| invalid_grant("no such code"))?;
        if let Some(grant) = entry.used {
            // RFC 6749, 4.1.2: what a code that is used twice has led to is revoked.
            state.end_grant(grant);
            return Err(invalid_grant("the code was used before"));
        }
        let fits = BASE64URL_NOPAD.encode(&Sha256::digest(verifier)) == entry.challenge;
        if !fits || redirect != entry.redirect || entry.expires <= now || !(43..=128).contains(&verifier.len()) {
            return Err(invalid_grant("wrong verifier or redirect_uri, or too late"));
        }
        let grant = state.new_grant();
        if let Some(entry) = state.codes.get_mut(code) {
            entry.used = Some(grant);
        }
        state.secrets.push(verifier.to_owned());
        Ok(self.tokens(&mut state, grant, &entry.scopes, entry.offline, now))
    }

    fn refresh(&self, refresh: &str) -> Result<Reply, Reply> {
        let now = self.0.clock.now();
        let mut state = self.state();
        let token = state.refresh.get(refresh).filter(|token| token.holds(now)).cloned();
        let token = token.ok_or_else(|| invalid_grant("the token is expired or revoked"))?;
        let rotation = state.rotation;
        if rotation == Rotation::RotateAndRevoke {
            state.refresh.remove(refresh);
        }
        Ok(self.tokens(&mut state, token.grant, &token.scopes, rotation != Rotation::Keep, now))
    }

    fn tokens(&self, state: &mut State, grant: u64, scopes: &[String], refresh: bool, now: SystemTime) -> Reply {
        let access = state.new_access(grant, scopes, now);
        let shown: Vec<_> = scopes.iter().map(String::as_str).filter(|scope| *scope != "offline_access").collect();
        let mut answer = json!({
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": state.access_lifetime.as_secs(),
            "scope": shown.join(" "),
        });
        if refresh {
            answer["refresh_token"] = state.new_refresh(grant, scopes, now).into();
        }
        Reply::json(200, &answer).header("cache-control", "no-store")
    }

    fn device_code(&self, form: &BTreeMap<String, String>) -> Reply {
        let scopes = scopes_in(form.get("scope").map(String::as_str).unwrap_or_default());
        if form.get("client_id").map(String::as_str) != Some(self.client_id()) {
            return refused(401, "invalid_client", "unknown client");
        }
        let google = self.0.flavour == Flavour::Google;
        let allowed = |scope: &String| !google || GOOGLE_DEVICE_SCOPES.contains(&scope.as_str());
        if scopes.is_empty() || !scopes.iter().all(allowed) {
            return refused(400, "invalid_scope", "not for devices");
        }
        let mut state = self.state();
        let (code, user_code) = (random("device-"), random("")[..8].to_uppercase());
        let device = Device {
            user_code: user_code.clone(),
            scopes,
            expires: self.0.clock.now() + state.device_lifetime,
            interval: state.device_interval,
            polled: None,
            agreed: None,
        };
        let (expires, interval) = (state.device_lifetime.as_secs(), device.interval.as_secs());
        state.devices.insert(code.clone(), device);
        state.secrets.push(code.clone());
        let page = format!("{}/device", self.0.base);
        let mut answer =
            json!({"device_code": code, "user_code": user_code, "expires_in": expires, "interval": interval});
        if google {
            answer["verification_url"] = page.into();
        } else {
            answer["message"] = format!("Open {page} and enter {user_code}.").into();
            answer["verification_uri"] = page.into();
        }
        Reply::json(200, &answer)
    }

    fn poll(&self, code: &str) -> Result<Reply, Reply> {
        let google = self.0.flavour == Flavour::Google;
        let now = self.0.clock.now();
        let mut state = self.state();
        let unknown = if google { "invalid_grant" } else { "bad_verification_code" };
        let device = state.devices.get_mut(code).ok_or_else(|| refused(400, unknown, "no such device code"))?;
        if device.expires <= now {
            return Err(refused(400, "expired_token", "the code was not entered in time"));
        }
        let early = device.polled.is_some_and(|polled| now < polled + device.interval);
        device.polled = Some(now);
        if early {
            // RFC 8628, 3.5: from now on 5 s more.
            device.interval += Duration::from_secs(5);
            return Err(refused(if google { 403 } else { 400 }, "slow_down", "polled too often"));
        }
        match device.agreed {
            None => Err(refused(if google { 428 } else { 400 }, "authorization_pending", "the user has not decided")),
            Some(false) if google => Err(refused(403, "access_denied", "the user declined")),
            Some(false) => Err(refused(400, "authorization_declined", "the user declined")),
            Some(true) => {
                let scopes = device.scopes.clone();
                state.devices.remove(code);
                let grant = state.new_grant();
                let offline = google || scopes.iter().any(|scope| scope == "offline_access");
                Ok(self.tokens(&mut state, grant, &scopes, offline, now))
            }
        }
    }

    /// RFC 7009, as Google does it: either token ends the whole grant.
    fn revoke(&self, form: &BTreeMap<String, String>) -> Reply {
        let mut state = self.state();
        let token = form.get("token").map(String::as_str).unwrap_or_default();
        let grant = state.refresh.get(token).or_else(|| state.access.get(token)).map(|token| token.grant);
        let Some(grant) = grant else { return refused(400, "invalid_token", "no such token") };
        state.end_grant(grant);
        Reply::json(200, &json!({}))
    }
}

fn scopes_in(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// RFC 8252, 7.3: any port of a loopback address; Microsoft's registration also has `localhost`.
fn is_loopback(redirect: &str) -> bool {
    let Ok(uri) = redirect.parse::<hyper::Uri>() else { return false };
    uri.scheme_str() == Some("http")
        && uri.host().is_some_and(|host| ["127.0.0.1", "[::1]", "localhost"].contains(&host))
}

fn refused(status: u16, error: &str, description: &str) -> Reply {
    let value = json!({"error": error, "error_description": description});
    Reply::json(status, &value)
}

fn invalid_grant(description: &str) -> Reply {
    refused(400, "invalid_grant", description)
}

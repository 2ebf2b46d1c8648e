//! Both OAuth servers, flow by flow.

use data_encoding::BASE64URL_NOPAD;
use larder_test_servers::{
    http::{Answer, Call, encode},
    mock::{
        Drive, Fault, Graph, Kind, OAuth,
        drive::{SCOPE_ALL, SCOPE_FILE},
        graph, hashes,
        oauth::{Rotation, User},
    },
};
use serde_json::Value;
use std::time::Duration;

const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-0123";
const REDIRECT: &str = "http://127.0.0.1:50000/callback";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

fn challenge() -> String {
    let hex = hashes::sha256_hex(VERIFIER.as_bytes());
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    BASE64URL_NOPAD.encode(&bytes)
}

/// The browser at the authorization page, with some parameters changed.
fn browser(oauth: &OAuth, scope: &str, changed: &[(&str, &str)]) -> Answer {
    let challenge = challenge();
    let mut params = vec![
        ("client_id", oauth.client_id()),
        ("redirect_uri", REDIRECT),
        ("response_type", "code"),
        ("scope", scope),
        ("state", "state-1"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
        ("access_type", "offline"),
    ];
    for (name, value) in changed {
        params.retain(|(other, _)| other != name);
        params.push((name, value));
    }
    let query: Vec<_> = params.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    Call::new("GET", format!("{}?{}", oauth.authorize_url(), query.join("&"))).go()
}

fn token(oauth: &OAuth, fields: &[(&str, &str)]) -> Answer {
    let mut fields = fields.to_vec();
    fields.push(("client_id", oauth.client_id()));
    fields.extend(oauth.client_secret().map(|secret| ("client_secret", secret)));
    Call::new("POST", oauth.token_url()).form(&fields).go()
}

fn exchange(oauth: &OAuth, code: &str) -> Answer {
    token(
        oauth,
        &[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ],
    )
}

fn refresh(oauth: &OAuth, refresh_token: &str) -> Answer {
    token(oauth, &[("grant_type", "refresh_token"), ("refresh_token", refresh_token)])
}

#[track_caller]
fn refused(answer: Answer, status: u16, error: &str) {
    assert_eq!(answer.json()["error"], error);
    let _ = answer.expect(status);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn about(drive: &Drive, token: &str) -> u16 {
    Call::new("GET", format!("{}/drive/v3/about?fields=user", drive.base())).bearer(token).go().status
}

#[test]
fn a_code_with_pkce_gives_tokens_that_work_and_expire() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    let back = browser(oauth, SCOPE_FILE, &[]).expect(302);
    assert!(back.header("location").starts_with(REDIRECT));
    assert_eq!(back.redirected_with("state").as_deref(), Some("state-1"));
    let code = back.redirected_with("code").unwrap();
    let tokens = exchange(oauth, &code).expect(200).json();
    assert_eq!((&tokens["token_type"], &tokens["scope"]), (&"Bearer".into(), &SCOPE_FILE.into()));
    let access = text(&tokens["access_token"]);
    assert_eq!(about(&drive, &access), 200);
    drive.clock().advance(Duration::from_secs(tokens["expires_in"].as_u64().unwrap()));
    assert_eq!(about(&drive, &access), 401);
    let renewed = refresh(oauth, &text(&tokens["refresh_token"])).expect(200).json();
    assert_eq!(renewed.get("refresh_token"), None, "Google keeps the refresh token");
    assert_eq!(about(&drive, &text(&renewed["access_token"])), 200);
    assert!(drive.log().with_in_url(&oauth.secrets()).is_empty());
}

#[test]
fn a_code_is_good_once_and_for_who_asked() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    let code = || browser(oauth, SCOPE_FILE, &[]).redirected_with("code").unwrap();
    let other = "another-verifier-of-at-least-forty-three-characters";
    let with = |code: &str, redirect: &str, verifier: &str| {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        token(oauth, &fields)
    };
    refused(with(&code(), REDIRECT, other), 400, "invalid_grant");
    refused(with(&code(), "http://127.0.0.1:50001/callback", VERIFIER), 400, "invalid_grant");
    refused(with("code-unknown", REDIRECT, VERIFIER), 400, "invalid_grant");
    let late = code();
    drive.clock().advance(Duration::from_secs(600));
    refused(exchange(oauth, &late), 400, "invalid_grant");
    // Used twice: what it led to is void.
    let twice = code();
    let access = text(&exchange(oauth, &twice).expect(200).json()["access_token"]);
    refused(exchange(oauth, &twice), 400, "invalid_grant");
    assert_eq!(about(&drive, &access), 401);
}

#[test]
fn the_page_leads_back_to_loopback_only_and_demands_pkce() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    assert_eq!(browser(oauth, SCOPE_FILE, &[("redirect_uri", "https://example.com/callback")]).status, 400);
    assert_eq!(browser(oauth, SCOPE_FILE, &[("client_id", "unknown")]).status, 400);
    let error = |changed: &[(&str, &str)]| browser(oauth, SCOPE_FILE, changed).redirected_with("error");
    assert_eq!(error(&[("code_challenge_method", "plain")]).as_deref(), Some("invalid_request"));
    assert_eq!(error(&[("code_challenge", "")]).as_deref(), Some("invalid_request"));
    assert_eq!(error(&[("response_type", "token")]).as_deref(), Some("unsupported_response_type"));
}

#[test]
fn the_user_may_decline_agree_in_part_or_be_somebody_else() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    oauth.set_user(User::Declines);
    assert_eq!(browser(oauth, SCOPE_FILE, &[]).redirected_with("error").as_deref(), Some("access_denied"));
    oauth.set_user(User::ForgesState);
    assert_ne!(browser(oauth, SCOPE_FILE, &[]).redirected_with("state").as_deref(), Some("state-1"));
    oauth.set_user(User::AgreesTo(vec!["email".to_owned()]));
    let code = browser(oauth, &format!("email {SCOPE_FILE}"), &[]).redirected_with("code").unwrap();
    let tokens = exchange(oauth, &code).expect(200).json();
    assert_eq!(tokens["scope"], "email");
    assert_eq!(about(&drive, &text(&tokens["access_token"])), 403);
}

#[test]
fn clients_prove_themselves_as_each_service_wants() {
    let (drive, graph) = (Drive::start(), Graph::start());
    let ask = |oauth: &OAuth, secret: Option<&str>| {
        let mut fields =
            vec![("client_id", oauth.client_id()), ("grant_type", "refresh_token"), ("refresh_token", "x")];
        fields.extend(secret.map(|secret| ("client_secret", secret)));
        Call::new("POST", oauth.token_url()).form(&fields).go()
    };
    refused(ask(drive.oauth(), None), 401, "invalid_client");
    refused(ask(drive.oauth(), Some("wrong")), 401, "invalid_client");
    refused(ask(drive.oauth(), drive.oauth().client_secret()), 400, "invalid_grant");
    refused(ask(graph.oauth(), Some("any")), 401, "invalid_client");
    refused(ask(graph.oauth(), None), 400, "invalid_grant");
    let oauth = drive.oauth();
    let form = [("grant_type", "refresh_token"), ("refresh_token", "x")];
    let basic = Call::new("POST", oauth.token_url()).basic(oauth.client_id(), oauth.client_secret().unwrap());
    refused(basic.form(&form).go(), 400, "invalid_grant");
    let in_url = format!("{}?refresh_token={}", oauth.token_url(), oauth.grant(&[SCOPE_FILE]).refresh);
    refused(Call::new("POST", in_url).form(&form).go(), 400, "invalid_request");
    assert_eq!(drive.log().with_in_url(&oauth.secrets()).len(), 1, "the log finds a secret in a URL");
}

#[test]
fn refresh_tokens_rotate_expire_and_are_withdrawn() {
    let graph = Graph::start();
    let oauth = graph.oauth();
    let first = oauth.grant(&[graph::SCOPE_APP_FOLDER, graph::SCOPE_OFFLINE]).refresh;
    let second = text(&refresh(oauth, &first).expect(200).json()["refresh_token"]);
    assert_ne!(first, second);
    refused(refresh(oauth, &first), 400, "invalid_grant");
    oauth.set_rotation(Rotation::Rotate);
    let _ = refresh(oauth, &second).expect(200);
    let _ = refresh(oauth, &second).expect(200);
    graph.clock().advance(Duration::from_secs(90 * 24 * 3600));
    refused(refresh(oauth, &second), 400, "invalid_grant");
    let third = oauth.grant(&[graph::SCOPE_APP_FOLDER]);
    oauth.withdraw();
    refused(refresh(oauth, &third.refresh), 400, "invalid_grant");
    // Google's client in "testing".
    let drive = Drive::start();
    drive.oauth().set_refresh_lifetime(Some(Duration::from_secs(7 * 24 * 3600)));
    let old = drive.oauth().grant(&[SCOPE_FILE]).refresh;
    drive.clock().advance(Duration::from_secs(7 * 24 * 3600));
    refused(refresh(drive.oauth(), &old), 400, "invalid_grant");
}

#[test]
fn a_refresh_token_is_given_to_who_asks_for_it() {
    let (drive, graph) = (Drive::start(), Graph::start());
    let has_refresh = |oauth: &OAuth, scope: &str, access_type: &str| {
        let code = browser(oauth, scope, &[("access_type", access_type)]).redirected_with("code").unwrap();
        exchange(oauth, &code).expect(200).json().get("refresh_token").is_some()
    };
    assert!(has_refresh(drive.oauth(), SCOPE_FILE, "offline"));
    assert!(!has_refresh(drive.oauth(), SCOPE_FILE, "online"));
    assert!(has_refresh(graph.oauth(), "Files.ReadWrite offline_access", ""));
    assert!(!has_refresh(graph.oauth(), "Files.ReadWrite", ""));
}

#[test]
fn a_grant_is_given_back() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    let tokens = oauth.grant(&[SCOPE_ALL]);
    let revoke = |token: &str| Call::new("POST", oauth.revoke_url().unwrap()).form(&[("token", token)]).go();
    let _ = revoke(&tokens.access).expect(200);
    assert_eq!(about(&drive, &tokens.access), 401);
    refused(refresh(oauth, &tokens.refresh), 400, "invalid_grant");
    refused(revoke(&tokens.refresh), 400, "invalid_token");
    assert_eq!(Graph::start().oauth().revoke_url(), None);
}

#[test]
fn devices_of_google() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    let begin = |scope: &str| {
        Call::new("POST", oauth.device_url()).form(&[("client_id", oauth.client_id()), ("scope", scope)]).go()
    };
    refused(begin(SCOPE_ALL), 400, "invalid_scope");
    let started = begin(SCOPE_FILE).expect(200).json();
    assert!(started["verification_url"].is_string());
    assert_eq!(started["interval"], 5);
    let poll = |started: &Value| {
        token(oauth, &[("grant_type", DEVICE_GRANT), ("device_code", &text(&started["device_code"]))])
    };
    refused(poll(&started), 428, "authorization_pending");
    refused(poll(&started), 403, "slow_down");
    drive.clock().advance(Duration::from_secs(5));
    refused(poll(&started), 403, "slow_down");
    drive.clock().advance(Duration::from_secs(15));
    assert!(oauth.enter_code(&text(&started["user_code"]), true));
    let tokens = poll(&started).expect(200).json();
    assert!(tokens["refresh_token"].is_string());
    assert_eq!(about(&drive, &text(&tokens["access_token"])), 200);
    refused(poll(&started), 400, "invalid_grant");
    let declined = begin(SCOPE_FILE).json();
    assert!(oauth.enter_code(&text(&declined["user_code"]), false));
    refused(poll(&declined), 403, "access_denied");
    let late = begin(SCOPE_FILE).json();
    drive.clock().advance(Duration::from_secs(1800));
    refused(poll(&late), 400, "expired_token");
    assert!(!oauth.enter_code("NOBODYS", true));
}

#[test]
fn devices_of_microsoft() {
    let graph = Graph::start();
    let oauth = graph.oauth();
    oauth.set_device_interval(Duration::from_secs(0));
    let scope = format!("{} {}", graph::SCOPE_APP_FOLDER, graph::SCOPE_OFFLINE);
    let begin =
        || Call::new("POST", oauth.device_url()).form(&[("client_id", oauth.client_id()), ("scope", &scope)]).go();
    let started = begin().expect(200).json();
    assert!(started["verification_uri"].is_string() && started["message"].is_string());
    let poll = |code: &str| token(oauth, &[("grant_type", DEVICE_GRANT), ("device_code", code)]);
    let code = text(&started["device_code"]);
    refused(poll(&code), 400, "authorization_pending");
    refused(poll(&code), 400, "authorization_pending");
    assert!(oauth.enter_code(&text(&started["user_code"]), false));
    refused(poll(&code), 400, "authorization_declined");
    refused(poll("unknown"), 400, "bad_verification_code");
    let agreed = begin().json();
    assert!(oauth.enter_code(&text(&agreed["user_code"]), true));
    let tokens = poll(&text(&agreed["device_code"])).expect(200).json();
    assert_eq!(tokens["scope"], graph::SCOPE_APP_FOLDER);
    assert!(tokens["refresh_token"].is_string());
}

#[test]
fn the_token_endpoint_fails_on_request() {
    let drive = Drive::start();
    let oauth = drive.oauth();
    let tokens = oauth.grant(&[SCOPE_FILE]);
    drive.faults().next(Kind::Token, Fault::retry_after(503, 2));
    let failed = refresh(oauth, &tokens.refresh).expect(503);
    assert_eq!(failed.header("retry-after"), "2");
    let _ = refresh(oauth, &tokens.refresh).expect(200);
}

//! `gdrive` and `onedrive` and their logins, against our mocks, which are made after the services' documents alone.

use super::{conforms, map, open_with};
use larder_node::{
    credentials::Vault,
    storage::{
        Credential, ObjectKey, ProviderConfig, PutMode, Retry, StorageErrorKind, StorageProvider, gdrive, list_all,
        oauth, onedrive, upload,
    },
};
use larder_test_servers::mock::{
    Drive, Fault, Graph, Kind, OAuth,
    drive::{self, SCOPE_FILE},
    graph,
    oauth::User,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

type Saved = Arc<Mutex<Vec<BTreeMap<String, String>>>>;

fn drive_config(server: &Drive) -> ProviderConfig {
    let base = server.base();
    map(&[("api", &base), ("accounts", &base), ("oauth", &base), ("folder", "Larder's own")])
}

fn graph_config(server: &Graph) -> ProviderConfig {
    let base = server.base();
    let accounts = base.trim_end_matches("/v1.0").to_owned();
    map(&[("api", &base), ("accounts", &accounts), ("folder", "some/folder ü")])
}

fn client(server: &OAuth) -> BTreeMap<String, String> {
    let mut values = map(&[("client_id", server.client_id())]);
    values.extend(server.client_secret().map(|secret| ("client_secret".to_owned(), secret.to_owned())));
    values
}

fn credential(server: &OAuth, scopes: &[&str]) -> (Credential, Saved) {
    let mut values = client(server);
    values.insert("refresh_token".to_owned(), server.grant(scopes).refresh);
    let saved = Saved::default();
    let into = saved.clone();
    let save = move |values: &BTreeMap<String, String>| {
        into.lock().unwrap().push(values.clone());
        Ok(())
    };
    (Credential::new(values).with_save(Arc::new(save)), saved)
}

const GRAPH_SCOPES: [&str; 2] = [graph::SCOPE_APP_FOLDER, graph::SCOPE_OFFLINE];

pub(super) fn gdrive_of(server: &Drive) -> Arc<dyn StorageProvider> {
    open_with("gdrive", &drive_config(server), &credential(server.oauth(), &[SCOPE_FILE]).0)
}

pub(super) fn onedrive_of(server: &Graph) -> (Arc<dyn StorageProvider>, Saved) {
    let (credential, saved) = credential(server.oauth(), &GRAPH_SCOPES);
    (open_with("onedrive", &graph_config(server), &credential), saved)
}

#[tokio::test(flavor = "multi_thread")]
async fn gdrive_conforms() {
    let server = Drive::start();
    conforms(&*gdrive_of(&server), &[]).await;
    assert!(server.log().with_in_url(&server.oauth().secrets()).is_empty(), "a secret in an address");
    assert_eq!(server.open_sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn onedrive_conforms() {
    let server = Graph::start();
    conforms(&*onedrive_of(&server).0, &[]).await;
    assert!(server.log().with_in_url(&server.oauth().secrets()).is_empty(), "a secret in an address");
    assert_eq!(server.open_sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_login_is_kept_at_once_and_one_refresh_serves_all_who_wait() {
    let server = Graph::start();
    let (storage, saved) = onedrive_of(&server);
    let key = ObjectKey::new("x").unwrap();
    let stats = futures::future::join_all((0..10).map(|_| storage.stat(&key))).await;
    assert!(stats.into_iter().all(|stat| stat.unwrap().is_none()));
    let kept = saved.lock().unwrap().clone();
    assert_eq!(kept.len(), 1, "ten callers, one refresh");
    drop(storage);
    // The next process has what was kept, and only that still holds.
    let again = open_with("onedrive", &graph_config(&server), &Credential::new(kept[0].clone()));
    again.test().await.unwrap();
}

/// Two locations of one profile are two storages, each with tokens of its own: what one renews must not end the other.
#[tokio::test(flavor = "multi_thread")]
async fn storages_of_one_profile_share_a_login_that_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let server = Graph::start();
    let vault = Vault::open(dir.path());
    vault.set("office", &credential(server.oauth(), &GRAPH_SCOPES).0, Default::default()).unwrap();
    let open = || open_with("onedrive", &graph_config(&server), &vault.get("office").unwrap().unwrap());
    let (first, second) = (open(), open());
    let key = ObjectKey::new("x").unwrap();
    let (a, b) = futures::future::join(first.stat(&key), second.stat(&key)).await;
    assert!(a.unwrap().is_none() && b.unwrap().is_none());
    let again = Vault::open(dir.path()).get("office").unwrap().unwrap();
    open_with("onedrive", &graph_config(&server), &again).test().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_renewed_once_and_a_withdrawn_login_needs_another() {
    let server = Drive::start();
    let storage = gdrive_of(&server);
    storage.test().await.unwrap();
    server.faults().next(Kind::List, drive::refusals::unauthorized());
    storage.stat(&ObjectKey::new("x").unwrap()).await.unwrap();
    server.oauth().withdraw();
    let error = storage.test().await.unwrap_err();
    assert_eq!((error.kind, error.retry), (StorageErrorKind::NeedsLogin, Retry::No), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(!server.oauth().secrets().iter().any(|secret| shown.contains(secret)), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_says_how_long() {
    let (drive_server, graph_server) = (Drive::start(), Graph::start());
    let (on_drive, on_graph) = (gdrive_of(&drive_server), onedrive_of(&graph_server).0);
    let key = ObjectKey::new("x").unwrap();
    drive_server.faults().next(Kind::List, drive::refusals::too_many_requests(7));
    let error = on_drive.stat(&key).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (StorageErrorKind::Throttled, Retry::After(Duration::from_secs(7))));
    drive_server.faults().next(Kind::List, drive::refusals::user_rate_limit());
    assert_eq!(on_drive.stat(&key).await.unwrap_err().kind, StorageErrorKind::Throttled);
    graph_server.faults().next(Kind::Stat, graph::refusals::throttled(9));
    let error = on_graph.stat(&key).await.unwrap_err();
    assert_eq!((error.kind, error.retry), (StorageErrorKind::Throttled, Retry::After(Duration::from_secs(9))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_listing_does_not_show_is_there_all_the_same() {
    let server = Drive::start();
    server.set_listing_delay(Duration::from_secs(60));
    let storage = gdrive_of(&server);
    let (first, second) = (ObjectKey::new("objects/1").unwrap(), ObjectKey::new("objects/2").unwrap());
    for key in [&first, &second] {
        storage.put(key, "bytes".into(), PutMode::IfAbsent).await.unwrap();
    }
    assert_eq!(storage.get_range(&first, None).await.unwrap(), "bytes");
    storage.delete(&second).await.unwrap();
    assert_eq!(storage.stat(&second).await.unwrap(), None);
    let listed = list_all(&*storage, "").await.unwrap();
    assert_eq!(listed.into_iter().map(|listed| listed.key).collect::<Vec<_>>(), std::slice::from_ref(&first));
    // Another device, when listings have caught up, sees the same: what was deleted unseen is gone there too.
    server.clock().advance(Duration::from_secs(120));
    let listed = list_all(&*gdrive_of(&server), "").await.unwrap();
    assert_eq!(listed.into_iter().map(|listed| listed.key).collect::<Vec<_>>(), [first]);
}

/// An upload of 25 MiB whose second part breaks, and the same one again: it goes on.
async fn resumes(storage: &dyn StorageProvider, break_part: impl FnOnce()) {
    let dir = tempfile::tempdir().unwrap();
    let journal = upload::Journal::open(dir.path().join("journal")).unwrap();
    let mut bytes = vec![0; 25 << 20];
    blake3::Hasher::new().update(b"resumes").finalize_xof().fill(&mut bytes);
    let bytes = bytes::Bytes::from(bytes);
    let key = ObjectKey::new("films/one").unwrap();
    let object =
        || upload::Object { key: &key, source: Arc::new(bytes.clone()), mode: PutMode::Replace, fingerprint: "1" };
    break_part();
    let error = upload::upload(storage, object(), Some(&journal), &|_| {}).await.unwrap_err();
    assert!(error.may_retry(), "{error:?}");
    assert_eq!(storage.stat(&key).await.unwrap(), None, "no half object");
    let first = Mutex::new(None);
    let progress = |step: upload::Progress| {
        first.lock().unwrap().get_or_insert(step.done);
    };
    upload::upload(storage, object(), Some(&journal), &progress).await.unwrap();
    assert!(first.lock().unwrap().unwrap() > 10 << 20, "it began again");
    assert_eq!(storage.get_range(&key, None).await.unwrap(), bytes);
    assert!(journal.all().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_sessions_go_on_where_they_broke() {
    let server = Drive::start();
    resumes(&*gdrive_of(&server), || server.faults().nth(Kind::Part, 2, Fault::status(503))).await;
    let server = Graph::start();
    resumes(&*onedrive_of(&server).0, || server.faults().nth(Kind::Part, 2, Fault::status(503))).await;
}

/// What a browser does: asks for the page, and follows it back to the loopback port.
async fn browse(url: String) {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let page = client.get(url).send().await.unwrap();
    let back = page.headers()["location"].to_str().unwrap().to_owned();
    let origin = &back[..back.find('?').unwrap()];
    // The icon that browsers ask for is no answer.
    let _ = client.get(format!("{origin}/favicon.ico")).timeout(Duration::from_secs(2)).send().await;
    let _ = client.get(back).send().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_in_the_browser_gives_a_credential_that_works() {
    let server = Graph::start();
    let config = graph_config(&server);
    let login = || oauth::begin_consent(onedrive::service(&config), Credential::new(client(server.oauth())));
    let consent = login().await.unwrap();
    let browser = tokio::spawn(browse(consent.url().to_owned()));
    let credential = consent.finish().await.unwrap();
    browser.await.unwrap();
    open_with("onedrive", &config, &credential).test().await.unwrap();
    for user in [User::Declines, User::ForgesState] {
        server.oauth().set_user(user);
        let consent = login().await.unwrap();
        let browser = tokio::spawn(browse(consent.url().to_owned()));
        assert_eq!(consent.finish().await.unwrap_err().kind, StorageErrorKind::NotAllowed);
        browser.await.unwrap();
    }
    let server = Drive::start();
    let config = drive_config(&server);
    let consent =
        oauth::begin_consent(gdrive::service(&config), Credential::new(client(server.oauth()))).await.unwrap();
    let browser = tokio::spawn(browse(consent.url().to_owned()));
    let credential = consent.finish().await.unwrap();
    browser.await.unwrap();
    open_with("gdrive", &config, &credential).test().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_code_waits_for_the_user() {
    let server = Drive::start();
    server.oauth().set_device_interval(Duration::from_secs(1));
    let service = gdrive::service(&drive_config(&server));
    let who = Credential::new(client(server.oauth()));
    for agrees in [true, false] {
        let code = oauth::begin_device(&service, &who).await.unwrap();
        assert!(code.url.starts_with("http"));
        assert!(server.oauth().enter_code(&code.user_code, agrees));
        let done = oauth::finish_device(&service, &who, code).await;
        match agrees {
            true => open_with("gdrive", &drive_config(&server), &done.unwrap()).test().await.unwrap(),
            false => assert_eq!(done.unwrap_err().kind, StorageErrorKind::NotAllowed),
        }
    }
}

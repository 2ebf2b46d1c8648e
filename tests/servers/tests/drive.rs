//! Google Drive, request by request.

use larder_test_servers::{
    http::{Answer, Call, encode},
    mock::{
        Drive, Fault, Kind,
        drive::{FOLDER, SCOPE_ALL, SCOPE_FILE, refusals},
        hashes,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

const KIB: usize = 1024;

struct Client {
    drive: Drive,
    token: String,
}

impl Client {
    fn new() -> Self {
        let drive = Drive::start();
        let token = drive.oauth().grant(&[SCOPE_FILE]).access;
        Self { drive, token }
    }

    fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}{path}", self.drive.base())).bearer(&self.token)
    }

    fn files(&self, method: &str, path: &str) -> Call {
        self.call(method, &format!("/drive/v3/files{path}"))
    }

    fn create(&self, metadata: &Value) -> Answer {
        self.files("POST", "?fields=*").json(metadata).go()
    }

    /// A small file, by a multipart upload.
    fn put(&self, metadata: &Value, bytes: &[u8]) -> Answer {
        let head =
            format!("--b\r\nContent-Type: application/json\r\n\r\n{metadata}\r\n--b\r\nContent-Type: a/b\r\n\r\n");
        let body = [head.as_bytes(), bytes, b"\r\n--b--"].concat();
        let call = self.call("POST", "/upload/drive/v3/files?uploadType=multipart&fields=*");
        call.header("content-type", "multipart/related; boundary=b").body(body).go()
    }

    fn names(&self, query: &str) -> Vec<String> {
        let found = self.files("GET", &format!("?q={}&orderBy=name", encode(query))).go().expect(200).json();
        found["files"].as_array().unwrap().iter().map(|file| text(&file["name"])).collect()
    }

    fn begin(&self, name: &str) -> String {
        let call = self.call("POST", "/upload/drive/v3/files?uploadType=resumable&fields=id,size");
        call.json(&json!({"name": name})).go().expect(200).header("location").to_owned()
    }

    fn part(&self, session: &str, range: &str, bytes: Vec<u8>) -> Answer {
        Call::new("PUT", session).bearer(&self.token).header("content-range", range).body(bytes).go()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn reason(answer: &Answer) -> String {
    text(&answer.json()["error"]["errors"][0]["reason"])
}

#[test]
fn files_are_made_read_changed_and_deleted() {
    let client = Client::new();
    let folder = text(&client.create(&json!({"name": "Larder", "mimeType": FOLDER})).expect(200).json()["id"]);
    let put = client
        .put(&json!({"name": "küche", "parents": [folder], "appProperties": {"k": "v"}}), b"hello")
        .expect(200)
        .json();
    assert_eq!((&put["size"], &put["parents"]), (&"5".into(), &json!([folder])));
    assert_eq!(put["md5Checksum"], hashes::md5_hex(b"hello"));
    assert_eq!(put["sha256Checksum"], hashes::sha256_hex(b"hello"));
    let id = text(&put["id"]);
    let fetch = |range: Option<&str>| {
        let call = client.files("GET", &format!("/{id}?alt=media"));
        range.iter().fold(call, |call, range| call.header("range", *range)).go()
    };
    assert_eq!(fetch(None).expect(200).body, "hello");
    let part = fetch(Some("bytes=1-3")).expect(206);
    assert_eq!((part.body.as_ref(), part.header("content-range")), (&b"ell"[..], "bytes 1-3/5"));
    assert_eq!(fetch(Some("bytes=5-")).expect(416).header("content-range"), "bytes */5");
    // New bytes of the same file.
    let path = format!("/upload/drive/v3/files/{id}?uploadType=media");
    let _ = client.call("PATCH", &path).body("other").go().expect(200);
    assert_eq!(fetch(None).body, "other");
    // Renamed and moved.
    let path = format!("/{id}?addParents=root&removeParents={folder}&fields=name,parents,version");
    let moved = client.files("PATCH", &path).json(&json!({"name": "n"})).go().expect(200).json();
    assert_eq!((&moved["name"], &moved["version"]), (&"n".into(), &"3".into()));
    assert_ne!(moved["parents"], json!([folder]));
    let copied = client.files("POST", &format!("/{id}/copy")).json(&json!({"name": "c"})).go().expect(200).json();
    assert_eq!(client.drive.bytes(&text(&copied["id"])).unwrap(), "other");
    assert_eq!(client.files("DELETE", &format!("/{id}")).go().status, 204);
    assert_eq!(reason(&fetch(None).expect(404)), "notFound");
    // What is in a folder goes with it.
    let inside = text(&client.put(&json!({"name": "x", "parents": [folder]}), b"x").json()["id"]);
    let _ = client.files("DELETE", &format!("/{folder}")).go().expect(204);
    assert_eq!(client.drive.bytes(&inside), None);
}

#[test]
fn names_are_not_unique_and_are_found_by_query() {
    let client = Client::new();
    for name in ["same", "same", "it's"] {
        let _ = client.put(&json!({"name": name}), b"x").expect(200);
    }
    assert_eq!(client.names("name = 'same' and 'root' in parents"), ["same", "same"]);
    assert_eq!(client.names(r"name = 'it\'s'"), ["it's"]);
    let wrong = client.files("GET", "?q=name").go().expect(400);
    assert_eq!(reason(&wrong), "invalid");
    // Only what is asked for.
    let found = client.files("GET", "?fields=files(name)").go().json();
    assert_eq!(found["files"][0], json!({"name": found["files"][0]["name"]}));
    assert_eq!(found.get("kind"), None);
}

#[test]
fn listings_come_in_pages_that_changes_do_not_shift() {
    let client = Client::new();
    let ids: Vec<_> = (0..5).map(|n| text(&client.put(&json!({"name": n.to_string()}), b"x").json()["id"])).collect();
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let query = format!("?pageSize=2&orderBy=name{token}");
        let page = client.files("GET", &query).go().expect(200).json();
        seen.extend(page["files"].as_array().unwrap().iter().map(|file| text(&file["name"])));
        if seen.len() == 2 {
            let _ = client.files("DELETE", &format!("/{}", ids[0])).go().expect(204);
        }
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    assert_eq!(client.files("GET", "?pageToken=unknown").go().status, 400);
    assert_eq!(client.files("GET", "?pageSize=1001").go().status, 400);
}

#[test]
fn a_listing_may_lag_behind() {
    let client = Client::new();
    let delay = Duration::from_secs(60);
    let old = text(&client.put(&json!({"name": "old"}), b"x").json()["id"]);
    client.drive.clock().advance(delay);
    client.drive.set_listing_delay(delay);
    let new = text(&client.put(&json!({"name": "new"}), b"x").json()["id"]);
    let _ = client.files("DELETE", &format!("/{old}")).go().expect(204);
    assert_eq!(client.names("trashed = false"), ["old"]);
    // By id there is no lag.
    let _ = client.files("GET", &format!("/{new}")).go().expect(200);
    let _ = client.files("GET", &format!("/{old}")).go().expect(404);
    client.drive.clock().advance(delay);
    assert_eq!(client.names("trashed = false"), ["new"]);
}

#[test]
fn trash_is_listed_unless_asked_otherwise() {
    let client = Client::new();
    let id = text(&client.put(&json!({"name": "a"}), b"12345").json()["id"]);
    let _ = client.files("PATCH", &format!("/{id}")).json(&json!({"trashed": true})).go().expect(200);
    assert_eq!(client.names("name = 'a'"), ["a"]);
    assert!(client.names("name = 'a' and trashed = false").is_empty());
    let about = client.call("GET", "/drive/v3/about?fields=storageQuota").go().expect(200).json();
    assert_eq!(about["storageQuota"]["usageInDriveTrash"], "5");
    let _ = client.files("DELETE", "/trash").go().expect(204);
    assert_eq!(client.drive.count(), 0);
}

#[test]
fn ids_fetched_before_make_creation_repeatable() {
    let client = Client::new();
    let ids = client.files("GET", "/generateIds?count=2").go().expect(200).json();
    let metadata = json!({"id": ids["ids"][0], "name": "a"});
    assert_eq!(client.put(&metadata, b"x").expect(200).json()["id"], ids["ids"][0]);
    assert_eq!(client.put(&metadata, b"y").status, 409);
    assert_eq!(client.put(&json!({"id": "mine"}), b"x").status, 400);
}

#[test]
fn a_client_sees_what_it_made() {
    let client = Client::new();
    let foreign = client.drive.add_foreign("secret", "root", "theirs");
    assert_eq!(client.files("GET", &format!("/{foreign}?alt=media")).go().status, 404);
    assert!(client.names("name = 'secret'").is_empty());
    let all = client.drive.oauth().grant(&[SCOPE_ALL]).access;
    let url = format!("{}/drive/v3/files/{foreign}?alt=media", client.drive.base());
    assert_eq!(Call::new("GET", &url).bearer(&all).go().expect(200).body, "theirs");
    let none = client.drive.oauth().grant(&["email"]).access;
    assert_eq!(reason(&Call::new("GET", &url).bearer(&none).go().expect(403)), "insufficientPermissions");
    assert_eq!(reason(&Call::new("GET", &url).go().expect(401)), "authError");
}

#[test]
fn about_tells_the_quota_which_holds() {
    let client = Client::new();
    client.drive.set_quota(10);
    assert_eq!(client.call("GET", "/drive/v3/about").go().status, 400);
    let _ = client.put(&json!({"name": "a"}), b"123456").expect(200);
    let about =
        client.call("GET", "/drive/v3/about?fields=user/emailAddress,storageQuota(limit,usage)").go().expect(200);
    let expected = json!({"user": {"emailAddress": "user@example.com"}, "storageQuota": {"limit": "10", "usage": "6"}});
    assert_eq!(about.json(), expected);
    assert_eq!(reason(&client.put(&json!({"name": "b"}), b"123456").expect(403)), "storageQuotaExceeded");
    let begin =
        client.call("POST", "/upload/drive/v3/files?uploadType=resumable").header("x-upload-content-length", "5");
    assert_eq!(reason(&begin.go().expect(403)), "storageQuotaExceeded");
}

#[test]
fn changes_are_followed() {
    let client = Client::new();
    let start = client.call("GET", "/drive/v3/changes/startPageToken").go().expect(200).json();
    let kept = text(&client.put(&json!({"name": "kept"}), b"x").json()["id"]);
    let gone = text(&client.put(&json!({"name": "gone"}), b"x").json()["id"]);
    let _ = client.files("DELETE", &format!("/{gone}")).go().expect(204);
    let page = |token: &Value, size| {
        client
            .call("GET", &format!("/drive/v3/changes?pageToken={}&pageSize={size}", text(token)))
            .go()
            .expect(200)
            .json()
    };
    let first = page(&start["startPageToken"], 1);
    assert_eq!(first["changes"][0]["file"]["id"], kept);
    let rest = page(&first["nextPageToken"], 10);
    assert!(
        rest["changes"].as_array().unwrap().iter().all(|change| change["fileId"] == gone && change["removed"] == true)
    );
    assert_eq!(page(&rest["newStartPageToken"], 10)["changes"], json!([]));
}

#[test]
fn a_large_file_is_uploaded_in_parts() {
    let client = Client::new();
    let bytes: Vec<u8> = (0..600 * KIB).map(|n| (n / 7) as u8).collect();
    let (total, unit) = (bytes.len(), 256 * KIB);
    let session = client.begin("large");
    let nothing = client.part(&session, &format!("bytes */{total}"), vec![]).expect(308);
    assert!(!nothing.headers.contains_key("range"));
    let range = |part: std::ops::Range<usize>| format!("bytes {}-{}/{total}", part.start, part.end - 1);
    assert_eq!(client.part(&session, &range(0..1000), bytes[..1000].to_vec()).status, 400, "no multiple of 256 KiB");
    let first = client.part(&session, &range(0..unit), bytes[..unit].to_vec()).expect(308);
    assert_eq!(first.header("range"), format!("bytes=0-{}", unit - 1));
    assert_eq!(client.part(&session, &range(2 * unit..total), bytes[2 * unit..].to_vec()).status, 503, "a gap");
    assert_eq!(
        client.part(&session, &format!("bytes 0-{}/{}", unit - 1, total + 1), bytes[..unit].to_vec()).status,
        400
    );
    let status = client.part(&session, &format!("bytes */{total}"), vec![]).expect(308);
    assert_eq!(status.header("range"), format!("bytes=0-{}", unit - 1));
    // Again from the beginning: what has arrived is passed over.
    let second = client.part(&session, &range(0..2 * unit), bytes[..2 * unit].to_vec()).expect(308);
    assert_eq!(second.header("range"), format!("bytes=0-{}", 2 * unit - 1));
    let done = client.part(&session, &range(2 * unit..total), bytes[2 * unit..].to_vec()).expect(200).json();
    assert_eq!(done["size"], total.to_string());
    assert_eq!(client.drive.bytes(&text(&done["id"])).unwrap(), bytes);
    // Whoever missed the answer asks again.
    assert_eq!(client.part(&session, &format!("bytes */{total}"), vec![]).expect(200).json()["id"], done["id"]);
    assert_eq!(client.drive.open_sessions(), 0);
}

#[test]
fn uploads_of_no_bytes_unknown_length_and_one_request() {
    let client = Client::new();
    let empty = client.begin("empty");
    let id = text(&client.part(&empty, "bytes */0", vec![]).expect(200).json()["id"]);
    assert_eq!(client.drive.bytes(&id).unwrap().len(), 0);
    let growing = client.begin("growing");
    let unit = 256 * KIB;
    let _ = client.part(&growing, &format!("bytes 0-{}/*", unit - 1), vec![1; unit]).expect(308);
    let _ = client.part(&growing, &format!("bytes {unit}-{unit}/{}", unit + 1), vec![2]).expect(200);
    let whole = client.begin("whole");
    assert_eq!(Call::new("PUT", whole).body("hello").go().expect(200).json()["size"], "5");
    let large = client.call("POST", "/upload/drive/v3/files?uploadType=media").body(vec![0; (5 << 20) + 1]).go();
    assert_eq!(large.status, 413);
}

#[test]
fn an_upload_survives_what_befalls_it() {
    let client = Client::new();
    let (unit, total) = (256 * KIB, 512 * KIB);
    let whole = format!("bytes 0-{}/{total}", total - 1);
    let rest = format!("bytes {unit}-{}/{total}", total - 1);
    let arrived = |session: &str| {
        client.part(session, &format!("bytes */{total}"), vec![]).expect(308).header("range").to_owned()
    };

    // The service keeps less than was sent.
    let session = client.begin("short");
    client.drive.faults().next(Kind::Part, Fault::KeepOnly(unit + 5));
    let short = client.part(&session, &whole, vec![1; total]).expect(308);
    assert_eq!(short.header("range"), format!("bytes=0-{}", unit - 1));
    let _ = client.part(&session, &rest, vec![1; unit]).expect(200);

    // The connection breaks in the middle of a part.
    let session = client.begin("cut");
    client.drive.faults().next(Kind::Part, Fault::CutBody(unit + 100));
    let cut = Call::new("PUT", &session).header("content-range", &whole).body(vec![1; total]);
    assert!(cut.try_go().is_err());
    assert_eq!(arrived(&session), format!("bytes=0-{}", unit - 1));

    // The token expires between two parts; the parts that have arrived stay.
    client.drive.clock().advance(Duration::from_secs(3600));
    assert_eq!(reason(&client.part(&session, &rest, vec![1; unit]).expect(401)), "authError");
    let again = Call::new("PUT", &session).bearer(&client.drive.oauth().grant(&[SCOPE_FILE]).access);
    let _ = again.header("content-range", &rest).body(vec![1; unit]).go().expect(200);
}

#[test]
fn sessions_end() {
    let client = Client::new();
    let total = 512 * KIB;
    let status = |session: &str| Call::new("PUT", session).header("content-range", format!("bytes */{total}")).go();
    let old = client.begin("old");
    assert_eq!(client.drive.open_sessions(), 1);
    client.drive.clock().advance(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(status(&old).status, 404);
    let client = Client::new();
    let given_up = client.begin("given up");
    assert_eq!(Call::new("DELETE", &given_up).go().status, 499);
    assert_eq!(status(&given_up).status, 404);
    client.drive.faults().next(Kind::UploadStatus, Fault::status(410));
    assert_eq!(status(&client.begin("gone")).status, 410);
}

#[test]
fn limits_are_refused_as_documented() {
    let client = Client::new();
    let faults = client.drive.faults();
    for (fault, status, name) in [
        (refusals::user_rate_limit(), 403, "userRateLimitExceeded"),
        (refusals::rate_limit(), 403, "rateLimitExceeded"),
        (refusals::daily_limit(), 403, "dailyLimitExceeded"),
        (refusals::too_many_requests(3), 429, "rateLimitExceeded"),
        (refusals::backend(502), 502, "backendError"),
        (refusals::unauthorized(), 401, "authError"),
    ] {
        faults.next(Kind::List, fault);
        let refused = client.files("GET", "").go().expect(status);
        assert_eq!(reason(&refused), name);
        assert_eq!(refused.header("retry-after"), if status == 429 { "3" } else { "" });
    }
    assert_eq!(client.files("GET", "").go().status, 200);
}

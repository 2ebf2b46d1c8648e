//! OneDrive, request by request.

use larder_test_servers::{
    http::{Answer, Call},
    mock::{
        Fault, Graph, Kind,
        graph::{SCOPE_ALL, SCOPE_APP_FOLDER, refusals},
        hashes,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

const UNIT: usize = 320 * 1024;

struct Client {
    graph: Graph,
    token: String,
}

impl Client {
    fn new() -> Self {
        let graph = Graph::start();
        let token = graph.oauth().grant(&[SCOPE_ALL]).access;
        Self { graph, token }
    }

    fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}/me/drive{path}", self.graph.base())).bearer(&self.token)
    }

    fn folder(&self, parent: &str, name: &str) -> Answer {
        self.call("POST", &format!("{parent}/children")).json(&json!({"name": name, "folder": {}})).go()
    }

    fn put(&self, path: &str, bytes: &'static str) -> Answer {
        self.call("PUT", &format!("/root:/{path}:/content")).body(bytes).go()
    }

    fn begin(&self, path: &str, item: Value) -> Answer {
        self.call("POST", &format!("/root:/{path}:/createUploadSession")).json(&json!({"item": item})).go()
    }
}

/// A fragment, without a token as documented.
fn fragment(url: &str, range: std::ops::Range<usize>, total: usize) -> Answer {
    let bytes = vec![(range.start / UNIT) as u8; range.len()];
    let range = format!("bytes {}-{}/{total}", range.start, range.end - 1);
    Call::new("PUT", url).header("content-range", range).body(bytes).go()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn code(answer: &Answer) -> String {
    text(&answer.json()["error"]["code"])
}

#[test]
fn items_are_made_read_changed_and_deleted() {
    let client = Client::new();
    let folder = client.folder("/root", "küche").expect(201).json();
    assert_eq!(folder["folder"]["childCount"], 0);
    let made = client.put("k%C3%BCche/a.txt", "hello").expect(201).json();
    assert_eq!((&made["size"], &made["name"]), (&5.into(), &"a.txt".into()));
    assert_eq!(made["file"]["hashes"]["quickXorHash"], hashes::quick_xor_base64(b"hello"));
    assert_eq!(made["parentReference"]["path"], "/drive/root:/k%C3%BCche");
    assert_eq!(client.put("k%C3%BCche/a.txt", "other").expect(200).json()["id"], made["id"]);
    let id = text(&made["id"]);
    let stat = client.call("GET", "/root:/k%C3%BCche/A.TXT").go().expect(200);
    assert_eq!(stat.json()["id"], made["id"], "names are the same in any case");
    assert_eq!(
        client.call("GET", &format!("/items/{id}")).header("if-none-match", stat.header("etag")).go().status,
        304
    );
    let moved = json!({"name": "b.txt", "parentReference": {"id": "root"}, "fileSystemInfo": {"lastModifiedDateTime": "2020-01-01T00:00:00Z"}});
    let moved = client.call("PATCH", &format!("/items/{id}")).json(&moved).go().expect(200).json();
    assert_eq!(moved["fileSystemInfo"]["lastModifiedDateTime"], "2020-01-01T00:00:00Z");
    assert_eq!((moved["cTag"] == made["cTag"], client.graph.bytes("b.txt").unwrap()), (false, "other".into()));
    let copy = client.call("POST", &format!("/items/{id}/copy")).json(&json!({"name": "c.txt"})).go().expect(202);
    assert_eq!(Call::new("GET", copy.header("location")).go().expect(200).json()["status"], "completed");
    assert_eq!(client.graph.bytes("c.txt").unwrap(), "other");
    assert_eq!(client.call("DELETE", &format!("/items/{id}")).go().status, 204);
    assert_eq!(code(&client.call("GET", "/root:/b.txt").go().expect(404)), "itemNotFound");
    // A folder goes with what is in it, and cannot go into itself.
    let outer = text(&client.folder("/root", "outer").json()["id"]);
    let inner = text(&client.folder("/root:/outer:", "inner").json()["id"]);
    let into_itself = json!({"parentReference": {"id": inner}});
    assert_eq!(client.call("PATCH", &format!("/items/{outer}")).json(&into_itself).go().status, 404);
    let _ = client.call("DELETE", "/root:/outer").go().expect(204);
    assert_eq!(client.call("GET", &format!("/items/{inner}")).go().status, 404);
    assert_eq!(client.put("nowhere/a", "x").status, 404);
    assert_eq!(code(&client.put("a%3Ab", "x").expect(400)), "invalidRequest");
}

#[test]
fn bytes_come_from_another_host_without_a_token() {
    let client = Client::new();
    let _ = client.put("a", "hello").expect(201);
    let redirect = client.call("GET", "/root:/a:/content").go().expect(302);
    let url = redirect.header("location").to_owned();
    let authority = |url: &str| url.split('/').nth(2).unwrap().to_owned();
    assert_ne!(authority(&url), authority(&client.graph.base()));
    let fetch = |range: &str| Call::new("GET", &url).header("range", range).go();
    assert_eq!(Call::new("GET", &url).go().expect(200).body, "hello");
    let part = fetch("bytes=1-3").expect(206);
    assert_eq!((part.body.as_ref(), part.header("content-range")), (&b"ell"[..], "bytes 1-3/5"));
    assert_eq!(fetch("bytes=9-").expect(416).header("content-range"), "bytes */5");
    assert_eq!(Call::new("GET", &url).bearer(&client.token).go().status, 401);
    let leaks: Vec<_> = client.graph.log().of(Kind::Download).iter().map(|entry| entry.authorized).collect();
    assert_eq!(leaks, [false, false, false, true], "the log shows the token that leaked");
    client.graph.clock().advance(Duration::from_secs(3600));
    assert_eq!(Call::new("GET", &url).go().status, 404);
}

#[test]
fn listings_come_in_pages() {
    let client = Client::new();
    client.graph.set_page_limit(2);
    for name in ["c", "a", "b", "D", "e"] {
        let _ = client.put(name, "x").expect(201);
    }
    let mut url = format!("{}/me/drive/root/children?$top=100&$select=name", client.graph.base());
    let mut names = Vec::new();
    loop {
        let page = Call::new("GET", &url).bearer(&client.token).go().expect(200).json();
        names.extend(page["value"].as_array().unwrap().iter().cloned());
        match page["@odata.nextLink"].as_str() {
            Some(next) => url = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "D", "e"].map(|name| json!({"name": name})));
    assert_eq!(client.graph.log().of(Kind::List).len(), 3);
}

#[test]
fn changes_are_followed() {
    let client = Client::new();
    let get = |url: &str| Call::new("GET", url).bearer(&client.token).go().expect(200).json();
    let latest = get(&format!("{}/me/drive/root/delta?token=latest", client.graph.base()));
    let kept = client.put("kept", "x").json();
    let gone = client.put("gone", "x").json();
    let _ = client.call("DELETE", "/root:/gone").go().expect(204);
    let changes = get(&text(&latest["@odata.deltaLink"]));
    assert_eq!(changes["value"][0]["id"], kept["id"]);
    assert_eq!(changes["value"][1], json!({"id": gone["id"], "deleted": {"state": "deleted"}}));
    assert_eq!(get(&text(&changes["@odata.deltaLink"]))["value"], json!([]));
    assert_eq!(client.call("GET", "/root/delta?token=999").go().status, 410);
}

#[test]
fn conflicts_are_settled_as_asked() {
    let client = Client::new();
    let put = |behaviour: &str| {
        client
            .call("PUT", &format!("/root:/a.txt:/content?@microsoft.graph.conflictBehavior={behaviour}"))
            .body("new")
            .go()
    };
    let _ = client.put("a.txt", "old").expect(201);
    assert_eq!(code(&put("fail").expect(409)), "nameAlreadyExists");
    assert_eq!(put("rename").expect(201).json()["name"], "a 1.txt");
    assert_eq!(client.graph.bytes("a.txt").unwrap(), "old");
    let _ = put("replace").expect(200);
    assert_eq!(put("whatever").status, 400);
    assert_eq!(client.folder("/root", "A.TXT").status, 409);
    let _ = client.put("b.txt", "x").expect(201);
    let taken = client.call("PATCH", "/root:/b.txt").json(&json!({"name": "a.txt"})).go();
    assert_eq!(taken.status, 409);
}

#[test]
fn tags_guard_changes() {
    let client = Client::new();
    let tag = client.put("a", "1").header("etag").to_owned();
    let put = |name: &str, tag: &str| client.call("PUT", "/root:/a:/content").header(name, tag).body("2").go().status;
    assert_eq!(put("if-none-match", "*"), 412);
    assert_eq!(put("if-match", &tag), 200);
    assert_eq!(put("if-match", &tag), 412, "the tag is of the version before");
    assert_eq!(client.call("DELETE", "/root:/a").header("if-match", &tag).go().status, 412);
    let session = client.call("POST", "/root:/a:/createUploadSession").header("if-match", &tag).go();
    assert_eq!(session.status, 412);
    assert_eq!(client.call("PUT", "/root:/new:/content").header("if-none-match", "*").body("x").go().status, 201);
}

#[test]
fn locked_files_stay_as_they_are() {
    let client = Client::new();
    let _ = client.put("a", "1").expect(201);
    assert!(client.graph.set_locked("a", true));
    assert_eq!(code(&client.put("a", "2").expect(423)), "resourceLocked");
    assert_eq!(client.call("DELETE", "/root:/a").go().status, 423);
    assert_eq!(client.call("PATCH", "/root:/a").json(&json!({"name": "b"})).go().status, 423);
    assert_eq!(client.begin("a", json!({"@microsoft.graph.conflictBehavior": "replace"})).status, 423);
    assert!(client.graph.set_locked("a", false));
    let _ = client.put("a", "2").expect(200);
}

#[test]
fn the_quota_holds() {
    let client = Client::new();
    client.graph.set_quota(8);
    let _ = client.put("a", "12345").expect(201);
    let about = client.call("GET", "").go().expect(200).json();
    let quota = &about["quota"];
    assert_eq!((&quota["total"], &quota["used"], &quota["remaining"]), (&8.into(), &5.into(), &3.into()));
    assert_eq!(code(&client.put("b", "12345").expect(507)), "quotaLimitReached");
    assert_eq!(client.begin("b", json!({"fileSize": 4})).status, 507);
}

#[test]
fn a_large_file_is_uploaded_in_fragments() {
    let client = Client::new();
    let total = 2 * UNIT + 5;
    let session = client.begin("large", json!({})).expect(200).json();
    let url = text(&session["uploadUrl"]);
    assert_eq!(session["nextExpectedRanges"], json!(["0-"]));
    assert_eq!(fragment(&url, 0..1000, total).status, 400, "no multiple of 320 KiB");
    assert_eq!(fragment(&url, UNIT..2 * UNIT, total).status, 416, "not the next");
    let with_token = Call::new("PUT", &url).bearer(&client.token).header("content-range", format!("bytes 0-4/{total}"));
    assert_eq!(with_token.body("12345").go().status, 401);
    let first = fragment(&url, 0..UNIT, total).expect(202).json();
    assert_eq!(first["nextExpectedRanges"], json!([format!("{UNIT}-")]));
    assert!(first["expirationDateTime"].is_string());
    assert_eq!(fragment(&url, 0..UNIT, total).status, 416, "received already");
    assert_eq!(fragment(&url, UNIT..2 * UNIT, total + 1).status, 400, "another total");
    let status = Call::new("GET", &url).go().expect(200).json();
    assert_eq!(status["nextExpectedRanges"], json!([format!("{UNIT}-")]));
    let _ = fragment(&url, UNIT..2 * UNIT, total).expect(202);
    let done = fragment(&url, 2 * UNIT..total, total).expect(201).json();
    assert_eq!(done["size"], total);
    assert_eq!(client.graph.bytes("large").unwrap()[UNIT - 1..=UNIT], [0, 1]);
    assert_eq!(Call::new("GET", &url).go().status, 404, "the session ended");
    assert_eq!(client.graph.open_sessions(), 0);
    // A replacement is answered with 200.
    let url = text(
        &client.begin("large", json!({"@microsoft.graph.conflictBehavior": "replace"})).expect(200).json()["uploadUrl"],
    );
    let _ = fragment(&url, 0..7, 7).expect(200);
    assert_eq!(client.graph.bytes("large").unwrap().len(), 7);
}

#[test]
fn an_upload_survives_what_befalls_it() {
    let client = Client::new();
    let total = 2 * UNIT;
    let next = |url: &str| Call::new("GET", url).go().expect(200).json()["nextExpectedRanges"][0].clone();
    let url = text(&client.begin("a", json!({})).json()["uploadUrl"]);
    client.graph.faults().next(Kind::Part, Fault::KeepOnly(UNIT + 5));
    assert_eq!(fragment(&url, 0..total, total).expect(202).json()["nextExpectedRanges"], json!([format!("{UNIT}-")]));
    client.graph.faults().next(Kind::Part, Fault::CutBody(1000));
    let cut = Call::new("PUT", &url)
        .header("content-range", format!("bytes {UNIT}-{}/{total}", total - 1))
        .body(vec![1; UNIT]);
    assert!(cut.try_go().is_err());
    assert_eq!(next(&url), format!("{UNIT}-"));
    // The answer to the last fragment is lost; the file is there.
    client.graph.faults().next(Kind::Part, Fault::ResetAfterwards);
    let last = Call::new("PUT", &url)
        .header("content-range", format!("bytes {UNIT}-{}/{total}", total - 1))
        .body(vec![1; UNIT]);
    assert!(last.try_go().is_err());
    assert_eq!(Call::new("GET", &url).go().status, 404);
    assert_eq!(client.graph.bytes("a").unwrap().len(), total);
}

#[test]
fn sessions_end() {
    let client = Client::new();
    let url = text(&client.begin("a", json!({})).json()["uploadUrl"]);
    assert_eq!(Call::new("DELETE", &url).go().status, 204);
    assert_eq!(fragment(&url, 0..5, 5).status, 404);
    let url = text(&client.begin("a", json!({})).json()["uploadUrl"]);
    // Somebody else takes the name meanwhile.
    let _ = client.put("a", "x").expect(201);
    assert_eq!(code(&fragment(&url, 0..5, 5).expect(409)), "nameAlreadyExists");
    assert_eq!(client.begin("a", json!({})).status, 409);
    let url = text(&client.begin("b", json!({})).json()["uploadUrl"]);
    client.graph.clock().advance(Duration::from_secs(24 * 3600));
    assert_eq!(fragment(&url, 0..5, 5).status, 404);
}

#[test]
fn a_client_is_confined_to_its_folder() {
    let mut client = Client::new();
    let _ = client.put("outside", "x").expect(201);
    client.token = client.graph.oauth().grant(&[SCOPE_APP_FOLDER]).access;
    assert_eq!(code(&client.call("GET", "/root:/outside").go().expect(403)), "accessDenied");
    let _ = client.call("PUT", "/special/approot:/a:/content").body("x").go().expect(201);
    let listed = client.call("GET", "/special/approot/children").go().expect(200).json();
    assert_eq!(listed["value"][0]["name"], "a");
    let inside = text(&listed["value"][0]["id"]);
    let _ = client.call("GET", &format!("/items/{inside}")).go().expect(200);
    client.token = client.graph.oauth().grant(&["User.Read"]).access;
    assert_eq!(client.call("GET", "/special/approot").go().status, 403);
    client.token = "void".to_owned();
    assert_eq!(code(&client.call("GET", "").go().expect(401)), "InvalidAuthenticationToken");
}

#[test]
fn limits_are_refused_as_documented() {
    let client = Client::new();
    for (fault, status, name) in [
        (refusals::throttled(7), 429, "activityLimitReached"),
        (refusals::unavailable(7), 503, "serviceNotAvailable"),
        (refusals::internal(500), 500, "generalException"),
        (refusals::unauthorized(), 401, "InvalidAuthenticationToken"),
    ] {
        client.graph.faults().next(Kind::About, fault);
        let refused = client.call("GET", "").go().expect(status);
        assert_eq!(code(&refused), name);
        assert_eq!(refused.header("retry-after"), if [429, 503].contains(&status) { "7" } else { "" });
    }
}

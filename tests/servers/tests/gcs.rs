//! Google Cloud Storage, as far as the mock goes.

use larder_test_servers::{
    http::{Answer, Call, encode},
    mock::{Fault, Gcs, Kind, hashes},
};
use serde_json::{Value, json};
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

struct Client {
    gcs: Gcs,
    bucket: String,
    token: String,
}

impl Client {
    fn new() -> Self {
        let gcs = Gcs::start();
        let (bucket, token) = (gcs.bucket(), gcs.renew_token());
        Self { gcs, bucket, token }
    }

    fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, format!("{}{path}", self.gcs.endpoint())).bearer(&self.token)
    }

    fn upload(&self, kind: &str, name: &str, more: &str) -> Call {
        let name = encode(name);
        self.call("POST", &format!("/upload/storage/v1/b/{}/o?uploadType={kind}&name={name}{more}", self.bucket))
    }

    fn object(&self, method: &str, name: &str, query: &str) -> Call {
        self.call(method, &format!("/storage/v1/b/{}/o/{}{query}", self.bucket, encode(name)))
    }

    fn xml(&self, method: &str, name: &str, query: &str) -> Call {
        self.call(method, &format!("/{}/{name}{query}", self.bucket))
    }

    fn list(&self, query: &str) -> Value {
        self.call("GET", &format!("/storage/v1/b/{}/o?{query}", self.bucket)).go().expect(200).json()
    }
}

fn inside(answer: &Answer, tag: &str) -> String {
    let text = answer.text();
    text.split(&format!("<{tag}>")).nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default().to_owned()
}

#[test]
fn objects_are_put_read_and_deleted() {
    let client = Client::new();
    let put = client.upload("media", "a/ü", "").body("hello").go().expect(200).json();
    assert_eq!((&put["name"], &put["size"]), (&"a/ü".into(), &"5".into()));
    assert_eq!(put["md5Hash"], hashes::md5_base64(b"hello"));
    assert_eq!(put["crc32c"], hashes::crc32c_base64(b"hello"));
    assert_eq!(client.object("GET", "a/ü", "").go().expect(200).json(), put);
    let part = client.object("GET", "a/ü", "?alt=media").header("range", "bytes=1-3").go().expect(206);
    assert_eq!((part.body.as_ref(), part.header("content-range")), (&b"ell"[..], "bytes 1-3/5"));
    assert_eq!(client.object("GET", "a/ü", "?alt=media").header("range", "bytes=5-").go().status, 416);
    let head = "--b\r\nContent-Type: application/json\r\n\r\n{\"metadata\":{\"k\":\"v\"}}\r\n--b\r\nContent-Type: a/b\r\n\r\nhi\r\n--b--";
    let related =
        client.upload("multipart", "m", "").header("content-type", "multipart/related; boundary=b").body(head);
    assert_eq!(related.go().expect(200).json()["metadata"], json!({"k": "v"}));
    let path = format!("/rewriteTo/b/{}/o/copy", client.bucket);
    assert_eq!(client.object("POST", "m", &path).go().expect(200).json()["done"], true);
    assert_eq!(client.gcs.bytes(&client.bucket, "copy").unwrap(), "hi");
    assert_eq!(client.object("DELETE", "m", "").go().status, 204);
    assert_eq!(client.object("DELETE", "m", "").go().status, 404);
    assert_eq!(client.call("GET", "/storage/v1/b/none/o").go().status, 404);
    assert_eq!(
        Call::new("GET", format!("{}/storage/v1/b/{}/o", client.gcs.endpoint(), client.bucket)).go().status,
        401
    );
    // The XML API has the same objects.
    assert_eq!(client.xml("GET", "a/%C3%BC", "").go().expect(200).body, "hello");
    let _ = client.xml("PUT", "x", "").body("xml").go().expect(200);
    assert_eq!(client.gcs.bytes(&client.bucket, "x").unwrap(), "xml");
    let _ = client.gcs.renew_token();
    assert_eq!(client.object("GET", "x", "").go().status, 401);
}

#[test]
fn if_absent_holds_for_every_kind_of_upload() {
    let client = Client::new();
    let media = || client.upload("media", "a", "&ifGenerationMatch=0").body("1").go();
    let generation = media().expect(200).json()["generation"].as_str().unwrap().to_owned();
    assert_eq!(media().expect(412).json()["error"]["errors"][0]["reason"], "conditionNotMet");
    let only_this = |generation: &str| {
        client.upload("media", "a", &format!("&ifGenerationMatch={generation}")).body("2").go().status
    };
    assert_eq!((only_this(&generation), only_this(&generation)), (200, 412));
    assert_eq!(client.upload("resumable", "a", "&ifGenerationMatch=0").go().status, 412, "at the beginning");
    let session =
        client.upload("resumable", "b", "&ifGenerationMatch=0").go().expect(200).header("location").to_owned();
    let _ = client.upload("media", "b", "").body("first").go().expect(200);
    assert_eq!(Call::new("PUT", &session).body("second").go().status, 412, "at the end");
    assert_eq!(client.xml("PUT", "a", "").header("x-goog-if-generation-match", "0").body("3").go().status, 412);
    let upload = inside(&client.xml("POST", "a", "?uploads").go().expect(200), "UploadId");
    let part = client.xml("PUT", "a", &format!("?partNumber=1&uploadId={upload}")).body("3").go().expect(200);
    let list = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag")
    );
    let complete = client.xml("POST", "a", &format!("?uploadId={upload}")).body(list);
    assert_eq!(complete.clone().header("x-goog-if-generation-match", "0").go().status, 412);
    assert_eq!(client.object("DELETE", "a", &format!("?ifGenerationMatch={generation}")).go().status, 412);
    assert_eq!(client.gcs.bytes(&client.bucket, "a").unwrap(), "2");
    let _ = complete.go().expect(200);
    assert_eq!(client.gcs.bytes(&client.bucket, "a").unwrap(), "3");
}

#[test]
fn listings_have_prefixes_and_pages() {
    let client = Client::new();
    for name in ["a/1", "a/2", "b", "c/1", "d"] {
        let _ = client.upload("media", name, "").body("x").go().expect(200);
    }
    let names =
        |list: &Value| list["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect::<Vec<_>>();
    let top = client.list("delimiter=/");
    assert_eq!((names(&top), &top["prefixes"]), (vec!["b".into(), "d".into()], &json!(["a/", "c/"])));
    assert_eq!(names(&client.list("prefix=a/&delimiter=/")), ["a/1", "a/2"]);
    assert_eq!(names(&client.list("startOffset=b")), ["b", "c/1", "d"]);
    let first = client.list("maxResults=3");
    let second = client.list(&format!("maxResults=3&pageToken={}", first["nextPageToken"].as_str().unwrap()));
    assert_eq!([names(&first), names(&second)].concat(), ["a/1", "a/2", "b", "c/1", "d"]);
    assert_eq!(second.get("nextPageToken"), None);
}

#[test]
fn a_resumable_upload_is_asked_and_resumed() {
    let client = Client::new();
    let (unit, total) = (256 * KIB, 512 * KIB + 3);
    let session = client.upload("resumable", "large", "").json(&json!({"contentType": "a/b"})).go().expect(200);
    let session = session.header("location").to_owned();
    let part =
        |range: String, bytes: Vec<u8>| Call::new("PUT", &session).header("content-range", range).body(bytes).go();
    let status = || part(format!("bytes */{total}"), vec![]);
    assert_eq!(part(format!("bytes 0-99/{total}"), vec![1; 100]).status, 400);
    client.gcs.faults().next(Kind::Part, Fault::KeepOnly(unit));
    let short = part(format!("bytes 0-{}/{total}", 2 * unit - 1), vec![1; 2 * unit]).expect(308);
    assert_eq!(short.header("range"), format!("bytes=0-{}", unit - 1));
    // Asking finishes nothing.
    assert_eq!(status().expect(308).header("range"), format!("bytes=0-{}", unit - 1));
    assert_eq!(client.gcs.bytes(&client.bucket, "large"), None);
    let done = part(format!("bytes {unit}-{}/{total}", total - 1), vec![2; total - unit]).expect(200).json();
    assert_eq!((&done["size"], &done["contentType"]), (&total.to_string().into(), &"a/b".into()));
    assert_eq!(client.gcs.bytes(&client.bucket, "large").unwrap()[unit - 1..=unit], [1, 2]);
    assert_eq!(status().expect(200).json()["generation"], done["generation"]);
    let given_up = client.upload("resumable", "x", "").go().header("location").to_owned();
    assert_eq!(Call::new("DELETE", &given_up).go().status, 499);
    let old = client.upload("resumable", "x", "").go().header("location").to_owned();
    client.gcs.clock().advance(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(Call::new("PUT", &old).body("x").go().status, 410);
}

#[test]
fn a_multipart_upload_is_completed_or_leaves_nothing() {
    let client = Client::new();
    let begin = || inside(&client.xml("POST", "big", "?uploads").go().expect(200), "UploadId");
    let put = |upload: &str, number: usize, len: usize| {
        let query = format!("?partNumber={number}&uploadId={upload}");
        client.xml("PUT", "big", &query).body(vec![number as u8; len]).go()
    };
    let complete = |upload: &str, parts: &[(usize, String)]| {
        let part = |(number, etag): &(usize, String)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", etag.replace('"', "&quot;"))
        };
        let list: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        client.xml("POST", "big", &format!("?uploadId={upload}")).body(body).go()
    };
    let upload = begin();
    let etag = |number, len| put(&upload, number, len).expect(200).header("etag").to_owned();
    // In any order, the last may be small.
    let (third, first, second) = (etag(3, 7), etag(1, 5 * MIB), etag(2, 5 * MIB));
    assert_eq!(client.gcs.bytes(&client.bucket, "big"), None);
    assert!(
        client.xml("GET", "big", &format!("?uploadId={upload}")).go().expect(200).text().contains("<Size>7</Size>")
    );
    let code = |answer: &Answer| inside(answer, "Code");
    assert_eq!(code(&complete(&upload, &[(1, first.clone()), (2, third.clone())]).expect(400)), "InvalidPart");
    assert_eq!(code(&complete(&upload, &[(2, second.clone()), (1, first.clone())]).expect(400)), "InvalidPartOrder");
    assert_eq!(code(&complete(&upload, &[]).expect(400)), "InvalidPartOrder");
    let _ = complete(&upload, &[(1, first), (2, second), (3, third)]).expect(200);
    let bytes = client.gcs.bytes(&client.bucket, "big").unwrap();
    assert_eq!((bytes.len(), bytes[5 * MIB], bytes[10 * MIB]), (10 * MIB + 7, 2, 3));
    let stat = client.object("GET", "big", "").go().expect(200).json();
    assert_eq!(stat.get("md5Hash"), None, "of several parts");
    let small = begin();
    let parts = [1, 2].map(|number| (number, put(&small, number, 9).header("etag").to_owned()));
    assert_eq!(code(&complete(&small, &parts).expect(400)), "EntityTooSmall");
    assert_eq!(client.gcs.open_uploads(), 1);
    assert_eq!(client.xml("DELETE", "big", &format!("?uploadId={small}")).go().status, 204);
    assert_eq!(client.gcs.open_uploads(), 0);
    assert_eq!(code(&put(&small, 3, 1).expect(404)), "NoSuchUpload");
}

#[test]
fn several_are_deleted_at_once() {
    let client = Client::new();
    let _ = client.upload("media", "a", "").body("x").go().expect(200);
    let one = |id: usize, name: &str| {
        format!(
            "--b\r\ncontent-type: application/http\r\ncontent-id: {id}\r\n\r\nDELETE /storage/v1/b/{}/o/{name} HTTP/1.1\r\n\r\n\r\n",
            client.bucket
        )
    };
    let body = format!("{}{}--b--", one(0, "a"), one(1, "none"));
    let answer =
        client.call("POST", "/batch/storage/v1").header("content-type", "multipart/mixed; boundary=b").body(body).go();
    let text = answer.expect(200).text();
    assert_eq!((text.matches("204 No Content").count(), text.matches("404 Not Found").count()), (1, 1), "{text}");
    assert_eq!(client.gcs.bytes(&client.bucket, "a"), None);
}

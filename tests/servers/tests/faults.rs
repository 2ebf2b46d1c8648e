//! Each fault does to a client what it says, and the log tells.

use larder_test_servers::{
    http::{Answer, Call, Failure},
    mock::{Fault, Gcs, Kind},
};
use std::{error::Error, io, time::Duration};

struct Client {
    gcs: Gcs,
    url: String,
    token: String,
}

impl Client {
    /// An object of ten bytes.
    fn new() -> Self {
        let gcs = Gcs::start();
        let (bucket, token) = (gcs.bucket(), gcs.renew_token());
        let url = format!("{}/{bucket}/object", gcs.endpoint());
        let client = Self { gcs, url, token };
        let _ = client.put("0123456789").unwrap().expect(200);
        client
    }

    fn put(&self, body: &'static str) -> Result<Answer, Failure> {
        Call::new("PUT", &self.url).bearer(&self.token).body(body).try_go()
    }

    fn get(&self) -> Result<Answer, Failure> {
        Call::new("GET", &self.url).bearer(&self.token).try_go()
    }

    fn bytes(&self) -> Vec<u8> {
        self.gcs.bytes("bucket-0", "object").unwrap().to_vec()
    }
}

fn is_reset(failure: &Failure) -> bool {
    let Failure::Broken(error) = failure else { return false };
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn a_status_is_given_and_nothing_done() {
    let client = Client::new();
    client.gcs.faults().nth(Kind::Put, 2, Fault::retry_after(503, 4));
    let _ = client.put("first").unwrap().expect(200);
    let refused = client.put("second").unwrap().expect(503);
    assert_eq!(refused.header("retry-after"), "4");
    assert_eq!(client.bytes(), b"first");
    assert_eq!(client.gcs.faults().outstanding(), 0);
    let statuses: Vec<_> = client.gcs.log().of(Kind::Put).iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [Some(200), Some(200), Some(503)]);
}

#[test]
fn a_reset_is_one_before_and_after_the_work() {
    let client = Client::new();
    client.gcs.faults().next(Kind::Put, Fault::Reset);
    assert!(is_reset(&client.put("lost").unwrap_err()));
    assert_eq!(client.bytes(), b"0123456789");
    client.gcs.faults().next(Kind::Put, Fault::ResetAfterwards);
    assert!(is_reset(&client.put("done").unwrap_err()));
    assert_eq!(client.bytes(), b"done");
    let last = client.gcs.log().all().pop().unwrap();
    assert_eq!((last.status, last.fault), (None, Some(Fault::ResetAfterwards)));
    client.gcs.faults().next(Kind::Put, Fault::CutBody(2));
    assert!(client.put("only a part").is_err());
    assert_eq!(client.bytes(), b"done");
}

#[test]
fn an_answer_is_truncated_stalled_hung_or_wrong() {
    let client = Client::new();
    let next = |fault| client.gcs.faults().next(Kind::Download, fault);
    next(Fault::Truncate(4));
    let truncated = client.get().unwrap_err();
    assert!(matches!(&truncated, Failure::Truncated { status: 200, body } if body == "0123"), "{truncated:?}");
    next(Fault::WrongBytes);
    let wrong = client.get().unwrap().expect(200);
    assert_eq!(wrong.body, "0123446789");
    for silent in [Fault::Stall(4), Fault::Hang] {
        next(silent);
        let impatient = Call::new("GET", &client.url).bearer(&client.token).patience(Duration::from_millis(300));
        assert!(matches!(impatient.try_go(), Err(Failure::Late)));
    }
    assert_eq!(client.get().unwrap().body, "0123456789");
}

#[test]
fn a_client_that_goes_away_in_the_middle_changes_nothing() {
    use std::{io::Write, net::TcpStream};
    let client = Client::new();
    let host = client.gcs.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&host).unwrap();
    let head = format!(
        "PUT /bucket-0/object HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\n\r\nhalf",
        client.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    // Its request is on record once the mock has noticed.
    while client.gcs.log().of(Kind::Put).len() < 2 {
        std::thread::yield_now();
    }
    let entry = client.gcs.log().of(Kind::Put).pop().unwrap();
    assert_eq!((entry.body_len, entry.status), (4, None));
    assert_eq!(client.bytes(), b"0123456789");
}

#[tokio::test]
async fn mocks_serve_async_tests_and_end_when_dropped() {
    let client = Client::new();
    let call = || Call::new("GET", &client.url).bearer(&client.token);
    assert_eq!(call().send().await.unwrap().body, "0123456789");
    // Also from a blocking call inside a runtime.
    assert_eq!(client.get().unwrap().body, "0123456789");
    let again = call();
    drop(client.gcs);
    assert!(matches!(again.send().await, Err(Failure::Connect(_))));
}

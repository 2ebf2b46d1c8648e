//! A bucket of a real S3 server, for stories about clouds.

use larder_test_servers::{
    mock::{Kind, Protocol, Proxy},
    servers::SeaweedS3,
};
use larder_tests::Node;
use std::collections::BTreeSet;

/// A bucket that is reached by way of a proxy, which sees every request.
pub(crate) struct Bucket {
    pub(crate) server: SeaweedS3,
    pub(crate) proxy: Proxy,
    name: String,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        let server = SeaweedS3::start();
        let proxy = Proxy::start(Protocol::S3, server.endpoint());
        let name = server.bucket();
        Self { server, proxy, name }
    }

    pub(crate) fn address(&self) -> String {
        self.address_at("some/prefix")
    }

    /// An address of its own.
    pub(crate) fn address_at(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.name)
    }

    /// The setting that leads to the proxy.
    pub(crate) fn endpoint(&self) -> String {
        format!("endpoint={}", self.proxy.endpoint())
    }

    /// The credential, as it is given on stdin.
    pub(crate) fn credential(&self) -> String {
        let (id, secret) = (self.server.access_key(), self.server.secret_key());
        format!("access_key_id={id}\nsecret_access_key={secret}\n")
    }

    /// Gives a device the group's profile, unless it has it, and a credential of its own.
    pub(crate) fn profile(&self, node: &Node, add: bool) {
        if add {
            let endpoint = self.endpoint();
            let profile = ["profile", "add", "archive", "--provider", "s3", "--encrypted", "--chunked"];
            node.ok(profile.iter().chain(&["--set", &endpoint]));
        }
        node.command(["credential", "set", "archive"]).stdin(self.credential()).run().expect(0);
    }

    /// The keys of all objects that were put for good, one for each time.
    pub(crate) fn puts(&self) -> Vec<String> {
        let done = self.proxy.log().of(Kind::Put).into_iter().filter(|entry| entry.status == Some(200));
        done.map(|entry| entry.target).filter(|target| target.contains("/objects/")).collect()
    }

    /// Bytes that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.proxy.log().all().iter().map(|entry| entry.body_len).sum()
    }

    #[track_caller]
    pub(crate) fn put_nothing_twice(&self) {
        let puts = self.puts();
        assert_eq!(puts.iter().collect::<BTreeSet<_>>().len(), puts.len(), "{puts:#?}");
    }

    /// Keys of the location that begin with `prefix`, and their sizes, in order of size.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<(String, usize)> {
        let query = format!("list-type=2&prefix=some%2Fprefix%2F{}", prefix.replace('/', "%2F"));
        let answer = self.server.call("GET", &format!("/{}", self.name), &query, "").go();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        let between = |text: &str, from: &str, to: &str| {
            let (_, rest) = text.split_once(from)?;
            Some(rest.split_once(to)?.0.to_owned())
        };
        let objects = text.split("<Contents>").skip(1).map(|item| {
            let key = between(item, "<Key>some/prefix/", "</Key>").expect("a key");
            (key, between(item, "<Size>", "</Size>").expect("a size").parse().expect("a number"))
        });
        let mut objects: Vec<(String, usize)> = objects.collect();
        objects.sort_by_key(|(_, size)| *size);
        objects
    }

    fn path(&self, key: &str) -> String {
        format!("/{}/some/prefix/{key}", self.name)
    }

    pub(crate) fn read(&self, key: &str) -> Vec<u8> {
        let answer = self.server.call("GET", &self.path(key), "", "").go();
        assert_eq!(answer.status, 200, "{key}");
        answer.body.to_vec()
    }

    /// Puts other bytes in an object's place, as the owner of the storage could.
    pub(crate) fn replace(&self, key: &str, bytes: Vec<u8>) {
        assert_eq!(self.server.call("PUT", &self.path(key), "", bytes).go().status, 200, "{key}");
    }

    pub(crate) fn delete(&self, key: &str) {
        assert_eq!(self.server.call("DELETE", &self.path(key), "", "").go().status, 204, "{key}");
    }
}

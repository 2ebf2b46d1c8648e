//! The providers of clouds, opened through the registry by their settings, against real servers and our mocks.
//!
//! `larder-test-servers` starts them on loopback and says where each is unfaithful. One server serves a whole module; each
//! test has a bucket or folder of its own.

mod accounts;
mod faults;
mod gcs;
mod s3;
mod sftp;
mod webdav;

use bytes::Bytes;
use futures::FutureExt;
use larder_node::storage::{
    Credential, ProviderConfig, Registry, StorageProvider,
    conformance::{self, Fetch},
};
use std::{collections::BTreeMap, sync::Arc};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Opens a storage as the node does.
fn open(provider: &str, config: &[(&str, &str)], credential: &[(&str, &str)]) -> Arc<dyn StorageProvider> {
    open_with(provider, &map(config), &Credential::new(map(credential)))
}

fn open_with(provider: &str, config: &ProviderConfig, credential: &Credential) -> Arc<dyn StorageProvider> {
    Registry::built_in().create(provider, config, credential).unwrap()
}

/// Reads an address as a stranger does.
fn stranger() -> Box<Fetch> {
    let client = reqwest::Client::new();
    Box::new(move |url: &str, range| {
        let mut request = client.get(url);
        if let Some(range) = range {
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        async move {
            match request.send().await {
                Ok(answer) => (answer.status().as_u16(), answer.bytes().await.unwrap_or_default()),
                Err(error) => (0, Bytes::from(error.to_string())),
            }
        }
        .boxed()
    })
}

async fn conforms(storage: &dyn StorageProvider, without: &[&str]) {
    let fetch = stranger();
    let report = conformance::run_some(storage, Some(&*fetch), without).await;
    assert!(report.is_clean(), "{}: {report}", storage.name());
}

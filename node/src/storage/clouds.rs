//! The providers that the feature `clouds` brings.

use super::{
    ProviderFactory, gcs::GcsFactory, gdrive::GdriveFactory, onedrive::OnedriveFactory, s3::S3Factory,
    sftp::SftpFactory, sqlite::SqliteFactory, webdav::WebDavFactory,
};
use std::sync::Arc;

pub(super) fn factories() -> Vec<Arc<dyn ProviderFactory>> {
    vec![
        Arc::new(GcsFactory),
        Arc::new(GdriveFactory),
        Arc::new(OnedriveFactory),
        Arc::new(S3Factory),
        Arc::new(SftpFactory),
        Arc::new(SqliteFactory),
        Arc::new(WebDavFactory),
    ]
}

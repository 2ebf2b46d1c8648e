//! What must hold, judged from outside the nodes.

use larder_node::catalog::Catalog;
use larder_protocol::log::{Author, VersionVector};

/// Something that must never happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

/// An acknowledged operation survives whatever happens to its node.
pub(crate) fn nothing_acknowledged_is_lost(
    node: usize,
    catalog: &Catalog,
    author: &Author,
    acknowledged: u64,
) -> Result<(), Broken> {
    let kept =
        catalog.read().and_then(|read| read.summary()).map_err(|error| Broken(error.to_string()))?.vector.get(author);
    if kept >= acknowledged {
        Ok(())
    } else {
        Err(Broken(format!("node {node} acknowledged {acknowledged} operations and kept {kept}")))
    }
}

/// No vector accounts for operations that their author has not made.
pub(crate) fn nothing_is_invented(node: usize, catalog: &Catalog, made: &VersionVector) -> Result<(), Broken> {
    let summary = catalog.read().and_then(|read| read.summary()).map_err(|error| Broken(error.to_string()))?;
    if made.covers(&summary.vector) {
        Ok(())
    } else {
        Err(Broken(format!("node {node} accounts for operations that nobody made")))
    }
}

/// Equal vectors with nothing held give equal digests.
pub(crate) fn equal_vectors_give_equal_digests(a: (usize, &Catalog), b: (usize, &Catalog)) -> Result<(), Broken> {
    let read = |catalog: &Catalog| -> Result<_, Broken> {
        let broken = |error: larder_node::catalog::CatalogError| Broken(error.to_string());
        let read = catalog.read().map_err(broken)?;
        Ok((read.summary().map_err(broken)?, read.digest().map_err(broken)?))
    };
    let ((summary_a, digest_a), (summary_b, digest_b)) = (read(a.1)?, read(b.1)?);
    let settled = summary_a == summary_b && summary_a.held.is_empty();
    if settled && digest_a != digest_b {
        return Err(Broken(format!("nodes {} and {} have equal vectors and different digests", a.0, b.0)));
    }
    Ok(())
}

//! Listing what is kept in folders, in order of key.

use super::{Listed, ObjectKey, PAGE_MAX, Page, Pending, StorageError};
use larder_protocol::time::Timestamp;

/// What is in a folder.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) name: String,
    pub(super) folder: bool,
    pub(super) size: u64,
    pub(super) modified: Option<Timestamp>,
}

/// A storage that keeps objects in folders.
pub(super) trait Folders: Sync {
    /// What is in a folder, in any order; nothing when there is none. The root is the empty text; no `/` at the end.
    fn children<'a>(&'a self, folder: &'a str) -> Pending<'a, Vec<Child>>;
}

/// A child with its whole path, that of a folder with a `/` at its end: so they sort as the keys beneath them do.
fn sorted(folder: &str, children: Vec<Child>) -> Vec<(String, Child)> {
    let mut children: Vec<(String, Child)> = children
        .into_iter()
        .map(|child| (format!("{folder}{}{}", child.name, if child.folder { "/" } else { "" }), child))
        .collect();
    children.sort_by(|a, b| b.0.cmp(&a.0));
    children
}

/// One page of what is beneath; opens only folders in which something can be on it.
pub(super) async fn list(
    folders: &dyn Folders,
    prefix: &str,
    after: Option<&ObjectKey>,
    limit: usize,
) -> Result<Page, StorageError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let after = after.map_or("", ObjectKey::as_str);
    let top = prefix.rfind('/').map_or("", |at| &prefix[..at]);
    let slashed = if top.is_empty() { String::new() } else { format!("{top}/") };
    let mut open = vec![sorted(&slashed, folders.children(top).await?)];
    let mut objects: Vec<Listed> = Vec::new();
    while let Some(folder) = open.last_mut() {
        let Some((path, child)) = folder.pop() else {
            open.pop();
            continue;
        };
        if child.folder {
            let wanted = path.starts_with(prefix) || prefix.starts_with(&path);
            let behind = !after.starts_with(&path) && path.as_str() < after;
            if wanted && !behind {
                let children = folders.children(path.trim_end_matches('/')).await?;
                open.push(sorted(&path, children));
            }
        } else if path.starts_with(prefix)
            && path.as_str() > after
            && let Some(key) = ObjectKey::new(path)
        {
            if objects.len() == limit {
                let next = objects.last().map(|listed| listed.key.clone());
                return Ok(Page { objects, next });
            }
            objects.push(Listed { key, size: child.size, modified: child.modified });
        }
    }
    Ok(Page { objects, next: None })
}

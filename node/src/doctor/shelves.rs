//! What this device keeps while it is a vault.

use super::files;
use crate::{
    config::Home,
    shelves::{Space, Trouble, survey},
};
use larder_protocol::control::{FindingKind, FindingView};
use std::{fs, time::SystemTime};

/// Looks over the shelves of all groups; with `full` every object is read. Blocks.
pub(super) fn examine(home: &Home, space: Space, full: bool, findings: &mut Vec<FindingView>) {
    let root = home.vault();
    let groups = match fs::read_dir(&root) {
        Err(_) if !root.exists() => return,
        groups => groups,
    };
    let unreadable = |path: String, detail: String| FindingView::new(FindingKind::ShelfUnreadable, path).detail(detail);
    let groups = match groups.and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(groups) => groups,
        Err(error) => return findings.push(unreadable(root.display().to_string(), error.to_string())),
    };
    files::room(&root, findings);
    for group in groups {
        match survey(&group.path(), space, full, SystemTime::now()) {
            Ok(found) => {
                findings.extend(found.into_iter().map(|trouble| finding(&root.display().to_string(), trouble)))
            }
            Err(error) => findings.push(unreadable(group.path().display().to_string(), error.to_string())),
        }
    }
}

fn finding(root: &str, trouble: Trouble) -> FindingView {
    match trouble {
        Trouble::Unreadable { shelf, detail } => {
            FindingView::new(FindingKind::ShelfUnreadable, shelf.display().to_string()).detail(detail)
        }
        Trouble::Damaged { path, is_aside } => {
            let kind = if is_aside { FindingKind::ShelfObjectSetAside } else { FindingKind::ShelfObjectDamaged };
            FindingView::new(kind, path.display().to_string())
        }
        Trouble::OverQuota { used, quota } => {
            FindingView::new(FindingKind::VaultOverQuota, root).detail(format!("{used} of {quota} bytes"))
        }
        Trouble::LeftOver { path } => FindingView::new(FindingKind::LeftOver, path.display().to_string()),
    }
}

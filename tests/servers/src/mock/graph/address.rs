//! Which item a path names: `root:/a/b:/content`, `items/ID/children`, `special/approot:/a`.
//!
//! Source: Microsoft Graph, "Addressing resources in a drive on OneDrive".

use crate::mock::server::decoded;

/// What a path below `/v1.0` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) from: From,
    /// Names from there, decoded.
    pub(super) path: Vec<String>,
    /// What is wanted of it; empty for the item itself.
    pub(super) action: String,
}

/// Where a path begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The drive itself.
    Drive,
    Root,
    AppRoot,
    Item(String),
}

impl Address {
    pub(super) fn parse(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1.0/")?;
        let rest = match path.strip_prefix("me/drive") {
            Some(rest) => rest,
            None => {
                let path = path.strip_prefix("drives/")?;
                &path[path.find('/').unwrap_or(path.len())..]
            }
        };
        if rest.is_empty() {
            return Some(Self { from: From::Drive, path: Vec::new(), action: String::new() });
        }
        let (from, rest) = if let Some(rest) = rest.strip_prefix("/root") {
            (From::Root, rest)
        } else if let Some(rest) = rest.strip_prefix("/special/approot") {
            (From::AppRoot, rest)
        } else {
            let rest = rest.strip_prefix("/items/")?;
            let end = rest.find(['/', ':']).unwrap_or(rest.len());
            (From::Item(decoded(&rest[..end])), &rest[end..])
        };
        let (path, action) = match rest.strip_prefix(":/") {
            // A colon cannot stand in a name.
            Some(rest) => rest.split_once(':').unwrap_or((rest, "")),
            None => ("", rest),
        };
        let path = path.split('/').filter(|name| !name.is_empty()).map(decoded).collect();
        let action = match action.strip_prefix('/') {
            Some(action) => action,
            None if action.is_empty() => "",
            None => return None,
        };
        Some(Self { from, path, action: action.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_documented() {
        let parsed = |path: &str| {
            let Address { from, path, action } = Address::parse(path).unwrap_or_else(|| panic!("{path}"));
            (from, path.join("|"), action)
        };
        let all = |from, path: &str, action: &str| (from, path.to_owned(), action.to_owned());
        assert_eq!(parsed("/v1.0/me/drive"), all(From::Drive, "", ""));
        assert_eq!(parsed("/v1.0/me/drive/root"), all(From::Root, "", ""));
        assert_eq!(parsed("/v1.0/me/drive/root/children"), all(From::Root, "", "children"));
        assert_eq!(parsed("/v1.0/me/drive/root:/a%20b/c"), all(From::Root, "a b|c", ""));
        assert_eq!(parsed("/v1.0/me/drive/root:/a/b:/content"), all(From::Root, "a|b", "content"));
        assert_eq!(parsed("/v1.0/me/drive/root:/a/b:"), all(From::Root, "a|b", ""));
        assert_eq!(parsed("/v1.0/me/drive/special/approot:/a"), all(From::AppRoot, "a", ""));
        assert_eq!(parsed("/v1.0/drives/d/items/1!2/children"), all(From::Item("1!2".into()), "", "children"));
        assert_eq!(
            parsed("/v1.0/me/drive/items/1:/n:/createUploadSession"),
            all(From::Item("1".into()), "n", "createUploadSession")
        );
        assert_eq!(Address::parse("/v1.0/me/messages"), None);
        assert_eq!(Address::parse("/v1.0/me/drive/rooted"), None);
    }
}

//! Which gRPC methods may run twice.

use std::sync::Arc;

use crate::error::ConfigError;

/// A set of methods, `/package.Service/Method`, and of services with all of theirs, `/package.Service/`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Methods {
    /// Sorted.
    paths: Arc<[Box<str>]>,
}

impl Methods {
    pub(in crate::http) fn new<M: AsRef<str>>(
        methods: impl IntoIterator<Item = M>,
    ) -> Result<Self, ConfigError> {
        let mut paths = Vec::new();
        for path in methods {
            let path = path.as_ref();
            let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
            let sound = parts.is_some_and(|(service, method)| {
                !service.is_empty() && service.bytes().chain(method.bytes()).all(may_name)
            });
            ConfigError::unless(
                sound,
                "idempotent",
                path,
                "`/package.Service/Method`, or `/package.Service/` for all methods of a service",
            )?;
            paths.push(path.into());
        }
        paths.sort_unstable();
        Ok(Self {
            paths: paths.into(),
        })
    }

    /// Whether it holds the method that is called by this path.
    pub(in crate::http) fn contains(&self, path: &str) -> bool {
        let has = |path: &str| self.paths.binary_search_by(|one| (**one).cmp(path)).is_ok();
        let service = path.rfind('/').map_or(path, |last| &path[..=last]);
        // A service alone is no method.
        service.len() < path.len() && (has(path) || has(service))
    }
}

fn may_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_exactly_and_by_its_service() {
        let methods = Methods::new(["/shop.Orders/Get", "/shop.Catalog/", "/Bare/List"]).unwrap();
        for (path, found) in [
            ("/shop.Orders/Get", true),
            ("/shop.Orders/Get2", false),
            ("/shop.Orders/Ge", false),
            ("/shop.Orders/get", false),
            ("/shop.Orders/Create", false),
            ("/shop.Catalog/Find", true),
            ("/shop.Catalog/Delete", true),
            ("/shop.Catalog/", false),
            ("/shop.Catalog", false),
            ("/shop.Catalog2/Find", false),
            ("/shop.Catalog/deep/Find", false),
            ("/prefix/shop.Catalog/Find", false),
            ("/Bare/List", true),
            ("/", false),
            ("", false),
            ("*", false),
        ] {
            assert_eq!(methods.contains(path), found, "{path}");
        }
        assert!(!Methods::default().contains("/shop.Orders/Get"));
    }

    #[test]
    fn an_invalid_method_path_is_rejected() {
        for bad in [
            "",
            "/",
            "//",
            "//Get",
            "/shop.Orders",
            "shop.Orders/Get",
            "/shop.Orders/Get/",
            "/shop.Orders/Get?x=1",
            "/shop.Orders/ Get",
            "/shop.Orders/*",
            "http://host/shop.Orders/Get",
            "/shöp/Get",
        ] {
            let error = Methods::new([bad]).unwrap_err();
            assert_eq!(error.field, "idempotent");
            assert_eq!(error.value, format!("{bad:?}"));
        }
    }
}

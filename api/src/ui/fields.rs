//! The fields of a query or of a form, as browsers send them, and how links are made of such fields.

use url::form_urlencoded;

/// The field that says behind which row a page of a list begins.
pub(crate) const CURSOR: &str = "cursor";
/// The field with the cursors of the pages that one has come through, the first one first.
pub(crate) const EARLIER: &str = "earlier";
/// The field that names the delivery that is shown beside a list.
pub(crate) const OPEN: &str = "open";
/// The field with the newest row that is shown, by which one asks how many are newer. It stands in no address that one
/// sees.
pub(crate) const NEWEST: &str = "newest";
/// The field that names the tenant whose things are shown.
pub(crate) const TENANT: &str = "tenant_id";

/// Fields in their order; a name may stand there several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Fields with these names and values.
    pub(crate) fn of(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// Parses a query or the body of a form.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The value of a field without the spaces around it; `None` where it is absent or empty, which browsers do not
    /// tell apart.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| known == name)?.1.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The value of a field as it was typed; empty where it is absent.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether a box with this name is ticked.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All values of a field.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All fields that are not empty, each with its name, for the hidden fields of a form.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The same fields, but with this one set to this value, or left out; for the link to another view of a list. The
    /// way to a page of a list and the row that is open mean nothing on another one, so they go with the cursor.
    pub(crate) fn with(&self, name: &str, value: Option<&str>) -> Self {
        self.with_all(name, value.as_slice())
    }

    /// Like [`Self::with`], for a field that stands there as often as there are values.
    pub(crate) fn with_all(&self, name: &str, values: &[&str]) -> Self {
        let goes = |known: &str| known == name || (name == CURSOR && [EARLIER, OPEN].contains(&known));
        let others = self.0.iter().filter(|(known, value)| !goes(known) && !value.is_empty()).cloned();
        let new = values.iter().map(|value| (name.to_owned(), (*value).to_owned()));
        Self(others.chain(new).collect())
    }

    /// The query of a link: `?` and the fields, or nothing where there are none.
    pub(crate) fn query(&self) -> String {
        query(self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }
}

/// The query of a link: `?` and these fields without the empty ones, or nothing where none is left.
pub(crate) fn query<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut fields = fields.into_iter().filter(|(_, value)| !value.is_empty()).peekable();
    if fields.peek().is_none() {
        return String::new();
    }
    format!("?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish())
}

/// Whether a text is a way to a page of ours, below `/ui/`: nothing that a browser could take for another host.
pub(crate) fn is_own_path(path: &str) -> bool {
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
    !path.starts_with('/') && !path.contains("//") && path.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_fields() {
        let fields = Fields::parse(b"status=dead_letter&event_type=&cursor=dlv_1&a=1&a=2+3");
        assert_eq!(fields.get("status"), Some("dead_letter"));
        assert_eq!((fields.get("event_type"), fields.get("nothing")), (None, None));
        assert_eq!(fields.all("a").collect::<Vec<_>>(), ["1", "2 3"]);
        assert_eq!(fields.with("cursor", None).query(), "?status=dead_letter&a=1&a=2+3");
        assert_eq!(fields.with("a", Some("&")).query(), "?status=dead_letter&cursor=dlv_1&a=%26");
        assert_eq!(Fields::default().query(), "");
        let deep = Fields::parse(b"a=1&cursor=3").with_all("earlier", &["first", "2"]);
        assert_eq!(deep.query(), "?a=1&cursor=3&earlier=first&earlier=2");
        assert_eq!(deep.with("a", Some("2")).query(), "?cursor=3&earlier=first&earlier=2&a=2");
        assert_eq!(deep.with("cursor", None).query(), "?a=1");
    }

    #[test]
    fn ways_to_pages_of_ours() {
        for path in ["", "deliveries", "deliveries/dlv_1?x=//evil", "a/b"] {
            assert!(is_own_path(path), "{path}");
        }
        for path in ["/x", "//evil", "https://evil", "a//b", "..", "a/../b", "\\evil", "a\r\nb", "javascript:x"] {
            assert!(!is_own_path(path), "{path}");
        }
    }
}

//! What pages load besides themselves: one style sheet, our scripts, htmx, and the icons. Release builds embed all of
//! it; debug builds read it when the process starts. The name of each file holds its digest, so browsers keep it.

use std::{borrow::Cow, io::Write, sync::OnceLock};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use poem::{
    Request, Response,
    http::{StatusCode, header},
};
use sha2::{Digest, Sha256};

/// A browser may keep a file for a year: a file that changes gets another name.
const CACHE: &str = "public, max-age=31536000, immutable";
/// Characters of the digest in a file's name.
const DIGEST_CHARACTERS: usize = 12;
/// A body of fewer bytes gains nothing from compression.
const PACKED_BYTES_MIN: usize = 1024;

/// A file below `api/ui`: embedded, or read from where the source is.
macro_rules! file {
    ($path:literal) => {{
        #[cfg(not(debug_assertions))]
        let bytes = Some(Cow::Borrowed(&include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/", $path))[..]));
        #[cfg(debug_assertions)]
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/", $path)).ok().map(Cow::Owned);
        bytes
    }};
}

/// How many files pages load.
const FILES: usize = 14;

/// Whether the libraries can be loaded: they are embedded, or their folder is there.
fn are_libraries_there() -> bool {
    cfg!(not(debug_assertions))
        || std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/node_modules")).exists()
}

/// A file that pages load.
struct Asset {
    /// What pages call it, such as `style.css`.
    name: &'static str,
    /// What its URL calls it, such as `style.0123456789ab.css`.
    file: String,
    content_type: &'static str,
    plain: Bytes,
    packed: Bytes,
}

/// A file before it is prepared: its name, its type, and what is in it where it was found.
type File = (&'static str, &'static str, Option<Cow<'static, [u8]>>);

/// All files that pages load. Without npm, those of the libraries are missing.
pub(crate) struct Assets(Vec<Asset>);

impl Assets {
    /// The files of this process, which are read once. Where a debug build does not find the libraries, it looks again
    /// until they have been fetched.
    pub(crate) fn get() -> &'static Self {
        static WHOLE: OnceLock<Assets> = OnceLock::new();
        static WITHOUT_LIBRARIES: OnceLock<Assets> = OnceLock::new();
        if let Some(whole) = WHOLE.get() {
            return whole;
        }
        if let Some(part) = WITHOUT_LIBRARIES.get()
            && !are_libraries_there()
        {
            return part;
        }
        let loaded = Self::load();
        if loaded.0.len() == FILES {
            return WHOLE.get_or_init(|| loaded);
        }
        WITHOUT_LIBRARIES.get_or_init(|| {
            tracing::warn!("the dashboard has no icons and no live updates: run `npm ci --ignore-scripts` in api/ui");
            loaded
        })
    }

    fn load() -> Self {
        let (script, style) = ("text/javascript; charset=utf-8", "text/css; charset=utf-8");
        let files: [File; FILES] = [
            ("style.css", style, file!("style.css")),
            ("copy.js", script, file!("copy.js")),
            ("time.js", script, file!("time.js")),
            ("keys.js", script, file!("keys.js")),
            ("live.js", script, file!("live.js")),
            ("paths.js", script, file!("paths.js")),
            ("rows.js", script, file!("rows.js")),
            ("views.js", script, file!("views.js")),
            ("updates.js", script, file!("updates.js")),
            ("search.js", script, file!("search.js")),
            ("post.js", script, file!("post.js")),
            ("portal.js", script, file!("portal.js")),
            ("htmx.js", script, file!("node_modules/htmx.org/dist/htmx.min.js")),
            ("icons.svg", "image/svg+xml", icons()),
        ];
        let assets: Vec<_> =
            files.into_iter().filter_map(|(name, kind, bytes)| Some(Asset::new(name, kind, &bytes?))).collect();
        Self(assets)
    }

    /// What the URL of this file calls it; `None` where the file is missing.
    pub(crate) fn file(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|asset| asset.name == name).map(|asset| asset.file.as_str())
    }

    /// The answer to a request for a file; `None` where there is no such file.
    pub(crate) fn answer(&self, request: &Request, file: &str) -> Option<Response> {
        let asset = self.0.iter().find(|asset| asset.file == file)?;
        let response = Response::builder()
            .content_type(asset.content_type)
            .header(header::CACHE_CONTROL, CACHE)
            .header(header::VARY, "Accept-Encoding");
        Some(if takes_gzip(request) {
            response.header(header::CONTENT_ENCODING, "gzip").body(asset.packed.clone())
        } else {
            response.body(asset.plain.clone())
        })
    }
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: &[u8]) -> Self {
        let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(bytes));
        let (stem, extension) = name.split_once('.').expect("the names above have one");
        let file = format!("{stem}.{}.{extension}", &digest[..DIGEST_CHARACTERS]);
        let packed = gzip(bytes, Compression::best());
        Self { name, file, content_type, plain: Bytes::copy_from_slice(bytes), packed: packed.into() }
    }
}

#[cfg(not(debug_assertions))]
fn icons() -> Option<Cow<'static, [u8]>> {
    Some(Cow::Borrowed(&include_bytes!(concat!(env!("OUT_DIR"), "/icons.svg"))[..]))
}

#[cfg(debug_assertions)]
fn icons() -> Option<Cow<'static, [u8]>> {
    let modules = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ui/node_modules"));
    super::sprite::make(&modules.join(super::sprite::FOLDER)).ok().map(|sprite| Cow::Owned(sprite.into_bytes()))
}

fn gzip(bytes: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 3), level);
    encoder.write_all(bytes).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

fn takes_gzip(request: &Request) -> bool {
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|list| list.split(',').any(|one| one.trim().split(';').next() == Some("gzip")))
}

/// The answer that shows a page, compressed where the browser takes that and it is worth it.
pub(crate) fn html(request: &Request, status: StatusCode, page: String) -> Response {
    let response = Response::builder().status(status).content_type("text/html; charset=utf-8");
    let response = response.header(header::VARY, "Accept-Encoding");
    if page.len() >= PACKED_BYTES_MIN && takes_gzip(request) {
        let packed = gzip(page.as_bytes(), Compression::fast());
        return response.header(header::CONTENT_ENCODING, "gzip").body(packed);
    }
    response.body(page)
}

//! The style sheet and the script, in the binary. The name holds the content's hash, so they may be kept for ever.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use data_encoding::HEXLOWER;
use http::header;

use crate::kernel::secret::sha256;
use crate::kernel::{Error, codes};

const CSS: &str = include_str!("../../../assets/freehold.css");
const JS: &str = include_str!("../../../assets/freehold.js");
/// A square in the accent colour.
pub const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%231f6b52'/%3E%3C/svg%3E";

static CSS_PATH: LazyLock<String> = LazyLock::new(|| path(CSS, "css"));
static JS_PATH: LazyLock<String> = LazyLock::new(|| path(JS, "js"));

fn path(content: &str, extension: &str) -> String {
    format!("/assets/{}.{extension}", HEXLOWER.encode(&sha256(content.as_bytes())[..8]))
}

pub fn css() -> &'static str {
    &CSS_PATH
}

pub fn js() -> &'static str {
    &JS_PATH
}

/// `/assets/…`, on every host.
pub fn routes() -> Router {
    Router::new().route("/assets/{file}", get(serve))
}

async fn serve(Path(file): Path<String>) -> Response {
    let asked = format!("/assets/{file}");
    let (kind, content) = match () {
        () if asked == css() => ("text/css; charset=utf-8", CSS),
        () if asked == js() => ("text/javascript; charset=utf-8", JS),
        () => return Error::new(&codes::NOT_FOUND).into_response(),
    };
    let keep = "public, max-age=31536000, immutable";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, keep)], content).into_response()
}

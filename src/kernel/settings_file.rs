//! Settings that come from a TOML file. What is wrong in one is said by its line, and never by what stands there: that may
//! be a secret that somebody wrote where only the name of one belongs.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Error, Result, codes};

/// `what` names the file's content: `the identity settings`.
///
/// # Errors
/// `bad_request` with the line that is wrong.
pub fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::new(&codes::BAD_REQUEST).detail(format!("{what}: line {line}: {}", error.message()))
    })
}

/// # Errors
/// `bad_request` when the file cannot be read.
pub fn read(what: &str, file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| {
        Error::new(&codes::BAD_REQUEST)
            .detail(format!("{what} {} cannot be read", file.display()))
            .source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::SecretRef;

    #[derive(Debug, serde::Deserialize)]
    struct File {
        #[allow(dead_code)]
        key: SecretRef,
    }

    /// Shown to fail: with the error's own text, which shows the line.
    #[test]
    fn a_secret_in_the_open_is_not_repeated() {
        let error = parse::<File>("the settings", "# one\nkey = \"GOCSPX-abc\"").unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("the settings: line 2") && !text.contains("GOCSPX-abc"), "{text}");
        assert!(read("the settings", Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}

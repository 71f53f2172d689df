//! Where a person goes after signing in: a path of ours and nothing else. Pure.

use reqwest::Url;

const LONGEST: usize = 1_000;

/// The path, if it is one of this site's own; else `/`. Anything that a browser could read as another site, or as code,
/// is not a path: a second slash, a backslash (browsers take it for a slash), a control character (they drop it).
pub fn path_of(text: Option<&str>) -> &str {
    text.filter(|text| is_ours(text)).unwrap_or("/")
}

fn is_ours(text: &str) -> bool {
    let strange = |c: char| c == '\\' || c.is_control() || c.is_whitespace();
    if text.len() > LONGEST || !text.starts_with('/') || text.contains("//") || text.contains(strange) {
        return false;
    }
    // And as a browser resolves it: still the same site, still the same path.
    let base = Url::parse("https://here.invalid/").expect("a constant");
    base.join(text).is_ok_and(|url| url.origin() == base.origin() && url.path().starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_own_paths_pass() {
        for ours in ["/", "/tasks", "/tasks?status=todo&q=a%20b", "/a/b#c", "/%2F%2Fevil.io"] {
            assert_eq!(path_of(Some(ours)), ours);
        }
        for other in [
            "//evil.io",
            "///evil.io",
            "/\\evil.io",
            "\\\\evil.io",
            "https://evil.io",
            "javascript:alert(1)",
            "/\tjavascript:alert(1)",
            "/\t/evil.io",
            "/\n/evil.io",
            "data:text/html,x",
            "evil.io",
            "",
            " /",
            "/a//evil.io",
        ] {
            assert_eq!(path_of(Some(other)), "/", "{other:?}");
        }
        assert_eq!(path_of(None), "/");
        assert_eq!(path_of(Some(&format!("/{}", "x".repeat(2_000)))), "/");
    }

    proptest! {
        /// Whatever is asked for, a browser that is sent there stays on the site.
        #[test]
        fn nobody_is_sent_away(text in r"[/\\]{0,3}[ \t\n\r]{0,2}[a-z:/\\@.?#%0-9]{0,30}") {
            let base = Url::parse("https://acme.example.com/sign-in").unwrap();
            let resolved = base.join(path_of(Some(&text))).unwrap();
            prop_assert_eq!(resolved.origin(), base.origin());
        }
    }
}

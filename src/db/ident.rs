//! The only place where a name becomes part of a statement.

/// An SQL identifier, quoted. PostgreSQL has no parameters for names.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL text literal, for the few commands that take no parameters (`ALTER ROLE … PASSWORD`).
pub fn quote_literal(text: &str) -> String {
    // A backslash is an ordinary character with standard_conforming_strings, but E'' is safe whatever that is set to.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Whether a text may be the name of a tenant's schema and login: `t_` and 26 characters of base32.
pub fn is_schema_name(name: &str) -> bool {
    name.len() == 28
        && name.starts_with("t_")
        && name[2..].bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_literals_cannot_break_out() {
        assert_eq!(quote_ident(r#"a"; DROP"#), r#""a""; DROP""#);
        assert_eq!(quote_literal(r"a'b\"), r"E'a''b\\'");
        assert!(is_schema_name("t_0123456789abcdefghijklmnop"));
        assert!(!is_schema_name("t_0123456789abcdefghijklmno\""));
        assert!(!is_schema_name("freehold"));
    }
}

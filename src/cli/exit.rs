//! How a command ends: its error on stderr, its exit code.

use std::error::Error as _;
use std::io::Write;
use std::process::ExitCode;

use super::output::Output;
use crate::http::problem::Problem;
use crate::kernel::{Code, Error};

/// The documented exit codes (`freehold --help`).
fn number(code: &Code) -> u8 {
    match code.status {
        400 | 413 | 415 | 422 => 2,
        404 => 3,
        409 | 412 => 4,
        408 | 429 | 503 => 5,
        401..=403 => 6,
        _ => 1,
    }
}

/// Says what went wrong and what to do about it, and gives the exit code.
pub fn report(error: &Error, output: Output, verbose: bool) -> ExitCode {
    let mut stderr = anstream::stderr();
    // Nobody may be listening any more; the exit code still tells.
    match output {
        Output::Json => {
            serde_json::to_string(&problem(error)).is_ok_and(|text| writeln!(stderr, "{text}").is_ok())
        }
        Output::Table | Output::Csv => write!(stderr, "{}", text(error, verbose)).is_ok(),
    };
    ExitCode::from(number(error.code()))
}

/// The operator in front of the terminal may read what the API keeps from strangers.
fn problem(error: &Error) -> Problem {
    Problem {
        detail: error.public_detail().map(str::to_owned),
        hint: error.public_hint().map(str::to_owned),
        ..Problem::from(error)
    }
}

fn text(error: &Error, verbose: bool) -> String {
    let mut text = format!("error: {}\n", error.public_detail().unwrap_or(error.code().title));
    for field in error.field_errors() {
        text += &format!("  {}: {}\n", field.field, field.message);
    }
    if verbose {
        let mut cause = error.source();
        while let Some(error) = cause {
            text += &format!("  caused by: {error}\n");
            cause = error.source();
        }
    }
    match error.public_hint() {
        Some(hint) => text += &format!("hint: {hint}\n"),
        None if !verbose && error.source().is_some() && error.code().status >= 500 => {
            text += "hint: add -v to see the cause\n";
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::codes;

    #[test]
    fn exit_codes_follow_the_kind_of_error() {
        let cases = [
            (&codes::INTERNAL, 1),
            (&codes::INVALID_FIELDS, 2),
            (&codes::BAD_REQUEST, 2),
            (&codes::TENANT_NOT_FOUND, 3),
            (&codes::SLUG_TAKEN, 4),
            (&codes::SHARD_UNAVAILABLE, 5),
            (&codes::UNAUTHENTICATED, 6),
            (&codes::FORBIDDEN, 6),
        ];
        for (code, expected) in cases {
            assert_eq!(number(code), expected, "{}", code.name);
        }
    }

    #[test]
    fn an_error_is_said_with_its_fields_and_a_hint() {
        let error = Error::field("slug", "this slug is reserved").hint("take another");
        assert_eq!(
            text(&error, false),
            "error: Some fields are not valid.\n  slug: this slug is reserved\nhint: take another\n"
        );
        let broken = Error::internal("the disk is full");
        assert!(text(&broken, false).ends_with("hint: add -v to see the cause\n"));
        assert!(text(&broken, true).contains("caused by: the disk is full"));
    }
}

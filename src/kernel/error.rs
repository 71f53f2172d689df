//! One error type for all layers: what the client may read (code, detail, fields) kept apart from what only the log
//! sees (the source).

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::codes::{self, Code};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One field that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Where: `title`, `labels[2]`.
    pub field: String,
    /// Why, for a person.
    pub message: String,
}

/// How a limit of the tenant's plan stands, in an answer that it refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaState {
    /// Which limit: `requests_per_month`, `stored_bytes`, `projects`, `seats`.
    pub name: String,
    pub limit: u64,
    pub used: u64,
    /// When the count begins anew. None for what does not: only less use, or a larger plan, helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<DateTime<Utc>>,
}

/// A failure with a public face and a private cause.
pub struct Error(Box<Inner>);

struct Inner {
    code: &'static Code,
    detail: Option<Cow<'static, str>>,
    hint: Option<Cow<'static, str>>,
    fields: Vec<FieldError>,
    quota: Option<QuotaState>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(code: &'static Code) -> Self {
        Self(Box::new(Inner {
            code,
            detail: None,
            hint: None,
            fields: Vec::new(),
            quota: None,
            retry_after: None,
            source: None,
        }))
    }

    /// `invalid_fields` with one field.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.into(), message: message.into() }])
    }

    pub fn fields(fields: Vec<FieldError>) -> Self {
        let mut error = Self::new(&codes::INVALID_FIELDS);
        error.0.fields = fields;
        error
    }

    /// A fault of ours: constant text outside, the cause in the log.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(&codes::INTERNAL).source(source)
    }

    /// A sentence for this case, shown to the client. Never put a cause or a secret here.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// What to do next; the CLI prints it as `hint:`.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The limit of the plan that refuses.
    #[must_use]
    pub fn quota(mut self, quota: QuotaState) -> Self {
        self.0.quota = Some(quota);
        self
    }

    /// When to come back; sent as `Retry-After` in whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// The cause, for the log only.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn code(&self) -> &'static Code {
        self.0.code
    }

    pub fn is(&self, code: &'static Code) -> bool {
        std::ptr::eq(self.0.code, code)
    }

    pub fn public_detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn public_hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn field_errors(&self) -> &[FieldError] {
        &self.0.fields
    }

    pub fn quota_state(&self) -> Option<&QuotaState> {
        self.0.quota.as_ref()
    }

    pub fn retry_after_secs(&self) -> Option<u64> {
        self.0.retry_after.map(|d| d.as_millis().div_ceil(1000).max(1) as u64)
    }

    /// The private cause, when it is of type `T`.
    pub fn cause<T: StdError + 'static>(&self) -> Option<&T> {
        self.0.source.as_deref().and_then(|source| source.downcast_ref())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.detail {
            Some(detail) => f.write_str(detail),
            None => f.write_str(self.0.code.title),
        }?;
        for (i, field) in self.0.fields.iter().enumerate() {
            write!(f, "{}{}: {}", if i == 0 { " (" } else { "; " }, field.field, field.message)?;
        }
        if self.0.fields.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.code.name)?;
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

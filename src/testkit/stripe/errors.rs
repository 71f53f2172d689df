//! Refusals in Stripe's words.

use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    message: String,
    param: Option<String>,
}

/// What an operation answers: an object, or why not.
pub type Answer<T = Value> = Result<T, Refusal>;

impl Refusal {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, message: message.into(), param: None }
    }

    /// 400 with `invalid_request_error`: most refusals.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// The object of the path is not there.
    pub fn missing(kind: &str, id: &str) -> Self {
        let name = kind.rsplit('.').next().unwrap_or(kind);
        let refusal =
            Self::new(404, "invalid_request_error", format!("No such {}: '{id}'", name.replace('_', " ")));
        refusal.code("resource_missing").at("id")
    }

    /// An object that a parameter names is not there: 400, not 404.
    pub fn no_such(kind: &str, id: &str, param: &str) -> Self {
        let refusal = Self { status: 400, ..Self::missing(kind, id) };
        refusal.at(param)
    }

    /// Stripe can do it, the stand-in cannot. Loud, so that nobody takes it for an answer of Stripe's.
    pub fn not_here(what: &str) -> Self {
        Self::new(501, "stand_in_error", format!("the stand-in does not know {what}; Stripe does"))
    }

    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    pub fn at(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    pub fn body(&self, request: &str) -> Value {
        let mut error = json!({
            "type": self.kind,
            "message": self.message,
            "request_log_url": format!("https://dashboard.stripe.com/test/logs/{request}"),
        });
        if let Some(code) = self.code {
            error["code"] = json!(code);
            error["doc_url"] = json!(format!("https://docs.stripe.com/error-codes/{code}"));
        }
        if let Some(param) = &self.param {
            error["param"] = json!(param);
        }
        json!({ "error": error })
    }
}

//! Every error a client can see: a stable code, its HTTP status and a title. `docs/ERRORS.md` is generated from here.

/// A stable, documented kind of error.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable snake_case name; clients may match on it.
    pub name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// One constant sentence.
    pub title: &'static str,
}

macro_rules! codes {
    ($($id:ident $status:literal $name:literal $title:literal;)+) => {
        $(pub static $id: Code = Code { name: $name, status: $status, title: $title };)+
        /// The catalogue, in the order of `docs/ERRORS.md`.
        pub static ALL: &[&Code] = &[$(&$id),+];
    };
}

codes! {
    BAD_REQUEST 400 "bad_request" "The request could not be read.";
    BAD_JSON 400 "bad_json" "The body is not valid JSON.";
    BAD_CURSOR 400 "bad_cursor" "The cursor is not one of this list; start again without it.";
    TENANT_REQUIRED 400 "tenant_required" "Say which tenant: use its host, or the X-Freehold-Tenant header.";
    SIGN_IN_FAILED 400 "sign_in_failed" "The sign-in did not work; please try again.";
    UNAUTHENTICATED 401 "unauthenticated" "Send a valid key: Authorization: Bearer <key>.";
    SIGN_IN_REQUIRED 401 "sign_in_required" "Sign in first.";
    PAYMENT_REQUIRED 402 "payment_required" "The workspace's plan does not allow this.";
    FORBIDDEN 403 "forbidden" "Your role does not allow this.";
    CONFIRM_REQUIRED 403 "confirm_required" "Confirm that it is you: sign in again, then repeat this within five minutes.";
    SECOND_PERSON_REQUIRED 403 "second_person_required" "This takes two: another operator has to agree first.";
    TENANT_SUSPENDED 403 "tenant_suspended" "This workspace is suspended.";
    NOT_FOUND 404 "not_found" "There is nothing here.";
    TENANT_NOT_FOUND 404 "tenant_not_found" "There is no such tenant.";
    METHOD_NOT_ALLOWED 405 "method_not_allowed" "This address does not take that method.";
    REQUEST_TIMEOUT 408 "request_timeout" "The request took too long to arrive.";
    CONFLICT 409 "conflict" "The change collides with the present state.";
    VERSION_CONFLICT 409 "version_conflict" "Someone changed it meanwhile; read it again.";
    STATE_CONFLICT 409 "state_conflict" "That is not possible in its present state.";
    SLUG_TAKEN 409 "slug_taken" "This slug is taken.";
    NAME_TAKEN 409 "name_taken" "This name is taken.";
    IDEMPOTENCY_CONFLICT 409 "idempotency_conflict" "This Idempotency-Key was used for another request.";
    TENANT_NOT_READY 409 "tenant_not_ready" "The workspace is still being made; try again in a moment.";
    TIER_CHANGE_UNAVAILABLE 409 "tier_change_unavailable" "A workspace cannot change between a shared database server and one of its own yet.";
    INFRA_REFUSED 409 "infra_refused" "The plan would remove what must stay; nothing was changed.";
    PRECONDITION_FAILED 412 "precondition_failed" "The precondition does not hold.";
    BODY_TOO_LARGE 413 "body_too_large" "The body is too large.";
    UNSUPPORTED_MEDIA_TYPE 415 "unsupported_media_type" "Send JSON with Content-Type: application/json.";
    INVALID_FIELDS 422 "invalid_fields" "Some fields are not valid.";
    QUOTA_EXCEEDED 429 "quota_exceeded" "The plan's requests of this month are used up.";
    RATE_LIMITED 429 "rate_limited" "Too many requests; slow down.";
    TENANT_BUSY 429 "tenant_busy" "All of this workspace's connections are in use; try again shortly.";
    INTERNAL 500 "internal" "Something went wrong on our side.";
    INFRA_FAILED 502 "infra_failed" "The cloud refused a change.";
    INFRA_UNAVAILABLE 503 "infra_unavailable" "Terraform cannot run at the moment.";
    SHARD_UNAVAILABLE 503 "shard_unavailable" "This workspace's database is not reachable; try again shortly.";
    SHARD_BUSY 503 "shard_busy" "This workspace's database is busy; try again shortly.";
    NO_CAPACITY 503 "no_capacity" "No shard has room for another tenant.";
    PROVIDER_UNAVAILABLE 503 "provider_unavailable" "The sign-in provider does not answer; please try again.";
    PAYMENTS_UNAVAILABLE 503 "payments_unavailable" "The payment provider does not answer; please try again.";
    CONTROL_UNAVAILABLE 503 "control_unavailable" "The control database is not reachable; try again shortly.";
    TIMEOUT 503 "timeout" "The request took too long.";
    DRAINING 503 "draining" "This server is shutting down; try again.";
}

//! Changing: corrections, settling, replaying, releasing. For the finance role and above; each is a line in the audit log.

use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::billing::access::{Access, Override, override_clear, override_set};
use crate::billing::finance::inbox::{InboxEvent, inbox_event};
use crate::billing::finance::lists::{InvoiceRow, TenantAccess, invoice_row, tenant_access};
use crate::billing::finance::quarantine::{Settle, Settled, quarantine_settle};
use crate::billing::finance::standing::incident_settle;
use crate::billing::inbox;
use crate::billing::incidents::{Incident, IncidentId};
use crate::billing::ledger::{
    Correction, CorrectionId, FactId, NewCorrection, correction_ask, correction_decide,
};
use crate::billing::reconcile::close::{Release, invoice_release};
use crate::billing::reconcile::duties::{Accept, accept};
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::http::operator::Inside;
use crate::http::operator::caller::{Accountant, Which};
use crate::http::operator::idempotency_key::IdempotencyKey;
use crate::http::vocabulary::{Json, Path};
use crate::kernel::Result;

/// A correction to ask for.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskCorrection {
    /// Its slug or id.
    #[garde(length(chars, min = 1, max = 64))]
    pub tenant: String,
    #[garde(length(chars, min = 1, max = 31))]
    #[schema(example = "tasks_created")]
    pub meter: String,
    /// What is added; below 0, taken away. Of a meter where the newest counts: the reading itself.
    #[garde(skip)]
    pub quantity: i64,
    /// The moment that it counts for: at most 34 days ago. Now when left out.
    #[garde(skip)]
    #[serde(default)]
    pub occurred_at: Option<DateTime<Utc>>,
    /// The fact that was wrong, or that was kept aside.
    #[garde(skip)]
    #[serde(default)]
    pub corrects: Option<FactId>,
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "ticket 4711: imported twice")]
    pub reason: String,
    /// Your own name for it: asked again under it, it is the same correction. An `Idempotency-Key` is one too.
    #[garde(inner(length(chars, min = 1, max = 255)))]
    #[serde(default)]
    pub reference: Option<String>,
}

/// What a second person says to a correction.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DecideCorrection)]
pub struct Decide {
    #[garde(skip)]
    pub agree: bool,
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new()
        .routes(routes!(ask))
        .routes(routes!(decide))
        .routes(routes!(settle))
        .routes(routes!(replay))
        .routes(routes!(settle_incident))
        .routes(routes!(accept_incident))
        .routes(routes!(release))
        .routes(routes!(override_access, clear_override))
}

/// Ask for a correction. Nothing counts before another person agrees
///
/// Asked again under the same `reference` or `Idempotency-Key`, it is the same correction.
#[utoipa::path(post, path = "/operator/v1/billing/corrections", operation_id = "operator_billing_correction_ask",
    tag = "Operator: billing",
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeat with the same key and body gets the first answer.")),
    request_body = AskCorrection, responses((status = 201, body = Correction)))]
async fn ask(
    Accountant(operator): Accountant,
    IdempotencyKey(key): IdempotencyKey,
    Json(wish): Json<AskCorrection>,
) -> Result<impl IntoResponse> {
    let tenant: TenantRef = wish.tenant.parse().unwrap_or_else(|never| match never {});
    let tenant = tenant_find(&mut *operator.cp.db.acquire().await?, &tenant).await?;
    let new = NewCorrection {
        tenant: tenant.id,
        meter: wish.meter,
        quantity: wish.quantity,
        occurred_at: wish.occurred_at,
        corrects: wish.corrects,
        reason: wish.reason,
        reference: wish.reference.or(key),
    };
    let asked = correction_ask(&operator.cp, &operator.caller, &new).await?;
    Ok((StatusCode::CREATED, Json(asked)))
}

/// Agree to a correction that another person asked for, or refuse it
///
/// Takes a key that has an owner. One that nobody known asked for is agreed to by two: after the first it is still `asked`.
#[utoipa::path(post, path = "/operator/v1/billing/corrections/{id}/decide", operation_id = "operator_billing_correction_decide",
    tag = "Operator: billing", params(("id" = CorrectionId, Path)), request_body = Decide,
    responses((status = 200, body = Correction)))]
async fn decide(
    Accountant(operator): Accountant,
    Path(id): Path<CorrectionId>,
    Json(said): Json<Decide>,
) -> Result<Json<Correction>> {
    correction_decide(&operator.cp, &operator.caller, id, said.agree).await.map(Json)
}

/// Settle a batch that was refused or set aside
#[utoipa::path(post, path = "/operator/v1/billing/quarantine/{batch}/settle", operation_id = "operator_billing_quarantine_settle",
    tag = "Operator: billing", params(("batch" = String, Path, description = "Its identifier")), request_body = Settle,
    responses((status = 200, body = Settled)))]
async fn settle(
    Accountant(operator): Accountant,
    Path(batch): Path<String>,
    Json(how): Json<Settle>,
) -> Result<Json<Settled>> {
    quarantine_settle(operator.billing()?, &operator.caller, &batch, &how).await.map(Json)
}

/// Work on a webhook again: one that was given up, or one that is done
#[utoipa::path(post, path = "/operator/v1/billing/inbox/{event}/replay", operation_id = "operator_billing_replay",
    tag = "Operator: billing", params(("event" = String, Path, description = "As in `evt_…`")),
    responses((status = 200, body = InboxEvent)))]
async fn replay(Accountant(operator): Accountant, Path(event): Path<String>) -> Result<Json<InboxEvent>> {
    let billing = operator.billing()?;
    inbox::replay(billing, &operator.caller, &event).await?;
    let livemode = billing.settings.livemode();
    inbox_event(&mut *operator.cp.db.acquire().await?, livemode, &event).await.map(Json)
}

/// Finance's word against the rule by which access follows money.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverrideAccess {
    /// `active`, `grace`, `past_due`, `restricted` or `suspended`.
    #[garde(skip)]
    pub access: Access,
    #[garde(length(chars, min = 3, max = 500))]
    #[schema(example = "paid by bank transfer on its way")]
    pub reason: String,
    /// When the rule holds again: within a year.
    #[garde(skip)]
    pub until: DateTime<Utc>,
}

/// Say how access stands whatever is owed, for a time
#[utoipa::path(post, path = "/operator/v1/tenants/{tenant}/billing-override", operation_id = "operator_billing_override_set",
    tag = "Operator: billing", params(("tenant" = String, Path, description = "Its slug or id")), request_body = OverrideAccess,
    responses((status = 200, body = TenantAccess)))]
async fn override_access(
    Accountant(operator): Accountant,
    Which(tenant): Which,
    Json(word): Json<OverrideAccess>,
) -> Result<Json<TenantAccess>> {
    let billing = operator.billing()?;
    let tenant = tenant_find(&mut *operator.cp.db.acquire().await?, &tenant).await?.id;
    let word = Override { access: word.access, reason: word.reason, until: word.until };
    override_set(billing, &operator.caller, tenant, &word).await?;
    tenant_access(&mut *operator.cp.db.acquire().await?, tenant).await.map(Json)
}

/// Take the word back: the rule holds again
#[utoipa::path(delete, path = "/operator/v1/tenants/{tenant}/billing-override", operation_id = "operator_billing_override_clear",
    tag = "Operator: billing", params(("tenant" = String, Path, description = "Its slug or id")),
    responses((status = 200, body = TenantAccess)))]
async fn clear_override(
    Accountant(operator): Accountant,
    Which(tenant): Which,
) -> Result<Json<TenantAccess>> {
    let billing = operator.billing()?;
    let tenant = tenant_find(&mut *operator.cp.db.acquire().await?, &tenant).await?.id;
    override_clear(billing, &operator.caller, tenant).await?;
    tenant_access(&mut *operator.cp.db.acquire().await?, tenant).await.map(Json)
}

/// Say that an incident was looked at and is over
#[utoipa::path(post, path = "/operator/v1/billing/incidents/{id}/settle", operation_id = "operator_billing_incident_settle",
    tag = "Operator: billing", params(("id" = IncidentId, Path)), responses((status = 200, body = Incident)))]
async fn settle_incident(
    Accountant(operator): Accountant,
    Path(id): Path<IncidentId>,
) -> Result<Json<Incident>> {
    incident_settle(&operator.cp, &operator.caller, id).await.map(Json)
}

/// Decide that what is owed to a customer, or billed by nobody, stays as it is
///
/// For incidents of the kinds `credit_due` and `usage_unbilled`, and for as many units as it is now. Settled without a decision,
/// the next comparison opens it again.
#[utoipa::path(post, path = "/operator/v1/billing/incidents/{id}/accept", operation_id = "operator_billing_incident_accept",
    tag = "Operator: billing", params(("id" = IncidentId, Path)), request_body = Accept,
    responses((status = 200, body = Incident)))]
async fn accept_incident(
    Accountant(operator): Accountant,
    Path(id): Path<IncidentId>,
    Json(how): Json<Accept>,
) -> Result<Json<Incident>> {
    accept(&operator.cp, &operator.caller, id, &how).await.map(Json)
}

/// Let a held draft go although something differs
#[utoipa::path(post, path = "/operator/v1/billing/invoices/{id}/release", operation_id = "operator_billing_invoice_release",
    tag = "Operator: billing", params(("id" = String, Path, description = "As in `in_…`")), request_body = Release,
    responses((status = 200, body = InvoiceRow)))]
async fn release(
    Accountant(operator): Accountant,
    Path(id): Path<String>,
    Json(why): Json<Release>,
) -> Result<Json<InvoiceRow>> {
    invoice_release(operator.billing()?, &operator.caller, &id, &why).await?;
    invoice_row(&mut *operator.cp.db.acquire().await?, &id).await.map(Json)
}

//! `/operator/v1/operator-keys`.

use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Inside;
use super::caller::Operator;
use crate::http::vocabulary::{Json, Path, Query};
use crate::identity::keys::{self, KeyFilter, OperatorKey, WithSecret};
use crate::identity::operators::{OperatorRef, OperatorRole};
use crate::kernel::Result;
use crate::kernel::ids::OperatorKeyId;
use crate::kernel::page::Page;

/// What a new operator's key is to be.
#[derive(Clone, Debug, Serialize, Deserialize, garde::Validate, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperatorKey {
    /// Who will use it.
    #[garde(length(chars, min = 1, max = 120))]
    pub name: String,
    /// `viewer` reads only, `finance` reads and corrects money. `operator` when not given.
    #[garde(skip)]
    #[serde(default)]
    pub role: OperatorRole,
    /// Whose it is, by address or id: you. Left out, it is yours too, if the key that asks has an owner; else nobody's, and
    /// agrees to no correction of money.
    #[garde(inner(length(chars, min = 3, max = 254)))]
    #[serde(default)]
    #[schema(example = "ada@example.com")]
    pub owner: Option<String>,
    #[garde(skip)]
    pub expires_at: Option<DateTime<Utc>>,
}

impl NewOperatorKey {
    pub fn owner(&self) -> Option<OperatorRef> {
        self.owner.as_deref().map(|text| text.parse().unwrap_or_else(|never| match never {}))
    }
}

pub(super) fn routes() -> OpenApiRouter<Inside> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// Operators' keys, newest first
#[utoipa::path(get, path = "/operator/v1/operator-keys", operation_id = "operator_operator_key_list", tag = "Operator: keys",
    params(KeyFilter), responses((status = 200, body = Page<OperatorKey>)))]
async fn list(operator: Operator, Query(filter): Query<KeyFilter>) -> Result<Json<Page<OperatorKey>>> {
    let mut control = operator.cp.db.acquire().await?;
    keys::operator_key_list(&mut control, &filter).await.map(Json)
}

/// Make an operator's key. The answer is the only place that shows it
#[utoipa::path(post, path = "/operator/v1/operator-keys", operation_id = "operator_operator_key_create", tag = "Operator: keys",
    request_body = NewOperatorKey, responses((status = 201, body = WithSecret<OperatorKey>)))]
async fn create(operator: Operator, Json(new): Json<NewOperatorKey>) -> Result<impl IntoResponse> {
    let (cp, caller, owner) = (&operator.cp, &operator.caller, new.owner());
    let key = keys::operator_key_create_for(cp, caller, &new.name, new.role, owner.as_ref(), new.expires_at)
        .await?;
    Ok((StatusCode::CREATED, Json(key)))
}

/// Revoke an operator's key at once
#[utoipa::path(delete, path = "/operator/v1/operator-keys/{id}", operation_id = "operator_operator_key_revoke", tag = "Operator: keys",
    params(("id" = OperatorKeyId, Path)), responses((status = 200, body = OperatorKey)))]
async fn revoke(operator: Operator, Path(id): Path<OperatorKeyId>) -> Result<Json<OperatorKey>> {
    keys::operator_key_revoke(&operator.cp, &operator.caller, id).await.map(Json)
}

//! Where the answers come from: the databases, or the operators' API of a server. One method per operation.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app;
use crate::billing::Billing;
use crate::billing::access::{Override, override_clear, override_set};
use crate::billing::finance::explain::{ExplainFilter, Explained, FactsFilter, explain, facts};
use crate::billing::finance::inbox::{InboxEvent, InboxFilter, inbox_event, inbox_list};
use crate::billing::finance::lists::{
    InvoiceRow, ListFilter, TenantAccess, batch_list, invoice_list, invoice_row, tenant_access,
};
use crate::billing::finance::preview::{Preview, preview};
use crate::billing::finance::quarantine::{
    QuarantineFilter, Settle, Settled, quarantine_list, quarantine_settle,
};
use crate::billing::finance::report::{ReportFilter, ReportRow, report};
use crate::billing::finance::standing::{Standing, incident_settle, standing};
use crate::billing::finance::tenant::{TenantUse, usage};
use crate::billing::inbox;
use crate::billing::incidents::{self, Incident, IncidentId};
use crate::billing::ledger::{
    self, Batch, Correction, CorrectionId, FactLine, NewCorrection, Quarantined, correction_ask,
    correction_decide, correction_page,
};
use crate::billing::reconcile::close::{Release, invoice_release};
use crate::billing::reconcile::duties::{Accept, accept};
use crate::billing::reconcile::{
    Ask, Difference, DifferenceFilter, Run, RunDetail, RunState, RunsFilter, difference_list, reconcile_run,
    run_list,
};
use crate::billing::settings::Settings;
use crate::cli::Globals;
use crate::cli::fleet::{Direct, Fleet, OperatorClient};
use crate::cli::paging::Paging;
use crate::config::home;
use crate::control_plane::tenants::{TenantRef, tenant_find};
use crate::db::admin::ShardAdmins;
use crate::http::operator::billing::{AskCorrection, Decide, DoneToo, OverrideAccess};
use crate::http::vocabulary::validate;
use crate::kernel::Result;
use crate::kernel::page::Page;
use secrecy::ExposeSecret;

/// Rows of lists that come whole.
const WHOLE: i64 = 500;

/// Money, reached in one of two ways.
pub enum Till {
    /// On the databases, with this process's own way to Stripe.
    Direct(Box<Direct>, Box<Billing>),
    /// By the operators' API.
    Remote(OperatorClient),
}

impl Till {
    pub async fn open(globals: &Globals, stripe: Option<&Path>) -> Result<Self> {
        match Fleet::open(globals).await? {
            Fleet::Direct(direct) => {
                let billing = of_direct(globals, &direct, stripe)?;
                Ok(Self::Direct(direct, Box::new(billing)))
            }
            Fleet::Remote(client) => Ok(Self::Remote(client)),
        }
    }
}

/// With the settings that are named; beside `freehold dev`, with those that it left.
fn of_direct(globals: &Globals, direct: &Direct, stripe: Option<&Path>) -> Result<Billing> {
    let file = match stripe {
        Some(file) => Some(file.to_owned()),
        None => left_by_dev(globals)?,
    };
    app::billing(&direct.cp, ShardAdmins::default(), Settings::of(file.as_deref())?, None)
}

/// Only if the control database is that of `freehold dev` too: no other one is compared with its stand-in.
fn left_by_dev(globals: &Globals) -> Result<Option<PathBuf>> {
    let (folder, file) = (&globals.control.home, globals.control.home.join("stripe.toml"));
    let url = globals.control.control_url.as_ref().map(|url| url.expose_secret().to_owned());
    let same = home::load(folder)?.is_some_and(|found| Some(found.control_url) == url);
    Ok((same && file.exists()).then_some(file))
}

fn named(tenant: &str) -> TenantRef {
    tenant.parse().unwrap_or_else(|never| match never {})
}

/// A list: from the databases by a function, from a server by a path.
macro_rules! lists {
    ($($name:ident($filter:ty) -> $item:ty, $path:expr, |$conn:ident, $billing:ident, $wish:ident| $direct:expr;)+) => {
        impl Till {
            $(pub async fn $name(&self, $wish: &$filter) -> Result<Page<$item>> {
                match self {
                    Self::Remote(client) => client.get(&$path, $wish).await,
                    Self::Direct(direct, $billing) => {
                        let mut held = direct.control().await?;
                        let $conn = &mut *held;
                        $direct
                    }
                }
            })+
        }
    };
}

lists! {
    report(ReportFilter) -> ReportRow, ["billing", "report"], |conn, billing, wish| {
        report(conn, billing.settings.livemode(), wish, billing.cp.clock.now()).await
    };
    invoices(ListFilter) -> InvoiceRow, ["billing", "invoices"], |conn, billing, wish| {
        invoice_list(conn, wish, billing.cp.clock.now()).await
    };
    batches(ListFilter) -> Batch, ["billing", "batches"], |conn, billing, wish| {
        batch_list(conn, wish, billing.cp.clock.now()).await
    };
    quarantine(QuarantineFilter) -> Batch, ["billing", "quarantine"], |conn, _billing, wish| {
        quarantine_list(conn, wish).await
    };
    inbox(InboxFilter) -> InboxEvent, ["billing", "inbox"], |conn, billing, wish| {
        inbox_list(conn, billing.settings.livemode(), wish).await
    };
    incidents(DoneToo) -> Incident, ["billing", "incidents"], |conn, _billing, wish| {
        incidents::page(conn, wish.done_too.unwrap_or(false), wish.limit, wish.cursor.as_deref()).await
    };
    corrections(DoneToo) -> Correction, ["billing", "corrections"], |conn, _billing, wish| {
        correction_page(conn, wish.done_too.unwrap_or(false), wish.limit, wish.cursor.as_deref()).await
    };
    quarantined_facts(()) -> Quarantined, ["billing", "quarantine", "facts"], |conn, _billing, _wish| {
        ledger::quarantine_list(conn, None, WHOLE).await.map(Page::whole)
    };
    runs(RunsFilter) -> Run, ["billing", "reconcile"], |conn, _billing, wish| run_list(conn, wish).await;
    differences(DifferenceFilter) -> Difference, ["billing", "differences"], |conn, billing, wish| {
        difference_list(conn, billing.settings.livemode(), wish).await
    };
}

impl Till {
    /// All incidents: the open ones, or those that are over too.
    pub async fn all_incidents(&self, settled_too: bool) -> Result<Page<Incident>> {
        let done_too = Some(settled_too);
        let all = Paging { all: true, ..Paging::default() };
        all.collect(async |limit, cursor| self.incidents(&DoneToo { done_too, limit, cursor }).await).await
    }

    /// All corrections: those that wait, or those that are decided too.
    pub async fn all_corrections(&self, decided_too: bool) -> Result<Page<Correction>> {
        let done_too = Some(decided_too);
        let all = Paging { all: true, ..Paging::default() };
        all.collect(async |limit, cursor| self.corrections(&DoneToo { done_too, limit, cursor }).await).await
    }

    pub async fn standing(&self) -> Result<Standing> {
        match self {
            Self::Direct(direct, billing) => {
                standing(&mut *direct.control().await?, billing.settings.livemode()).await
            }
            Self::Remote(client) => client.get(&["billing", "standing"], &()).await,
        }
    }

    pub async fn facts(&self, batch: &str, filter: &FactsFilter) -> Result<Page<FactLine>> {
        match self {
            Self::Direct(direct, _) => facts(&mut *direct.control().await?, batch, filter).await,
            Self::Remote(client) => client.get(&["billing", "batches", batch, "facts"], filter).await,
        }
    }

    pub async fn explain(&self, invoice: &str, filter: &ExplainFilter) -> Result<Explained> {
        match self {
            Self::Direct(direct, _) => explain(&mut *direct.control().await?, invoice, filter).await,
            Self::Remote(client) => client.get(&["billing", "invoices", invoice, "explain"], filter).await,
        }
    }

    pub async fn preview(&self, tenant: &str) -> Result<Preview> {
        match self {
            Self::Direct(_, billing) => preview(billing, tenant).await,
            Self::Remote(client) => client.get(&["tenants", tenant, "invoice-preview"], &()).await,
        }
    }

    pub async fn usage(&self, tenant: &str) -> Result<TenantUse> {
        match self {
            Self::Direct(direct, billing) => {
                let mut conn = direct.control().await?;
                let tenant = tenant_find(&mut conn, &named(tenant)).await?;
                usage(&mut conn, tenant.id, billing.cp.clock.now()).await
            }
            Self::Remote(client) => client.get(&["tenants", tenant, "usage"], &()).await,
        }
    }

    /// To its end, however long that takes.
    pub async fn reconcile(&self, wish: &Ask) -> Result<RunDetail> {
        validate(wish)?;
        let client = match self {
            Self::Direct(direct, billing) => return reconcile_run(billing, &direct.caller, wish).await,
            Self::Remote(client) => client,
        };
        let mut found: RunDetail = client.post(&["billing", "reconcile"], wish).await?;
        while found.run.state == RunState::Running {
            tokio::time::sleep(Duration::from_secs(1)).await;
            found = client.get(&["billing", "reconcile", &found.run.id.to_string()], &()).await?;
        }
        Ok(found)
    }

    pub async fn correction_ask(&self, wish: &AskCorrection) -> Result<Correction> {
        validate(wish)?;
        match self {
            Self::Direct(direct, _) => {
                let tenant = tenant_find(&mut *direct.control().await?, &named(&wish.tenant)).await?;
                let new = NewCorrection {
                    tenant: tenant.id,
                    meter: wish.meter.clone(),
                    quantity: wish.quantity,
                    occurred_at: wish.occurred_at,
                    corrects: wish.corrects,
                    reason: wish.reason.clone(),
                    reference: wish.reference.clone(),
                };
                correction_ask(&direct.cp, &direct.caller, &new).await
            }
            Self::Remote(client) => client.post(&["billing", "corrections"], wish).await,
        }
    }

    pub async fn correction_decide(&self, id: CorrectionId, agree: bool) -> Result<Correction> {
        match self {
            Self::Direct(direct, _) => correction_decide(&direct.cp, &direct.caller, id, agree).await,
            Self::Remote(client) => {
                client.post(&["billing", "corrections", &id.to_string(), "decide"], &Decide { agree }).await
            }
        }
    }

    pub async fn settle(&self, batch: &str, how: &Settle) -> Result<Settled> {
        validate(how)?;
        match self {
            Self::Direct(direct, billing) => quarantine_settle(billing, &direct.caller, batch, how).await,
            Self::Remote(client) => client.post(&["billing", "quarantine", batch, "settle"], how).await,
        }
    }

    pub async fn replay(&self, event: &str) -> Result<InboxEvent> {
        match self {
            Self::Direct(direct, billing) => {
                inbox::replay(billing, &direct.caller, event).await?;
                inbox_event(&mut *direct.control().await?, billing.settings.livemode(), event).await
            }
            Self::Remote(client) => client.post(&["billing", "inbox", event, "replay"], &()).await,
        }
    }

    pub async fn incident_settle(&self, id: IncidentId) -> Result<Incident> {
        match self {
            Self::Direct(direct, _) => incident_settle(&direct.cp, &direct.caller, id).await,
            Self::Remote(client) => {
                client.post(&["billing", "incidents", &id.to_string(), "settle"], &()).await
            }
        }
    }

    pub async fn incident_accept(&self, id: IncidentId, how: &Accept) -> Result<Incident> {
        validate(how)?;
        match self {
            Self::Direct(direct, _) => accept(&direct.cp, &direct.caller, id, how).await,
            Self::Remote(client) => {
                client.post(&["billing", "incidents", &id.to_string(), "accept"], how).await
            }
        }
    }

    pub async fn release(&self, invoice: &str, why: &Release) -> Result<InvoiceRow> {
        validate(why)?;
        match self {
            Self::Direct(direct, billing) => {
                invoice_release(billing, &direct.caller, invoice, why).await?;
                invoice_row(&mut *direct.control().await?, invoice).await
            }
            Self::Remote(client) => client.post(&["billing", "invoices", invoice, "release"], why).await,
        }
    }

    pub async fn override_set(&self, tenant: &str, word: &OverrideAccess) -> Result<TenantAccess> {
        validate(word)?;
        match self {
            Self::Direct(direct, billing) => {
                let id = tenant_find(&mut *direct.control().await?, &named(tenant)).await?.id;
                let word = Override { access: word.access, reason: word.reason.clone(), until: word.until };
                override_set(billing, &direct.caller, id, &word).await?;
                tenant_access(&mut *direct.control().await?, id).await
            }
            Self::Remote(client) => client.post(&["tenants", tenant, "billing-override"], word).await,
        }
    }

    pub async fn override_clear(&self, tenant: &str) -> Result<TenantAccess> {
        match self {
            Self::Direct(direct, billing) => {
                let id = tenant_find(&mut *direct.control().await?, &named(tenant)).await?.id;
                override_clear(billing, &direct.caller, id).await?;
                tenant_access(&mut *direct.control().await?, id).await
            }
            Self::Remote(client) => client.delete(&["tenants", tenant, "billing-override"]).await,
        }
    }
}

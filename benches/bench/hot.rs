//! What every request passes, without its I/O: the work whose instructions the gate counts. Each case does the same fixed
//! thing so many times, over as many tenants as a busy server has at hand.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use data_encoding::BASE32_DNSSEC;
use freehold::billing::access::Access;
use freehold::control_plane::plans;
use freehold::control_plane::tenants::TenantState;
use freehold::data_plane::broker::ledger::{Answer, Ledger, Rules};
use freehold::data_plane::directory::{Capacity, Directory, Tenant};
use freehold::data_plane::limits::{Policy, gcra, headers};
use freehold::data_plane::tenancy::{decide, host};
use freehold::kernel::credentials::{self, KeyHash, KeyKind};
use freehold::kernel::ids::TenantId;
use freehold::kernel::page::Page;
use freehold::kernel::{Clock, Error, Role, Slug, codes};
use freehold::product::opsflow::tasks::Task;
use freehold::product::opsflow::words::{Priority, ProjectId, TaskId, TaskStatus};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Uri};

/// A case: its name, and its work, done this many times.
pub type Case = (&'static str, fn(usize));

pub const CASES: &[Case] = &[
    ("key: parse and hash", key),
    ("directory: key and tenant, warm", directory),
    ("tenancy: host, header, state", tenancy),
    ("limits: decide and say", limits),
    ("ledger: request and release", ledger),
    ("problem: render", problem),
    ("list of 20 tasks: render", list),
];

/// Tenants that take turns.
const TENANTS: usize = 64;

fn key(times: usize) {
    let requests: Vec<HeaderMap> = (0..TENANTS).map(|number| bearer(number).0).collect();
    for time in 0..times {
        let text = decide::bearer(black_box(&requests[time % TENANTS]));
        assert!(black_box(text.and_then(|text| credentials::parse(KeyKind::Tenant, text))).is_some());
    }
}

/// A key that is the same in every run: making one draws randomness, which takes another number of instructions each
/// time.
fn bearer(number: usize) -> (HeaderMap, KeyHash) {
    let mut secret = [7; 25];
    secret[0] = u8::try_from(number).expect("few");
    let body = format!("fhk_{}", BASE32_DNSSEC.encode(&secret));
    let checksum = BASE32_DNSSEC.encode(&crc32fast::hash(body.as_bytes()).to_be_bytes());
    let text = format!("{body}_{checksum}");
    let mut headers = HeaderMap::new();
    let value = HeaderValue::try_from(format!("Bearer {text}")).expect("a header");
    headers.insert(http::header::AUTHORIZATION, value);
    (headers, credentials::hash(&text))
}

fn directory(times: usize) {
    // The pool makes timers as it is built; nothing is ever asked of it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let db = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").expect("a DSN");
    let directory = Directory::new(db, Clock::System, Capacity::default());
    let hashes: Vec<KeyHash> = (0..TENANTS)
        .map(|number| {
            let hash = bearer(number).1;
            directory.learn(tenant(number), hash, Role::Member);
            hash
        })
        .collect();
    for time in 0..times {
        let look = async {
            let key = directory.key(hashes[time % TENANTS]).await.expect("no outage").expect("the key");
            directory.tenant(key.tenant).await.expect("no outage").expect("the tenant")
        };
        black_box(look.now_or_never().expect("it is warm"));
    }
}

fn tenant(number: usize) -> Tenant {
    let plan = plans::parse(plans::SHIPPED).expect("the shipped plans").swap_remove(0);
    Tenant {
        id: TenantId::new(),
        slug: Slug::parse(&format!("tenant-{number}")).expect("a slug"),
        name: "A tenant".into(),
        state: TenantState::Active,
        plan: plan.id.as_str().into(),
        limits: Arc::new(plan.entitlements),
        stored_bytes: 0,
        access: Access::Active,
        epoch: 1,
        domains: Box::new([]),
        login: None,
    }
}

fn tenancy(times: usize) {
    let uri = Uri::from_static("/api/v1/projects");
    let requests: Vec<(HeaderMap, Tenant)> = (0..TENANTS)
        .map(|number| {
            let tenant = tenant(number);
            let mut headers = HeaderMap::new();
            let host = format!("{}.example.com", tenant.slug);
            headers.insert(http::header::HOST, HeaderValue::try_from(host).expect("a header"));
            let slug = HeaderValue::try_from(tenant.slug.as_str()).expect("a header");
            headers.insert(decide::TENANT_HEADER, slug);
            (headers, tenant)
        })
        .collect();
    for time in 0..times {
        let (headers, tenant) = black_box(&requests[time % TENANTS]);
        let host = host::of_request(headers, &uri, "example.com").expect("a host");
        let named = decide::header_of(headers).expect("one header");
        decide::agree(tenant, &host, named).expect("they agree");
        decide::served(tenant).expect("it is served");
    }
}

fn limits(times: usize) {
    let policy = Policy::new(1_000, 2_000);
    let mut kept = [0; TENANTS];
    for time in 0..times {
        let now_us = 1_700_000_000_000_000 + i64::try_from(time).expect("few") * 50;
        let tat = &mut kept[time % TENANTS];
        let (decision, after) = gcra::decide(black_box(policy), *tat, now_us);
        *tat = after;
        let mut answer = HeaderMap::new();
        headers::insert(&mut answer, policy, decision);
        black_box(answer);
    }
}

fn ledger(times: usize) {
    let rules = Rules {
        quantum: Duration::from_millis(50),
        quiet_after: Duration::from_millis(250),
        grow_after: Duration::from_millis(5),
        queue_limit: 64,
    };
    let mut ledger: Ledger<(), ()> = Ledger::new(TENANTS, rules);
    let roles: Vec<Arc<str>> = (0..TENANTS).map(|number| format!("t_{number:026}").into()).collect();
    let begun = Instant::now();
    for time in 0..times {
        let (role, now) = (&roles[time % TENANTS], begun + Duration::from_micros(time as u64 * 50));
        let answer = ledger.request(role, 4, now, || (), || ());
        assert!(matches!(black_box(answer), Answer::Granted { .. }));
        black_box(ledger.release(role, true, now, now));
    }
}

fn problem(times: usize) {
    for _ in 0..times {
        let error = Error::new(black_box(&codes::NOT_FOUND)).detail("there is no task of this id");
        black_box(error.into_response());
    }
}

fn list(times: usize) {
    // The same digits in every run: how many there are decides what rendering them takes.
    let now = chrono::DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time");
    let task = |number: i64| Task {
        id: TaskId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001)),
        project_id: ProjectId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002)),
        title: format!("Task {number}"),
        description: "What there is to do, in a sentence or two. Then it is done.".to_owned(),
        status: TaskStatus::Todo,
        priority: Priority::Normal,
        assignee: Some("someone".to_owned()),
        due_at: Some(now),
        version: number,
        created_by: "key_0".to_owned(),
        created_at: now,
        updated_at: now,
    };
    let page = Page::whole((0..20).map(task).collect());
    for _ in 0..times {
        black_box(serde_json::to_vec(black_box(&page)).expect("plain values"));
    }
}

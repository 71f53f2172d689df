-- What is sold, what was used, what Stripe was told, what was paid. Quantities are whole numbers of a meter's unit; money is
-- whole minor units of a currency; times are UTC. PostgreSQL is the truth: Redis and Stripe are compared with it.

-- What a plan costs. Null price: a plan that is free of charge and has no subscription at Stripe.
ALTER TABLE plan
    -- {"monthly_minor": 4900, "currency": "eur", "trial_days": 14}
    ADD COLUMN price  jsonb,
    -- [{"meter": "tasks_created", "included": 1000, "unit_price_minor": 2}]
    ADD COLUMN meters jsonb NOT NULL DEFAULT '[]';

-- Where a thing of ours is at Stripe, by mode: test and live never mix.
CREATE TABLE stripe_object (
    livemode   boolean NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('product', 'price', 'meter', 'coupon', 'portal_configuration')),
    -- Ours: 'plan:team', 'plan:team:monthly:4900:eur', 'meter:tasks_created'
    name       text NOT NULL,
    stripe_id  text NOT NULL,
    -- What it was made from: another hash means that Stripe is to be brought up to date.
    hash       bytea NOT NULL,
    synced_at  timestamptz NOT NULL,
    PRIMARY KEY (livemode, kind, name)
);

-- ---- the ledger ---------------------------------------------------------------------------------------------------

-- What is counted. Brought by the product and by plans.toml; a meter is never removed once it has facts.
CREATE TABLE meter (
    id          text PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9_]{1,30}$'),
    name        text NOT NULL,
    unit        text NOT NULL,
    -- sum: each fact adds. last: the newest fact of a period is what counts (seats, stored bytes).
    aggregation text NOT NULL CHECK (aggregation IN ('sum', 'last')),
    -- The event name at Stripe.
    event_name  text NOT NULL UNIQUE CHECK (char_length(event_name) <= 100)
);

-- One sealed total. One batch is one meter event at Stripe; immutable but for its delivery.
CREATE TABLE usage_batch (
    id            uuid PRIMARY KEY,
    tenant        uuid NOT NULL REFERENCES tenant (id),
    meter         text NOT NULL REFERENCES meter (id),
    -- Windows are five minutes long and begin at multiples of it.
    window_start  timestamptz NOT NULL,
    -- 0 for the first batch of a window, then one for each time that late facts came.
    seq           integer NOT NULL CHECK (seq >= 0),
    -- The sum of its facts, or the last of them.
    quantity      bigint NOT NULL,
    facts         integer NOT NULL CHECK (facts > 0),
    -- `ub:<tenant>:<meter>:<epoch>:<seq>`: what Stripe tells copies by.
    identifier    text NOT NULL UNIQUE CHECK (char_length(identifier) BETWEEN 1 AND 100),
    -- The timestamp that Stripe is told: inside the window, never across a billing boundary.
    event_at      timestamptz NOT NULL,
    state         text NOT NULL CHECK (state IN ('ready', 'sending', 'delivered', 'unknown', 'rejected', 'quarantined', 'void')),
    delivered_via text CHECK (delivered_via IN ('http_200', 'duplicate_400', 'summary_check', 'manual')),
    -- Which of Stripe's modes it was sent to, and the customer it was sent for: fixed by the first attempt.
    livemode      boolean,
    customer      text,
    attempts      integer NOT NULL DEFAULT 0,
    -- Raised after an answer that Stripe would replay for a day: the next attempt has another idempotency header.
    salt          integer NOT NULL DEFAULT 0,
    -- Since when Stripe may have it. Null while it certainly has not: never sent, or each attempt was turned away.
    first_sent_at timestamptz,
    last_sent_at  timestamptz,
    not_before    timestamptz NOT NULL,
    leased_until  timestamptz,
    fence         bigint NOT NULL DEFAULT 0,
    -- Late for a period whose invoice was final already.
    carried_forward boolean NOT NULL DEFAULT false,
    error         text,
    sealed_at     timestamptz NOT NULL,
    settled_at    timestamptz,
    -- Put back in the queue by the reconciliation, which had proof that Stripe does not have it. Once: what is absent again
    -- after that is for a person.
    requeued_at   timestamptz,
    UNIQUE (tenant, meter, window_start, seq),
    CHECK ((state = 'delivered') = (delivered_via IS NOT NULL))
);
CREATE INDEX usage_batch_due ON usage_batch (not_before, id) WHERE state IN ('ready', 'sending', 'unknown');
CREATE INDEX usage_batch_open ON usage_batch (sealed_at) WHERE state NOT IN ('delivered', 'void');

-- One fact. Append-only: only `batch` is set, once, by the sealer; a correction is a new signed row.
-- Months are partitions (in a schema of their own), so that old ones can be kept elsewhere; see usage_fact_key for what makes
-- a fact one fact.
CREATE TABLE usage_event (
    id          uuid NOT NULL,
    tenant      uuid NOT NULL,
    meter       text NOT NULL,
    -- Who says so: 'outbox:<shard>', 'api_calls:<replica>', 'sampler', 'correction'.
    source      text NOT NULL CHECK (char_length(source) BETWEEN 1 AND 60),
    key         text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 200),
    quantity    bigint NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    batch       uuid,
    -- Too old, or from the future: kept for a person to decide, never sent.
    quarantined text,
    -- Of corrections: the fact that is corrected, why, and the two who did it.
    corrects    uuid,
    reason      text,
    actor       text,
    approved_by text,
    PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);
-- What the sealer looks for. It is empty but for the last minutes.
CREATE INDEX usage_event_open ON usage_event (occurred_at) WHERE batch IS NULL AND quarantined IS NULL;
CREATE INDEX usage_event_batch ON usage_event (batch) WHERE batch IS NOT NULL;
CREATE INDEX usage_event_tenant ON usage_event (tenant, meter, occurred_at);
CREATE INDEX usage_event_quarantined ON usage_event (received_at) WHERE quarantined IS NOT NULL;

CREATE SCHEMA usage_months;
-- What no month was made for: far too old, or a clock that is years ahead. A month that is made later takes its own out.
CREATE TABLE usage_months.other PARTITION OF usage_event DEFAULT;

-- Makes the partition of a month, unless there is one. Says whether it made it.
CREATE FUNCTION usage_month_make(p_month date) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    first  timestamptz := date_trunc('month', p_month::timestamp) AT TIME ZONE 'UTC';
    beyond timestamptz := (date_trunc('month', p_month::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
    name   text := 'm' || to_char(p_month, 'YYYY_MM');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('freehold.usage_months', 0));
    IF to_regclass('usage_months.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM usage_months.other WHERE occurred_at >= first AND occurred_at < beyond) THEN
        EXECUTE format('CREATE TABLE usage_months.%I (LIKE usage_event INCLUDING ALL)', name);
        LOCK TABLE usage_months.other IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM usage_months.other WHERE occurred_at >= %L AND occurred_at < %L RETURNING *)
                        INSERT INTO usage_months.%I SELECT * FROM moved', first, beyond, name);
        EXECUTE format('ALTER TABLE usage_event ATTACH PARTITION usage_months.%I FOR VALUES FROM (%L) TO (%L)',
                       name, first, beyond);
    ELSE
        EXECUTE format('CREATE TABLE usage_months.%I PARTITION OF usage_event FOR VALUES FROM (%L) TO (%L)',
                       name, first, beyond);
    END IF;
    RETURN true;
END $$;
SELECT usage_month_make((date_trunc('month', now()) + m * interval '1 month')::date) FROM generate_series(-2, 2) AS m;

-- What makes a fact one fact, over all months: PostgreSQL keeps a key unique only within a partition unless it holds the
-- partition's column. The same key with another hash is refused (409).
CREATE TABLE usage_fact_key (
    tenant uuid NOT NULL,
    source text NOT NULL,
    key    text NOT NULL,
    -- Of meter and quantity. Not of the time: that is when it was said, and a repeat is said later.
    hash   bytea NOT NULL CHECK (octet_length(hash) = 16),
    month  date NOT NULL,
    -- The fact, so that a repeat gets the same answer.
    event  uuid NOT NULL,
    PRIMARY KEY (tenant, source, key)
);

-- Which worker carries a shard's facts over. It spares work; what keeps facts from being counted twice is usage_fact_key.
CREATE TABLE usage_relay (
    shard        uuid PRIMARY KEY REFERENCES shard (id) ON DELETE CASCADE,
    held_by      text NOT NULL,
    leased_until timestamptz NOT NULL,
    relayed      bigint NOT NULL DEFAULT 0,
    last_at      timestamptz
);

-- What was found in a shard's outbox and is no fact: kept aside for a person, and never counted by itself.
CREATE TABLE usage_stray (
    shard       uuid NOT NULL,
    outbox_id   bigint NOT NULL,
    role_name   text NOT NULL,
    key         text NOT NULL,
    payload     text NOT NULL,
    at          timestamptz NOT NULL,
    why         text NOT NULL CHECK (why IN ('unknown_role', 'unreadable', 'unknown_meter', 'bad_quantity', 'other_body')),
    received_at timestamptz NOT NULL,
    PRIMARY KEY (shard, outbox_id, at)
);
CREATE INDEX usage_stray_received ON usage_stray (received_at);

-- One call in flight per customer and meter. Locking an advisory lock and looking for others let two overlap.
CREATE TABLE usage_lane (
    tenant       uuid NOT NULL REFERENCES tenant (id),
    meter        text NOT NULL REFERENCES meter (id),
    leased_until timestamptz,
    fence        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, meter)
);
CREATE SEQUENCE usage_fence;

-- How the sender as a whole fares: our key refused, Stripe away. One row per mode.
CREATE TABLE stripe_link (
    livemode      boolean PRIMARY KEY,
    -- Set by 401 and 403: nothing is sent until somebody mends the key.
    halted_reason text,
    halted_at     timestamptz,
    last_ok_at    timestamptz,
    last_error_at timestamptz,
    last_error    text,
    -- Seconds that Stripe's clock is ahead of ours, by its Date header.
    skew_seconds  integer,
    -- Turns to send are taken up to here: senders reserve them, and keep Stripe's rate together.
    paced_until   timestamptz
);

-- Corrections need two people: one asks, another agrees.
CREATE TABLE usage_correction (
    id           uuid PRIMARY KEY,
    tenant       uuid NOT NULL REFERENCES tenant (id),
    meter        text NOT NULL REFERENCES meter (id),
    quantity     bigint NOT NULL CHECK (quantity <> 0),
    occurred_at  timestamptz NOT NULL,
    corrects     uuid,
    reason       text NOT NULL CHECK (char_length(reason) BETWEEN 3 AND 500),
    asked_by     text NOT NULL,
    asked_at     timestamptz NOT NULL,
    state        text NOT NULL CHECK (state IN ('asked', 'approved', 'refused')),
    decided_by   text,
    decided_at   timestamptz,
    CHECK (decided_by IS NULL OR decided_by <> asked_by),
    CHECK ((state = 'asked') = (decided_by IS NULL))
);
CREATE INDEX usage_correction_asked ON usage_correction (asked_at);

-- ---- quotas -------------------------------------------------------------------------------------------------------

-- Counts that are enforced where no row in the tenant's schema can be counted at once: requests in a month, bytes stored.
CREATE TABLE quota_level (
    tenant     uuid NOT NULL REFERENCES tenant (id),
    quota      text NOT NULL CHECK (quota IN ('requests_per_month', 'stored_bytes')),
    -- The first day of the period; for stored bytes a constant.
    period     date NOT NULL,
    used       bigint NOT NULL CHECK (used >= 0),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, quota, period)
);

-- Who was told of 80 and 100 percent: once per period.
CREATE TABLE quota_notice (
    tenant  uuid NOT NULL REFERENCES tenant (id),
    quota   text NOT NULL,
    period  date NOT NULL,
    percent smallint NOT NULL CHECK (percent IN (80, 100)),
    at      timestamptz NOT NULL,
    PRIMARY KEY (tenant, quota, period, percent)
);

-- ---- Stripe's objects as they were last fetched ---------------------------------------------------------------------

CREATE TABLE billing_account (
    tenant      uuid PRIMARY KEY REFERENCES tenant (id),
    livemode    boolean NOT NULL,
    customer    text NOT NULL UNIQUE CHECK (customer ~ '^cus_'),
    email       text,
    -- How access stands with money; billing::access decides it, the directory carries it to every server.
    access      text NOT NULL DEFAULT 'active'
        CHECK (access IN ('trialing', 'active', 'grace', 'past_due', 'restricted', 'suspended', 'canceled')),
    access_since timestamptz NOT NULL,
    -- The first moment of the unpaid time that lasts, by Stripe's clock. Null when nothing is owed.
    unpaid_since timestamptz,
    -- Finance's word against the rules: which access, why, by whom, until when.
    override_access text CHECK (override_access IN ('active', 'grace', 'past_due', 'restricted', 'suspended')),
    override_reason text,
    override_by     text,
    override_until  timestamptz,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CHECK (override_access IS NULL OR (override_reason IS NOT NULL AND override_by IS NOT NULL AND override_until IS NOT NULL))
);

CREATE TABLE subscription (
    id            text PRIMARY KEY CHECK (id ~ '^sub_'),
    tenant        uuid NOT NULL REFERENCES tenant (id),
    customer      text NOT NULL,
    plan          text NOT NULL REFERENCES plan (id),
    status        text NOT NULL CHECK (status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due',
                                                  'canceled', 'unpaid', 'paused')),
    period_start  timestamptz NOT NULL,
    period_end    timestamptz NOT NULL,
    trial_end     timestamptz,
    cancel_at     timestamptz,
    canceled_at   timestamptz,
    latest_invoice text,
    -- When Stripe was asked. An answer asked for earlier never overwrites a later one.
    fetched_at    timestamptz NOT NULL
);
CREATE INDEX subscription_tenant ON subscription (tenant);

CREATE TABLE invoice (
    id             text PRIMARY KEY CHECK (id ~ '^in_'),
    tenant         uuid NOT NULL REFERENCES tenant (id),
    subscription   text,
    number         text,
    status         text NOT NULL CHECK (status IN ('draft', 'open', 'paid', 'uncollectible', 'void')),
    currency       text NOT NULL,
    total_minor    bigint NOT NULL,
    tax_minor      bigint NOT NULL DEFAULT 0,
    paid_minor     bigint NOT NULL DEFAULT 0,
    credited_minor bigint NOT NULL DEFAULT 0,
    period_start   timestamptz NOT NULL,
    period_end     timestamptz NOT NULL,
    -- [{"id": "il_…", "meter": "tasks_created" or null, "description": …, "quantity": 12, "unit_minor": 2, "amount_minor": 24,
    --   "period_start": …, "period_end": …}]
    lines          jsonb NOT NULL DEFAULT '[]',
    -- The draft waits for finance because a level of the reconciliation differs.
    held           boolean NOT NULL DEFAULT false,
    hosted_url     text,
    created_at     timestamptz NOT NULL,
    due_at         timestamptz,
    paid_at        timestamptz,
    fetched_at     timestamptz NOT NULL
);
CREATE INDEX invoice_tenant ON invoice (tenant, created_at);

-- ---- webhooks -----------------------------------------------------------------------------------------------------

CREATE TABLE webhook_inbox (
    livemode    boolean NOT NULL,
    event_id    text NOT NULL CHECK (char_length(event_id) BETWEEN 1 AND 255),
    shape       text NOT NULL CHECK (shape IN ('snapshot', 'thin')),
    -- Empty when it could not be read.
    type        text NOT NULL,
    -- What it is about: 'sub_…', 'in_…', 'cus_…', 'mtr_…'. Work on one object is done in turn.
    object      text,
    api_version text,
    payload     jsonb,
    -- The raw body, when it is authentic and no JSON.
    unreadable  bytea,
    happened_at timestamptz,
    received_at timestamptz NOT NULL,
    deliveries  integer NOT NULL DEFAULT 1,
    -- How it came: 'webhook', or 'sweep' when the sweeper found it missing.
    found_by    text NOT NULL DEFAULT 'webhook' CHECK (found_by IN ('webhook', 'sweep')),
    state       text NOT NULL CHECK (state IN ('ready', 'done', 'dead', 'ignored')),
    attempts    integer NOT NULL DEFAULT 0,
    not_before  timestamptz NOT NULL,
    leased_until timestamptz,
    error       text,
    done_at     timestamptz,
    PRIMARY KEY (livemode, event_id)
);
CREATE INDEX webhook_inbox_due ON webhook_inbox (not_before, received_at) WHERE state = 'ready';
CREATE INDEX webhook_inbox_received ON webhook_inbox (received_at);

-- Whoever works on an object holds its lane: the lock is the row, so that two never overlap.
CREATE TABLE webhook_lane (
    object       text PRIMARY KEY,
    fence        bigint NOT NULL,
    leased_until timestamptz NOT NULL
);

-- How far the sweep has looked through Stripe's lists of events.
CREATE TABLE webhook_sweep (
    livemode boolean NOT NULL,
    shape    text NOT NULL CHECK (shape IN ('snapshot', 'thin')),
    seen_to  timestamptz NOT NULL,
    PRIMARY KEY (livemode, shape)
);

-- Side effects that happened: a mail, a suspension. Keyed by what it is about and the transition, so a second event does nothing.
CREATE TABLE billing_effect (
    object     text NOT NULL,
    transition text NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (object, transition)
);

-- What somebody has to look at. Open until settled; one per kind and subject.
CREATE TABLE billing_incident (
    id         uuid PRIMARY KEY,
    kind       text NOT NULL,
    subject    text NOT NULL,
    tenant     uuid,
    detail     jsonb NOT NULL DEFAULT '{}',
    opened_at  timestamptz NOT NULL,
    seen       integer NOT NULL DEFAULT 1,
    settled_at timestamptz,
    settled_by text
);
CREATE UNIQUE INDEX billing_incident_open ON billing_incident (kind, subject) WHERE settled_at IS NULL;

-- ---- reconciliation -----------------------------------------------------------------------------------------------

CREATE TABLE reconcile_run (
    id          uuid PRIMARY KEY,
    livemode    boolean NOT NULL,
    why         text NOT NULL CHECK (why IN ('nightly', 'period_close', 'on_demand')),
    -- Only this tenant; null: all.
    tenant      uuid,
    -- At period close: the draft that waits for the outcome.
    invoice     text,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    state       text NOT NULL CHECK (state IN ('running', 'green', 'red', 'failed')),
    checked     bigint NOT NULL DEFAULT 0,
    fixed       bigint NOT NULL DEFAULT 0,
    -- Nothing is put back into the queue by this one.
    look_only   boolean NOT NULL DEFAULT false,
    -- How far it is, and until when whoever is at it holds it: another takes it up where it was left.
    after_tenant uuid,
    leased_until timestamptz,
    error       text,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz
);

CREATE TABLE reconcile_difference (
    run        uuid NOT NULL REFERENCES reconcile_run (id) ON DELETE CASCADE,
    level      text NOT NULL CHECK (level IN ('L1', 'L2', 'L3', 'L4', 'L5')),
    tenant     uuid,
    meter      text,
    -- A batch identifier, a day, an invoice line: what the two sides are about.
    subject    text NOT NULL,
    ours       bigint NOT NULL,
    theirs     bigint NOT NULL,
    -- ledger_mismatch: our own books disagree with themselves (L1).
    class      text NOT NULL CHECK (class IN ('pending', 'missing_at_stripe', 'extra_at_stripe', 'rejected', 'carried_forward',
                                              'manual_stripe_edit', 'rounding', 'ledger_mismatch')),
    detail     text NOT NULL DEFAULT '',
    fixed      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run, level, subject)
);
CREATE INDEX reconcile_run_started ON reconcile_run (started_at);
CREATE INDEX reconcile_run_invoice ON reconcile_run (invoice, started_at) WHERE invoice IS NOT NULL;

-- What Stripe said it counted, per UTC day, when it was last asked. For reports; never believed over the ledger.
CREATE TABLE reconcile_summary (
    livemode boolean NOT NULL,
    tenant   uuid NOT NULL REFERENCES tenant (id),
    meter    text NOT NULL REFERENCES meter (id),
    day      date NOT NULL,
    value    bigint NOT NULL,
    asked_at timestamptz NOT NULL,
    PRIMARY KEY (livemode, tenant, meter, day)
);

-- Finance reads everything and corrects money; it changes nothing else.
ALTER TABLE operator_key DROP CONSTRAINT operator_key_role_check,
    ADD CONSTRAINT operator_key_role_check CHECK (role IN ('viewer', 'finance', 'operator'));
ALTER TABLE operator DROP CONSTRAINT operator_role_check,
    ADD CONSTRAINT operator_role_check CHECK (role IN ('viewer', 'finance', 'operator'));

-- The control database: which tenants exist, where they live, what they may use, and every change made to them.
-- Times are UTC. States are text with a CHECK: adding one is an ordinary migration.

REVOKE ALL ON SCHEMA public FROM PUBLIC;
-- Tenants' logins may live on the same server: this database is not for them.
DO $$ BEGIN EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()); END $$;

CREATE TABLE plan (
    id           text PRIMARY KEY CHECK (id ~ '^[a-z][a-z0-9_]{1,30}$'),
    name         text NOT NULL,
    tier         text NOT NULL CHECK (tier IN ('pooled', 'dedicated')),
    shard_pool   text NOT NULL,
    entitlements jsonb NOT NULL,
    position     integer NOT NULL,
    retired      boolean NOT NULL DEFAULT false,
    updated_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shard_pool (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{1,30}$'),
    region     text NOT NULL,
    tier       text NOT NULL CHECK (tier IN ('pooled', 'dedicated')),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shard (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9-]{1,30}$'),
    pool            text NOT NULL REFERENCES shard_pool (name),
    region          text NOT NULL,
    state           text NOT NULL CHECK (state IN ('active', 'draining', 'offline')),
    tenant_cap      integer NOT NULL CHECK (tenant_cap > 0),
    -- Tenants placed here. Kept in the transaction that places, so that the cap holds under any concurrency.
    tenants         integer NOT NULL DEFAULT 0 CHECK (tenants >= 0),
    -- Where the admin DSN is kept (env:NAME or file:/path). The DSN itself is a secret and is not here.
    admin_dsn_ref   text NOT NULL,
    -- How a tenant's own login reaches the shard: nothing secret, all that the data plane needs. Read from the DSN
    -- when the shard is prepared; until then it is offline.
    host            text,
    port            integer CHECK (port BETWEEN 1 AND 65535),
    database        text,
    tls             text CHECK (tls IN ('disable', 'verify-full')),
    slot_target     integer NOT NULL DEFAULT 5 CHECK (slot_target >= 0),
    -- What the last probe saw. Placement reads it; a shard not seen lately is not chosen.
    bytes           bigint NOT NULL DEFAULT 0,
    last_seen_at    timestamptz,
    last_failure    text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (host, port, database),
    CHECK (state = 'offline' OR (host IS NOT NULL AND port IS NOT NULL AND database IS NOT NULL AND tls IS NOT NULL))
);

CREATE TABLE tenant (
    id           uuid PRIMARY KEY,
    slug         text NOT NULL,
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    state        text NOT NULL CHECK (state IN ('provisioning', 'active', 'suspended', 'deleting', 'deleted')),
    plan         text NOT NULL REFERENCES plan (id),
    -- Raised at every change of placement or access; a holder of an older one is refused.
    epoch        bigint NOT NULL DEFAULT 1,
    state_reason text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    -- Set while deleting: the earliest moment of the purge.
    purge_after  timestamptz,
    CHECK ((purge_after IS NOT NULL) = (state = 'deleting'))
);
-- A slug is free again once its tenant is purged.
CREATE UNIQUE INDEX tenant_slug_live ON tenant (slug) WHERE state <> 'deleted';
CREATE INDEX tenant_created ON tenant (created_at, id);
CREATE INDEX tenant_purge_due ON tenant (purge_after) WHERE state = 'deleting';

CREATE TABLE tenant_domain (
    domain     text PRIMARY KEY CHECK (domain = lower(domain) AND char_length(domain) <= 253),
    tenant     uuid NOT NULL REFERENCES tenant (id),
    created_at timestamptz NOT NULL
);
CREATE INDEX tenant_domain_tenant ON tenant_domain (tenant);

-- A schema with its login on a shard: spare, or in use by the tenant whose placement names it.
CREATE TABLE slot (
    schema_name text PRIMARY KEY CHECK (schema_name ~ '^t_[0-9a-v]{26}$'),
    shard       uuid NOT NULL REFERENCES shard (id),
    state       text NOT NULL CHECK (state IN ('making', 'ready', 'claimed', 'broken')),
    version     bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL,
    ready_at    timestamptz
);
CREATE INDEX slot_ready ON slot (shard, ready_at, schema_name) WHERE state = 'ready';
CREATE INDEX slot_shard ON slot (shard, state);

-- Tenant T lives on shard S in schema N.
CREATE TABLE placement (
    tenant             uuid PRIMARY KEY REFERENCES tenant (id),
    shard              uuid NOT NULL REFERENCES shard (id),
    schema_name        text NOT NULL UNIQUE REFERENCES slot (schema_name),
    credential_version integer NOT NULL DEFAULT 1,
    version            bigint NOT NULL DEFAULT 0,
    placed_at          timestamptz NOT NULL
);
CREATE INDEX placement_shard ON placement (shard);

-- Fencing numbers: whoever takes over a run gets a higher one, and the lower is refused everywhere.
CREATE SEQUENCE run_fence;

CREATE TABLE run (
    id          uuid PRIMARY KEY,
    kind        text NOT NULL,
    -- What the run is about: a tenant id or a schema name.
    subject     text NOT NULL,
    tenant      uuid REFERENCES tenant (id),
    state       text NOT NULL CHECK (state IN ('pending', 'running', 'undoing', 'done', 'undone', 'stuck')),
    -- Generated values, fixed when the run is recorded, so that every attempt makes the same things.
    input       jsonb NOT NULL,
    error       text,
    attempts    integer NOT NULL DEFAULT 0,
    -- Whether it has turned round: set once, so that a stuck run goes on in the direction it had.
    undo        boolean NOT NULL DEFAULT false,
    fence       bigint NOT NULL DEFAULT 0,
    leased_by   text,
    -- Leases and waits are counted by this database's clock alone: workers' clocks may disagree.
    leased_until timestamptz,
    not_before  timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX run_open ON run (not_before, id) WHERE state IN ('pending', 'running', 'undoing');
CREATE INDEX run_created ON run (created_at, id);
CREATE INDEX run_tenant ON run (tenant, id);
-- One open run per subject: two changes of one tenant never interleave.
CREATE UNIQUE INDEX run_one_open ON run (subject) WHERE state IN ('pending', 'running', 'undoing', 'stuck');

CREATE TABLE run_step (
    run         uuid NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    position    integer NOT NULL,
    name        text NOT NULL,
    state       text NOT NULL CHECK (state IN ('pending', 'done', 'undone')),
    finished_at timestamptz,
    PRIMARY KEY (run, position)
);

CREATE TABLE job (
    id          uuid PRIMARY KEY,
    kind        text NOT NULL,
    -- No default on purpose: a job of a tenant names it, a job of the platform says null.
    tenant      uuid REFERENCES tenant (id),
    -- One waiting job per key: asking twice does not do it twice.
    dedup_key   text,
    payload     jsonb NOT NULL,
    state       text NOT NULL CHECK (state IN ('ready', 'running', 'done', 'dead')),
    attempts    integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 8,
    fence       bigint NOT NULL DEFAULT 0,
    not_before  timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_until timestamptz,
    error       text,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX job_due ON job (not_before, id) WHERE state IN ('ready', 'running');
CREATE INDEX job_created ON job (created_at, id);
CREATE UNIQUE INDEX job_dedup ON job (kind, dedup_key) WHERE state = 'ready';

CREATE TABLE api_key (
    id           uuid PRIMARY KEY,
    tenant       uuid NOT NULL REFERENCES tenant (id),
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    role         text NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
    -- SHA-256 of a random 200-bit secret: nothing to stretch, nothing to leak.
    key_hash     bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    -- The last characters, to tell keys apart.
    tail         text NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_key_tenant ON api_key (tenant, created_at);

CREATE TABLE operator_key (
    id           uuid PRIMARY KEY,
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    key_hash     bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    tail         text NOT NULL,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);

-- Answers kept for a repeated POST of an operator.
CREATE TABLE idempotency (
    scope        text NOT NULL,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    tenant       uuid REFERENCES tenant (id),
    status       smallint,
    body         bytea,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

-- Who did what. Append-only: the trigger refuses change and removal, whoever asks.
CREATE TABLE audit (
    id         uuid PRIMARY KEY,
    at         timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    tenant     uuid,
    subject    text NOT NULL,
    detail     jsonb NOT NULL DEFAULT '{}',
    request_id text
);
CREATE INDEX audit_at ON audit (at, id);
CREATE INDEX audit_tenant ON audit (tenant, at, id);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- What the cloud holds for tenants, beside their schemas.

ALTER TABLE plan
    -- Whether its tenants get a role, a secret and a log group of their own, where something provisions them.
    ADD COLUMN resources boolean NOT NULL DEFAULT false;

ALTER TABLE run
    -- How far a long step is, for people who wait: {"done": 3, "planned": 5, "working": ["…"]}.
    ADD COLUMN progress jsonb;

-- There from the moment that a worker means to make them until they are removed: whoever purges a tenant removes what
-- this names, even if nobody provisions anything any more.
CREATE TABLE tenant_resources (
    tenant         uuid PRIMARY KEY REFERENCES tenant (id),
    state          text NOT NULL CHECK (state IN ('pending', 'ready')),
    -- What the tenant's root says of itself: names and addresses, nothing secret.
    outputs        jsonb,
    -- The database server that is made for this tenant alone, by its shard's name, and what its root says of it.
    server         text UNIQUE CHECK (server ~ '^[a-z][a-z0-9-]{1,30}$'),
    server_outputs jsonb,
    updated_at     timestamptz NOT NULL,
    CHECK ((outputs IS NOT NULL) = (state = 'ready')),
    CHECK (server IS NOT NULL OR server_outputs IS NULL)
);

-- What the last look at something in the cloud found that is not as it was made.
CREATE TABLE infra_look (
    kind      text NOT NULL CHECK (kind IN ('platform', 'shard', 'tenant', 'orphans')),
    -- The environment's only one has no name; a shard's; a tenant's id.
    name      text NOT NULL,
    -- Whose it is: it is forgotten with the tenant.
    tenant    uuid REFERENCES tenant (id),
    looked_at timestamptz NOT NULL,
    -- [{"address": "…", "action": "update"}]
    found     jsonb NOT NULL DEFAULT '[]',
    -- Why the last look saw nothing.
    error     text,
    PRIMARY KEY (kind, name)
);
CREATE INDEX infra_look_tenant ON infra_look (tenant);

-- Workers that provision, and when each was last seen: without one, nobody is promised a server of his own.
CREATE TABLE infra_worker (
    worker  text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

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
    tenant     uuid PRIMARY KEY REFERENCES tenant (id),
    state      text NOT NULL CHECK (state IN ('pending', 'ready')),
    -- What the tenant's root says of itself: names and addresses, nothing secret.
    outputs    jsonb,
    updated_at timestamptz NOT NULL,
    -- What the last look found that somebody else had changed.
    drift      jsonb NOT NULL DEFAULT '[]',
    looked_at  timestamptz,
    CHECK ((outputs IS NOT NULL) = (state = 'ready'))
);
CREATE INDEX tenant_resources_look ON tenant_resources ((coalesce(looked_at, updated_at))) WHERE state = 'ready';

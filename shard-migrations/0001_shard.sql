-- Each shard's own `freehold` schema. The admin login owns it; a tenant login may only add to the outbox.

CREATE SCHEMA IF NOT EXISTS freehold;
REVOKE ALL ON SCHEMA freehold FROM PUBLIC;

-- Events leaving the tenants' transactions. Append-only for tenants; the row is pinned to the login that wrote it.
CREATE TABLE freehold.outbox (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role_name name NOT NULL DEFAULT session_user,
    kind      text NOT NULL CHECK (char_length(kind) BETWEEN 1 AND 60),
    key       text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 200),
    payload   jsonb NOT NULL CHECK (pg_column_size(payload) <= 65536),
    at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE freehold.outbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY outbox_own_rows ON freehold.outbox FOR INSERT TO PUBLIC
    WITH CHECK (role_name = session_user AND session_user = current_user);
-- To PUBLIC, which on a shard means the tenant logins: one grant, where a grant per tenant would grow the table's
-- access list with the fleet.
GRANT USAGE ON SCHEMA freehold TO PUBLIC;
GRANT INSERT (kind, key, payload) ON freehold.outbox TO PUBLIC;

-- The version of every tenant schema on this shard.
CREATE TABLE freehold.schema_version (
    schema_name text PRIMARY KEY,
    version     bigint NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The highest fencing number that has changed each schema. A worker whose lease ran out holds a lower one, and its
-- statement changes nothing (see db::shard::raise_fence).
CREATE TABLE freehold.fence (
    subject text PRIMARY KEY,
    fence   bigint NOT NULL
);

CREATE FUNCTION freehold.raise_fence(p_subject text, p_fence bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO freehold.fence AS held (subject, fence) VALUES (p_subject, p_fence)
    ON CONFLICT (subject) DO UPDATE SET fence = EXCLUDED.fence WHERE held.fence <= EXCLUDED.fence;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a newer worker has taken over %', p_subject USING ERRCODE = 'FH001';
    END IF;
END $$;
REVOKE ALL ON FUNCTION freehold.raise_fence(text, bigint) FROM PUBLIC;

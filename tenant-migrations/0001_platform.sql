-- What the platform needs in every tenant schema. Names are unqualified: the migrator's search_path is the schema.

-- Answers kept for a repeated POST, written in the transaction that did the work.
CREATE TABLE idempotency (
    actor        text NOT NULL,
    key          text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 200),
    request_hash bytea NOT NULL,
    status       smallint,
    location     text,
    etag         text,
    body         bytea,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

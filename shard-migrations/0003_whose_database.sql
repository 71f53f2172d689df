-- Which shard this database is: one row, written when the shard is prepared. An address can be spelled in more than one way,
-- and two shards in one database would each know half of what is there.
CREATE TABLE freehold.shard (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id        uuid NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

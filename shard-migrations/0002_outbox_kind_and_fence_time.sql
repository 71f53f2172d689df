-- What a second look at the first found.

-- One kind of event is read. A row of any other would stay for ever, and a tenant's login may write as many as it likes.
DELETE FROM freehold.outbox WHERE kind <> 'usage';
ALTER TABLE freehold.outbox ADD CONSTRAINT outbox_kind_is_read CHECK (kind = 'usage') NOT VALID;

-- When a fencing number was last raised: one of a schema that is long gone guards nothing any more.
ALTER TABLE freehold.fence ADD COLUMN at timestamptz NOT NULL DEFAULT now();

CREATE OR REPLACE FUNCTION freehold.raise_fence(p_subject text, p_fence bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO freehold.fence AS held (subject, fence, at) VALUES (p_subject, p_fence, clock_timestamp())
    ON CONFLICT (subject) DO UPDATE SET fence = EXCLUDED.fence, at = EXCLUDED.at WHERE held.fence <= EXCLUDED.fence;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a newer worker has taken over %', p_subject USING ERRCODE = 'FH001';
    END IF;
END $$;

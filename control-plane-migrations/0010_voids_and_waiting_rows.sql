-- Two people for what takes use off a bill; and indexes for what is looked at each minute.

-- A batch that a person gives up takes use off a bill: one operator asks for that, another agrees, as with corrections.
CREATE TABLE usage_void (
    batch          uuid PRIMARY KEY REFERENCES usage_batch (id),
    reason         text NOT NULL CHECK (char_length(reason) BETWEEN 3 AND 500),
    asked_by       text NOT NULL,
    -- The operator who stands for it: who asked; when that is not known, the first who agreed.
    asked_person   uuid REFERENCES operator (id),
    asked_at       timestamptz NOT NULL,
    decided_by     text,
    decided_person uuid REFERENCES operator (id),
    decided_at     timestamptz,
    CONSTRAINT usage_void_two_people CHECK (
        decided_at IS NULL AND decided_by IS NULL AND decided_person IS NULL
        OR decided_at IS NOT NULL AND decided_by IS NOT NULL AND asked_person IS NOT NULL AND decided_person IS NOT NULL
           AND decided_person <> asked_person)
);

-- What waits in the inbox is asked for with every decision about access. What is done with is the most of it.
CREATE INDEX webhook_inbox_waiting ON webhook_inbox (received_at) WHERE state IN ('ready', 'dead');
-- Drafts are looked at each minute.
CREATE INDEX invoice_draft ON invoice (created_at) WHERE status = 'draft';

-- A suspension for money is marked by the moment from which access is as it is. Whom an operator let in before that was so has a
-- mark by another name; without this one they would be suspended again.
INSERT INTO billing_effect (object, transition, at)
SELECT a.tenant::text, 'suspend:' || (extract(epoch FROM a.access_since) * 1000000)::bigint, now()
  FROM billing_account a JOIN tenant t ON t.id = a.tenant
 WHERE t.state = 'active' AND a.access = 'suspended'
   AND EXISTS (SELECT FROM billing_effect e WHERE e.object = a.tenant::text AND starts_with(e.transition, 'suspend:')
                  AND e.at >= a.access_since)
ON CONFLICT DO NOTHING;

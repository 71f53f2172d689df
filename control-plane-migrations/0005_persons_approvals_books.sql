-- What a second look at the first four found. Each section stands for itself.

-- ---- persons: a key belongs to somebody, and two people are two operators -------------------------------------------

-- Whose key it is. Null: nobody's (one from before anybody signs in, or of a program): it asks, and decides nothing.
ALTER TABLE operator_key ADD COLUMN owner uuid REFERENCES operator (id);
CREATE INDEX operator_key_owner ON operator_key (owner) WHERE owner IS NOT NULL;

ALTER TABLE usage_correction
    -- The operators behind asked_by and decided_by. Who asked with nobody's key is not known: then the first operator who
    -- agrees stands for it, and a second one has to agree.
    ADD COLUMN asked_person   uuid REFERENCES operator (id),
    ADD COLUMN decided_person uuid REFERENCES operator (id),
    -- The asker's own name for it: asked again under it, it is the same.
    ADD COLUMN reference      text CHECK (char_length(reference) BETWEEN 1 AND 255),
    -- From before a fact was corrected once: another correction of the same fact.
    ADD COLUMN repeated       boolean NOT NULL DEFAULT false;
UPDATE usage_correction c SET repeated = true
  FROM (SELECT id, row_number() OVER (PARTITION BY corrects ORDER BY state, asked_at, id) AS place
          FROM usage_correction WHERE corrects IS NOT NULL AND state IN ('asked', 'approved')) AS p
 WHERE p.id = c.id AND p.place > 1;
-- Those that are decided stay as they were decided.
ALTER TABLE usage_correction ADD CONSTRAINT usage_correction_two_people CHECK (
    state = 'asked' AND decided_person IS NULL
    OR state = 'refused' AND decided_person IS NOT NULL AND decided_person IS DISTINCT FROM asked_person
    OR state = 'approved' AND decided_person IS NOT NULL AND asked_person IS NOT NULL
       AND decided_person <> asked_person) NOT VALID;
CREATE UNIQUE INDEX usage_correction_reference ON usage_correction (asked_by, reference) WHERE reference IS NOT NULL;
-- A fact is corrected once. A correction that was wrong is a fact too, and is corrected itself.
CREATE UNIQUE INDEX usage_correction_once ON usage_correction (corrects)
    WHERE corrects IS NOT NULL AND state IN ('asked', 'approved') AND NOT repeated;

-- ---- tenants: a second person's word, and what a tenant was before it was deleted -----------------------------------

-- Another operator agrees that one deletes so many tenants, or removes so many before their days of grace are over.
CREATE TABLE approval (
    id         uuid PRIMARY KEY,
    action     text NOT NULL CHECK (action IN ('delete', 'purge')),
    -- Whose doing it is.
    operator   uuid NOT NULL REFERENCES operator (id),
    -- Who agrees: as the audit log names them, and the operator behind that. None for a command at the machine.
    actor      text NOT NULL,
    agreed     uuid REFERENCES operator (id),
    reason     text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    tenants    integer NOT NULL CHECK (tenants BETWEEN 1 AND 1000),
    used       integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT approval_two_people CHECK (agreed <> operator),
    CHECK (used BETWEEN 0 AND tenants),
    CHECK (expires_at <= created_at + interval '4 hours')
);
CREATE INDEX approval_open ON approval (operator, action, expires_at);

-- What an undelete leads back to. Null: active.
ALTER TABLE tenant
    ADD COLUMN former_state  text CHECK (former_state = 'suspended'),
    ADD COLUMN former_reason text;

-- ---- shards: how tenants' logins check who they talk to ------------------------------------------------------------

-- The authorities that a shard's certificate is checked against, as PEM: what the admin's DSN names in a file. Null: the
-- public ones.
ALTER TABLE shard ADD COLUMN tls_ca text CHECK (char_length(tls_ca) <= 65536);

-- ---- the books ----------------------------------------------------------------------------------------------------

-- When a shard's outbox was last found empty, or emptied: every fact that was committed there by then is in the ledger. A period
-- is not closed before that of its tenant's shard.
ALTER TABLE usage_relay ADD COLUMN emptied_at timestamptz;

-- When Stripe answered that it holds the draft. Null while `held`: it was decided here and Stripe is still to be told.
ALTER TABLE invoice ADD COLUMN hold_told_at timestamptz;

-- credit_due: less than nothing is left to bill in a period; the rest is owed to the customer.
-- not_compared: Stripe refused the questions about one tenant.
ALTER TABLE reconcile_difference DROP CONSTRAINT reconcile_difference_class_check,
    ADD CONSTRAINT reconcile_difference_class_check CHECK (class IN (
        'pending', 'missing_at_stripe', 'extra_at_stripe', 'rejected', 'carried_forward', 'manual_stripe_edit', 'rounding',
        'ledger_mismatch', 'credit_due', 'not_compared'));

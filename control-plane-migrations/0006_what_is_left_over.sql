-- What is left over when a period is closed, and what finance decides about it.

-- The moment that a batch was to be told for before it was moved past a final invoice. Null once it is known which of the two
-- Stripe has; until then, an answer that Stripe knows its identifier says nothing of where it counts it.
ALTER TABLE usage_batch ADD COLUMN moved_from timestamptz;
-- Few are carried forward. Each is looked at in every comparison: does an invoice cover the time that it was told for?
CREATE INDEX usage_batch_carried ON usage_batch (tenant, event_at) WHERE carried_forward;

-- Finance decided about what is owed to a customer, or billed by nobody: it stays as it is. For so many units; more of them is
-- to be decided anew.
CREATE TABLE reconcile_decision (
    -- As in reconcile_difference.
    subject    text PRIMARY KEY,
    tenant     uuid NOT NULL REFERENCES tenant (id),
    units      bigint NOT NULL CHECK (units > 0),
    reason     text NOT NULL CHECK (char_length(reason) BETWEEN 3 AND 500),
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL
);

-- unbilled: told for a time that no invoice covers.
-- settled: less than nothing was left to bill, or nobody bills it, and that is credited, worth nothing, or decided by finance.
ALTER TABLE reconcile_difference DROP CONSTRAINT reconcile_difference_class_check,
    ADD CONSTRAINT reconcile_difference_class_check CHECK (class IN (
        'pending', 'missing_at_stripe', 'extra_at_stripe', 'rejected', 'carried_forward', 'manual_stripe_edit', 'rounding',
        'ledger_mismatch', 'credit_due', 'not_compared', 'unbilled', 'settled'));

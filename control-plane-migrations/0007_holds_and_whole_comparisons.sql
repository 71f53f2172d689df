-- Which drafts are held, as we want it and as Stripe was told; and which comparisons speak for a tenant.

-- `held` is what we want. `hold_told_at` says what Stripe was told last: to hold it, or, when null, not to. Where the two differ,
-- a worker tells Stripe.
ALTER TABLE invoice
    -- Somebody tells Stripe now. Until they have written down what, or another one has after this, nobody knows what it was told.
    ADD COLUMN hold_leased_until timestamptz,
    -- Whether Stripe would have made the draft final by itself before we held it: what it is given back. Null: it was not held.
    ADD COLUMN hold_advanced boolean;
-- From before: those of a subscription that was given up as unpaid waited by Stripe's own rule.
UPDATE invoice i SET hold_advanced = NOT EXISTS (SELECT FROM subscription s WHERE s.id = i.subscription AND s.status = 'unpaid')
 WHERE i.held AND i.status = 'draft';
UPDATE invoice SET held = false, hold_told_at = NULL WHERE status <> 'draft' AND (held OR hold_told_at IS NOT NULL);
UPDATE billing_incident n SET settled_at = now(), settled_by = 'migration'
 WHERE n.kind = 'draft_held' AND n.settled_at IS NULL
   AND NOT EXISTS (SELECT FROM invoice i WHERE i.id = n.subject AND i.status = 'draft');
CREATE INDEX invoice_hold_untold ON invoice (id) WHERE held <> (hold_told_at IS NOT NULL) OR hold_leased_until IS NOT NULL;

-- A comparison of all invoices over the usual days: at least the 34 before the day on which it began. Only such a one says that
-- nothing is wrong with a tenant; a narrower one may say that something is.
ALTER TABLE reconcile_run ADD COLUMN whole boolean NOT NULL GENERATED ALWAYS AS (
    invoice IS NULL
    AND (from_at AT TIME ZONE 'UTC') <= date_trunc('day', started_at AT TIME ZONE 'UTC') - interval '34 days'
    AND (to_at AT TIME ZONE 'UTC') >= date_trunc('day', started_at AT TIME ZONE 'UTC')) STORED;
CREATE INDEX reconcile_run_whole ON reconcile_run (started_at) WHERE whole;

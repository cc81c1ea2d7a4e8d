-- migrate:up
-- Payments, what the gateway said about them, and everything a payment leads to.
SET LOCAL ROLE core_owner;

CREATE TABLE payments (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users,
  wallet_id uuid NOT NULL REFERENCES wallets,
  order_id text COLLATE "C" NOT NULL UNIQUE,            -- ours, persisted before the gateway hears of it
  payment_session_id text,
  cashfree_order_id text COLLATE "C",
  cashfree_payment_id text COLLATE "C",
  amount bigint NOT NULL CHECK (amount > 0),            -- paise, tax included
  currency text NOT NULL DEFAULT 'INR' CHECK (currency = 'INR'),
  base_credits bigint NOT NULL,
  bonus_credits bigint NOT NULL,
  credits_granted bigint NOT NULL CHECK (credits_granted = base_credits + bonus_credits AND credits_granted > 0),
  taxable_amount bigint NOT NULL,                       -- paise
  cgst_amount bigint NOT NULL,
  sgst_amount bigint NOT NULL,
  igst_amount bigint NOT NULL,
  gst_amount bigint NOT NULL,
  offer_amount bigint NOT NULL DEFAULT 0,               -- of the amount, what an offer paid: known since the verification
  offer_id text COLLATE "C",                            -- the gateway's
  platform_fee bigint NOT NULL DEFAULT 0,
  place_of_supply text NOT NULL,                        -- GST State code
  status text NOT NULL DEFAULT 'created' CHECK (status IN (
    'created', 'active', 'failed', 'expired', 'verified', 'held', 'rejected', 'credited', 'mismatch', 'refunded')),
  payment_method jsonb,
  payment_group text,
  instrument text COLLATE "C",                          -- what was paid with, as the gateway names it: an entity of the fraud windows
  customer_phone text,
  customer_email text,
  device_id text,
  ip inet,
  metadata jsonb NOT NULL DEFAULT '{}',
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,
  request_hash bytea NOT NULL,
  webhook_verified boolean NOT NULL DEFAULT false,      -- a signed webhook reported success
  verified_at timestamptz,                              -- GET order said PAID, amount and currency equal ours: the only licence to credit (0010)
  credited_at timestamptz,
  failed_at timestamptz,                                -- the first failure, also of a payment that succeeded later
  failure text,
  credit_partition integer,                             -- of wallet.credit, known since the verification
  refunded boolean NOT NULL DEFAULT false,
  refund_amount bigint NOT NULL DEFAULT 0 CHECK (refund_amount BETWEEN 0 AND amount),
  fraud_score integer,
  fraud_decided_at timestamptz,
  retry_count integer NOT NULL DEFAULT 0,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  -- Its own column, for an index: it changes once, so that the other changes of status stay HOT updates.
  unpaid boolean NOT NULL GENERATED ALWAYS AS (verified_at IS NULL AND status IN ('created', 'active', 'failed')) STORED,
  CONSTRAINT payment_tax CHECK (amount = taxable_amount + cgst_amount + sgst_amount + igst_amount
                                AND gst_amount = cgst_amount + sgst_amount + igst_amount),
  CONSTRAINT payment_offer CHECK (offer_amount = 0 OR offer_amount > 0 AND offer_amount < amount AND offer_id IS NOT NULL)
) WITH (fillfactor = 40);   -- five updates within a second: room on the page for all its rows' next versions
CREATE INDEX payments_user ON payments (user_id, created_at);
CREATE INDEX payments_recent ON payments (created_at);

-- One order has many attempts, each its own id; only SUCCESS is final.
CREATE TABLE payment_attempts (
  order_id text COLLATE "C" NOT NULL,
  cashfree_payment_id text COLLATE "C" NOT NULL,
  payment_id uuid NOT NULL,
  status text NOT NULL,                                 -- the gateway's word, unknown values kept
  payment_group text,
  amount bigint,                                        -- paise, as claimed
  offer_id text COLLATE "C",                            -- the offer on record: redeemed, says the signed webhook
  offer_amount bigint,                                  -- paise off the order's amount
  seen text[] NOT NULL,                                 -- every status heard, in the order it came
  occurred_at timestamptz NOT NULL,                     -- of the status that stands
  first_seen_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (order_id, cashfree_payment_id)
);

-- The inbox of webhooks: what POST /v1/webhooks/cashfree answers 200 for.
CREATE TABLE payment_webhooks (
  id uuid PRIMARY KEY,
  business_key text COLLATE "C" NOT NULL UNIQUE,        -- type:id:status; a redelivery in another version meets the same row
  kind text NOT NULL,                                   -- payment, refund, dispute, settlement, ..., unknown
  event_type text NOT NULL,
  order_id text COLLATE "C",
  cashfree_payment_id text COLLATE "C",
  refund_id text COLLATE "C",
  status text,
  payment_group text,
  payment_method jsonb,
  instrument text COLLATE "C",
  amount bigint,                                        -- paise, as claimed: never authority
  offer_id text COLLATE "C",
  offer_amount bigint,
  currency text,
  occurred_at timestamptz NOT NULL,                     -- clamped once, here
  version text NOT NULL,
  stale boolean NOT NULL,
  source_ip inet,
  deliveries integer NOT NULL DEFAULT 1,
  traceparent text,                                     -- W3C; of the few that are traced
  published_at timestamptz,
  closed_at timestamptz,                                -- the outcome of webhook.processing
  outcome text,
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
-- The signed bytes of each, apart: a webhook's row is written three times, and these are most of it.
CREATE TABLE webhook_bodies (
  webhook_id uuid PRIMARY KEY,
  body bytea NOT NULL
);
CREATE INDEX webhooks_unpublished ON payment_webhooks (id) WHERE published_at IS NULL;
CREATE INDEX webhooks_open ON payment_webhooks (published_at) WHERE closed_at IS NULL;
CREATE INDEX webhooks_traced ON payment_webhooks (order_id) WHERE traceparent IS NOT NULL;
CREATE INDEX webhooks_traced_at ON payment_webhooks (created_at) WHERE traceparent IS NOT NULL;

-- Orders to ask the gateway about, drained by deadline within its rate limits.
CREATE TABLE verifications (
  payment_id uuid PRIMARY KEY,
  order_id text COLLATE "C" NOT NULL,
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'done', 'orphan')),
  reason text NOT NULL,
  attempt integer NOT NULL DEFAULT 0,                   -- answers that said not paid
  deferrals integer NOT NULL DEFAULT 0,                 -- times in a row that the gateway gave no answer
  whole boolean NOT NULL DEFAULT false,                 -- all we heard is one success, of the whole amount: GET order is enough
  next_at timestamptz NOT NULL,
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  amount bigint NOT NULL,
  result text,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
) WITH (fillfactor = 60);
CREATE INDEX verifications_due ON verifications (next_at) WHERE state = 'due';

-- The entities by which a payment is judged, in the order of their counts: payments and paise in 1 m, 1 h and 24 h of the first, of the next, ...
CREATE FUNCTION entity_kinds() RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '{user,device,ip,instrument}'::text[] $$;
CREATE FUNCTION count_place(p_kind text, p_resolution text, p_measure text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT 6 * array_position(entity_kinds(), p_kind) + 2 * array_position('{1m,1h,24h}', p_resolution) + array_position('{count,amount}', p_measure) - 8
$$;

-- Fan-in of the fraud counts: the transaction that completes the set scores, once. One row, so that an answer is one short update of it.
CREATE TABLE fraud_checks (
  payment_id uuid PRIMARY KEY,
  entities text[] COLLATE "C" NOT NULL,                 -- by entity_kinds(); NULL: it has none
  amount bigint NOT NULL,                               -- paise
  occurred_at timestamptz NOT NULL,                     -- the minute it counts in
  counts bigint[] NOT NULL DEFAULT array_fill(NULL::bigint, '{24}'),   -- by count_place; NULL while awaited
  awaited smallint NOT NULL CHECK (awaited >= 0),       -- entities that have not answered
  missed boolean NOT NULL DEFAULT false,                -- the decision did not wait for them
  requested_at timestamptz NOT NULL DEFAULT now(),
  overdue_at timestamptz NOT NULL DEFAULT now(),        -- from when on the timer's patience counts
  open boolean NOT NULL GENERATED ALWAYS AS (awaited > 0 AND NOT missed) STORED   -- its own column so that all answers but the last are HOT updates
) WITH (fillfactor = 50);
CREATE INDEX fraud_checks_open ON fraud_checks (overdue_at) WHERE open;

CREATE TABLE fraud_rules (
  code text COLLATE "C" PRIMARY KEY,
  entity_kind text NOT NULL,
  resolution text NOT NULL CHECK (resolution IN ('1m', '1h', '24h')),
  measure text NOT NULL CHECK (measure IN ('count', 'amount')),
  threshold bigint NOT NULL,                            -- fires above it
  points integer NOT NULL CHECK (points BETWEEN 1 AND 100),
  enabled boolean NOT NULL DEFAULT true,
  place integer NOT NULL GENERATED ALWAYS AS (count_place(entity_kind, resolution, measure)) STORED
);
INSERT INTO fraud_rules (code, entity_kind, resolution, measure, threshold, points) VALUES
  ('user_count_1m', 'user', '1m', 'count', 5, 30),
  ('user_count_1h', 'user', '1h', 'count', 20, 30),
  ('user_count_24h', 'user', '24h', 'count', 50, 20),
  ('user_amount_1h', 'user', '1h', 'amount', 1000000, 30),
  ('user_amount_24h', 'user', '24h', 'amount', 2500000, 30),
  ('device_count_1m', 'device', '1m', 'count', 5, 30),
  ('device_count_1h', 'device', '1h', 'count', 20, 30),
  ('device_amount_24h', 'device', '24h', 'amount', 2500000, 20),
  ('ip_count_1m', 'ip', '1m', 'count', 20, 20),
  ('ip_count_1h', 'ip', '1h', 'count', 200, 20),
  ('ip_amount_1h', 'ip', '1h', 'amount', 10000000, 20),
  ('instrument_count_1m', 'instrument', '1m', 'count', 3, 40),
  ('instrument_count_1h', 'instrument', '1h', 'count', 10, 40),
  ('instrument_amount_24h', 'instrument', '24h', 'amount', 2500000, 30);   -- as domain/fraud.py has them

CREATE TABLE fraud_events (
  payment_id uuid PRIMARY KEY,                          -- scored once
  id uuid NOT NULL DEFAULT uuidv7(),                    -- the order of the list of holds
  user_id uuid NOT NULL,
  score integer NOT NULL,
  reasons text[] NOT NULL,
  missing text[] NOT NULL,                              -- entities that did not answer within 2 s
  verdict text NOT NULL CHECK (verdict IN ('allow', 'hold')),
  created_at timestamptz NOT NULL DEFAULT now()
);

-- What a person decided about a held payment.
CREATE TABLE fraud_reviews (
  payment_id uuid PRIMARY KEY,
  verdict text NOT NULL CHECK (verdict IN ('release', 'reject')),
  actor text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Money going back. Ours (PRO_RATA, RETIER) hold credits of one lot; FORCED ones the gateway or a bank took without asking; UNAPPLIED
-- returns money that never was a sale. The gateway is asked about a row at next_at, by one worker at a time.
CREATE TABLE refunds (
  id uuid PRIMARY KEY,
  refund_id text COLLATE "C" NOT NULL UNIQUE,           -- ours, persisted before the gateway hears of it; of a FORCED one, the gateway's
  payment_id uuid NOT NULL REFERENCES payments,
  wallet_id uuid NOT NULL,
  lot_id uuid,
  hold_id uuid,
  amount bigint NOT NULL CHECK (amount > 0),            -- paise
  credits_reversed bigint NOT NULL DEFAULT 0,           -- once done; of a forced one, with what became debt
  policy text NOT NULL CHECK (policy IN ('PRO_RATA', 'RETIER', 'FORCED', 'UNAPPLIED')),
  status text NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'due', 'pending', 'review', 'payout_requested', 'payout_approved',
    'done', 'failed', 'cancelled', 'rejected', 'reversed')),   -- domain/refund_states.py
  gateway_status text,                                  -- the gateway's last word, unknown ones kept
  cashfree_refund_id text COLLATE "C",
  cashfree_payment_id text COLLATE "C",                 -- the attempt that is returned, where that matters
  outside boolean NOT NULL DEFAULT false,               -- beyond the sale: paid twice, or more went back than was captured
  reason text,
  failure text,
  requested_by text NOT NULL,
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,
  request_hash bytea NOT NULL DEFAULT '\x',
  taxable_amount bigint NOT NULL DEFAULT 0,             -- the slice, once done
  cgst_amount bigint NOT NULL DEFAULT 0,
  sgst_amount bigint NOT NULL DEFAULT 0,
  igst_amount bigint NOT NULL DEFAULT 0,
  offer_amount bigint NOT NULL DEFAULT 0,               -- given up with it: the slice of the sale is amount + offer_amount
  transaction_id uuid,                                  -- of the ledger
  closes_payment boolean NOT NULL DEFAULT false,        -- with it, all of the payment has gone back
  next_at timestamptz NOT NULL DEFAULT 'infinity',
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  maybe_sent boolean NOT NULL DEFAULT false,            -- a request may have reached the gateway: look before sending again
  attempt integer NOT NULL DEFAULT 0,                   -- answers, and times that it was marked due
  deferrals integer NOT NULL DEFAULT 0,                 -- times in a row without an answer
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  reversed_at timestamptz
) WITH (fillfactor = 60);
CREATE INDEX refunds_payment ON refunds (payment_id);
CREATE INDEX refunds_due ON refunds (next_at) WHERE next_at < 'infinity';

CREATE TABLE invoice_series (
  series text COLLATE "C" NOT NULL CHECK (series ~ '^[A-Z]{3}$'),
  financial_year smallint NOT NULL,                     -- the year it starts, IST
  last_number bigint NOT NULL DEFAULT 0 CHECK (last_number BETWEEN 0 AND 999999999),
  PRIMARY KEY (series, financial_year)
) WITH (fillfactor = 20);

-- Tax invoices and credit notes, frozen when issued; only what became of their picture and a voiding come later.
CREATE TABLE invoices (
  id uuid PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('tax_invoice', 'credit_note')),
  number text COLLATE "C" NOT NULL UNIQUE,            -- of series, year and serial (invoice_number), which are unique with it
  series text COLLATE "C" NOT NULL,
  financial_year smallint NOT NULL,
  serial bigint NOT NULL,
  payment_id uuid NOT NULL,
  user_id uuid NOT NULL,
  refund_id uuid,
  invoice_id uuid,                                      -- of a credit note: what it corrects
  place_of_supply text NOT NULL,
  gross_amount bigint NOT NULL CHECK (gross_amount > 0),   -- paise, as all below
  taxable_amount bigint NOT NULL CHECK (taxable_amount >= 0),
  cgst_amount bigint NOT NULL CHECK (cgst_amount >= 0),
  sgst_amount bigint NOT NULL CHECK (sgst_amount >= 0),
  igst_amount bigint NOT NULL CHECK (igst_amount >= 0),
  document jsonb NOT NULL,                              -- everything that is printed
  issued_at timestamptz NOT NULL,                       -- the event's time: decides the financial year
  recorded_at timestamptz NOT NULL DEFAULT now(),
  batch_id uuid,                                        -- of a tax invoice
  rendered_at timestamptz,
  storage_key text COLLATE "C",
  render_attempt integer NOT NULL DEFAULT 0,
  render_after timestamptz NOT NULL DEFAULT '-infinity',   -- a lease, or the pause after a failure
  render_error text,
  voided_at timestamptz,                                -- a voided document keeps its number
  void_reason text,
  CONSTRAINT invoice_number CHECK (number = series || '/' || lpad((financial_year % 100)::text, 2, '0') || '/' || lpad(serial::text, 9, '0')),
  CONSTRAINT invoice_parts CHECK (gross_amount = taxable_amount + cgst_amount + sgst_amount + igst_amount),
  CONSTRAINT credit_note_corrects CHECK ((kind = 'credit_note') = (invoice_id IS NOT NULL AND refund_id IS NOT NULL)),
  CONSTRAINT invoice_rendered CHECK (rendered_at IS NULL OR storage_key IS NOT NULL)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX invoices_payment ON invoices (payment_id) WHERE kind = 'tax_invoice';
CREATE UNIQUE INDEX invoices_refund ON invoices (refund_id) WHERE kind = 'credit_note';
CREATE INDEX invoices_corrections ON invoices (invoice_id) WHERE kind = 'credit_note';
CREATE INDEX invoices_user ON invoices (user_id, issued_at);
CREATE INDEX invoices_unrendered ON invoices (render_after, id) WHERE rendered_at IS NULL;

CREATE TABLE billing_events (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  kind text NOT NULL,
  user_id uuid,
  wallet_id uuid,
  payment_id uuid,
  credits bigint,
  amount bigint,                                        -- paise
  detail jsonb NOT NULL DEFAULT '{}',
  source text COLLATE "C" NOT NULL,
  source_id text COLLATE "C" NOT NULL,
  occurred_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (kind, source, source_id)
);

CREATE TABLE subscriptions (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users,
  wallet_id uuid NOT NULL,
  community_id uuid,
  plan text NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),            -- paise per period
  credits_per_period bigint NOT NULL DEFAULT 0,
  status text NOT NULL DEFAULT 'pending',
  cashfree_subscription_id text COLLATE "C" UNIQUE,
  mandate jsonb NOT NULL DEFAULT '{}',
  current_period_start timestamptz,
  current_period_end timestamptz,
  cancel_at timestamptz,
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE community_settlements (
  id uuid PRIMARY KEY,
  community_id uuid NOT NULL,
  period_start timestamptz NOT NULL,
  period_end timestamptz NOT NULL,
  gross_amount bigint NOT NULL,                         -- paise, as all below
  platform_fee bigint NOT NULL,
  platform_fee_gst bigint NOT NULL,
  gateway_fee bigint NOT NULL,
  gateway_fee_gst bigint NOT NULL,
  tcs_amount bigint NOT NULL,
  tds_amount bigint NOT NULL,
  payable_amount bigint NOT NULL,
  status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'pending_approval', 'processing', 'paid', 'failed', 'reversed')),
  approved_by text,
  transfer_id text COLLATE "C" UNIQUE,
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT settlement_parts CHECK (gross_amount = platform_fee + platform_fee_gst + gateway_fee + gateway_fee_gst + tcs_amount + tds_amount + payable_amount)
);

-- A difference that a person must look at: never corrected by overwriting. One per kind and subject: it is opened again when it recurs.
-- expected and actual are as seen last; history keeps every version, and only grows (migration 0017).
CREATE TABLE reconciliation_cases (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  kind text COLLATE "C" NOT NULL,
  subject text COLLATE "C" NOT NULL,
  expected jsonb NOT NULL,
  actual jsonb NOT NULL,
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'resolved')),
  accepted boolean NOT NULL DEFAULT false,              -- resolved as it is: the same values again are no news
  owner text,
  history jsonb NOT NULL DEFAULT '[]',                  -- [{"event", "at", "actor", ...}, ...]
  created_at timestamptz NOT NULL DEFAULT now(),
  resolved_at timestamptz,
  CONSTRAINT reconciliation_subject UNIQUE (kind, subject),
  CONSTRAINT reconciliation_resolved CHECK ((state = 'resolved') = (resolved_at IS NOT NULL) AND (state = 'resolved' OR NOT accepted))
);
CREATE INDEX reconciliation_open ON reconciliation_cases (id) WHERE state = 'open';

-- Who did what. Writers give actor, action, object and detail; the rest is the trigger's (migration 0025).
CREATE TABLE audit_logs (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  chain text COLLATE "C" NOT NULL,
  seq bigint NOT NULL,
  actor text NOT NULL,
  role text,
  action text NOT NULL,
  object_kind text NOT NULL,
  object_id text NOT NULL,
  source_ip inet,
  request_id text,
  detail jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),
  link bytea NOT NULL,
  UNIQUE (chain, seq)
);

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;

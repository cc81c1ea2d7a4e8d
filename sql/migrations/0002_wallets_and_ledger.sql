-- migrate:up
-- Wallets, lots, and the immutable ledger. Amounts: credits are integers, money is integer paise.
-- Hot tables carry no foreign keys (they double the cost of a posting); commit_batch is their only writer.
SET LOCAL ROLE core_owner;

CREATE TABLE users (
  id uuid PRIMARY KEY,
  external_id text COLLATE "C" NOT NULL UNIQUE,
  name text,
  email text,
  phone text,
  state_code text CHECK (state_code ~ '^[0-9]{2}$'),   -- GST State code: the place of supply of a B2C sale
  gstin text CHECK (gstin ~ '^[0-9]{2}[A-Z0-9]{13}$'),
  notification_preferences jsonb NOT NULL DEFAULT '{}',
  request_hash bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE wallets (
  id uuid PRIMARY KEY,
  owner_id uuid NOT NULL,
  community_id uuid,
  available_credits bigint NOT NULL DEFAULT 0 CHECK (available_credits >= 0),
  locked_credits bigint NOT NULL DEFAULT 0 CHECK (locked_credits >= 0),
  pending_credits bigint NOT NULL DEFAULT 0 CHECK (pending_credits >= 0),   -- verified, not yet posted; no ledger entry
  debt_credits bigint NOT NULL DEFAULT 0 CHECK (debt_credits >= 0),         -- owed after a forced reversal; apart from the balance
  debt_paise bigint NOT NULL DEFAULT 0 CHECK (debt_paise >= 0),             -- what that debt stands for in credit_debt_receivable
  lifetime_purchased_credits bigint NOT NULL DEFAULT 0,
  auto_recharge_enabled boolean NOT NULL DEFAULT false,
  auto_recharge_threshold bigint NOT NULL DEFAULT 200 CHECK (auto_recharge_threshold >= 0),
  auto_recharge_pack_paise bigint,
  seq bigint NOT NULL DEFAULT 0,                                            -- of the wallet's last transaction
  next_expiry_at timestamptz NOT NULL DEFAULT 'infinity',                   -- no open lot expires before; may be too early, never too late
  request_hash bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX wallets_owner ON wallets (owner_id);

-- A lot is what one purchase or one promotion brought. granted = spent + debt_paid + reversed + expired + held + free (I17).
CREATE TABLE lots (
  id uuid PRIMARY KEY,
  wallet_id uuid NOT NULL,
  transaction_id uuid NOT NULL,
  payment_id uuid,                                      -- what it was bought with
  reinstates uuid,                                      -- the forced reversal that was won back and brought it: no second purchase
  priority smallint NOT NULL DEFAULT 0,
  promotional boolean NOT NULL,
  effective_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL DEFAULT 'infinity',
  granted_credits bigint NOT NULL CHECK (granted_credits BETWEEN 1 AND 1000000000),
  base_credits bigint NOT NULL,
  bonus_credits bigint NOT NULL,
  free_credits bigint NOT NULL CHECK (free_credits >= 0),
  held_credits bigint NOT NULL DEFAULT 0 CHECK (held_credits >= 0),
  spent_credits bigint NOT NULL DEFAULT 0,
  expired_credits bigint NOT NULL DEFAULT 0,
  reversed_credits bigint NOT NULL DEFAULT 0,
  debt_paid_credits bigint NOT NULL DEFAULT 0,
  owed_credits bigint NOT NULL DEFAULT 0,               -- of those gone, what forced reversals made the wallet's debt
  taxable_paise bigint NOT NULL DEFAULT 0 CHECK (taxable_paise BETWEEN 0 AND 9000000000),   -- what was paid for it, with the three below
  cgst_paise bigint NOT NULL DEFAULT 0,
  sgst_paise bigint NOT NULL DEFAULT 0,
  igst_paise bigint NOT NULL DEFAULT 0,
  refunded_paise bigint NOT NULL DEFAULT 0,             -- of the price: what went back, with its part of the offer
  offer_paise bigint NOT NULL DEFAULT 0 CHECK (offer_paise >= 0),   -- of the price, what an offer of the gateway's paid
  offer_returned_paise bigint NOT NULL DEFAULT 0 CHECK (offer_returned_paise BETWEEN 0 AND offer_paise),   -- given up by refunds
  returned_paise bigint NOT NULL DEFAULT 0,             -- deferred revenue that refunds took back
  recognised_paise bigint NOT NULL DEFAULT 0,           -- deferred revenue earned: revenue, breakage, debt settled
  open boolean NOT NULL DEFAULT true,                   -- free + held > 0; its own column so that a spend stays a HOT update
  CONSTRAINT lot_identity CHECK (granted_credits = free_credits + held_credits + spent_credits + expired_credits + reversed_credits + debt_paid_credits),
  CONSTRAINT lot_parts CHECK (granted_credits = base_credits + bonus_credits),
  CONSTRAINT lot_open CHECK (open = (free_credits + held_credits > 0)),
  CONSTRAINT lot_defers CHECK (taxable_paise >= returned_paise + recognised_paise),
  CONSTRAINT lot_finished_defers_nothing CHECK (open OR taxable_paise = returned_paise + recognised_paise)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX lots_open ON lots (wallet_id) WHERE open;
CREATE INDEX lots_expiring ON lots (expires_at) WHERE open AND expires_at < 'infinity';
CREATE UNIQUE INDEX lots_payment ON lots (payment_id) WHERE payment_id IS NOT NULL AND reinstates IS NULL;
CREATE INDEX lots_reinstated ON lots (payment_id) WHERE reinstates IS NOT NULL;

CREATE TABLE wallet_transactions (
  id uuid PRIMARY KEY,                                  -- UUIDv7, made by the caller
  wallet_id uuid NOT NULL,
  seq bigint NOT NULL,                                  -- per wallet, gapless across topics
  transaction_type transaction_kind NOT NULL,
  credits bigint NOT NULL,                              -- signed effect on available credits
  amount_credits bigint NOT NULL CHECK (amount_credits > 0),   -- what the command asked for
  balance_before bigint NOT NULL,
  balance_after bigint NOT NULL,
  locked_after bigint NOT NULL,
  source text COLLATE "C" NOT NULL,
  source_id text COLLATE "C" NOT NULL,
  feature text COLLATE "C",
  community_id uuid,
  metadata jsonb,
  idempotency_key text COLLATE "C" NOT NULL,            -- '<principal>:<key>', our own under 'core:'
  request_hash bytea NOT NULL,
  batch_id uuid NOT NULL,
  ord integer NOT NULL,                                 -- place in the batch
  occurred_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),        -- recorded at
  CONSTRAINT transaction_arithmetic CHECK (balance_after = balance_before + credits AND balance_after >= 0),
  CONSTRAINT transaction_key UNIQUE (idempotency_key),
  CONSTRAINT transaction_seq UNIQUE (wallet_id, seq)
);
CREATE UNIQUE INDEX transaction_purchase ON wallet_transactions (source, source_id) WHERE transaction_type = 'purchase';

-- Most of the ledger's rows lie in months (make_months): their keys begin with a UUIDv7, whose first 48 bits are milliseconds, so a month is
-- a range of ids, and a key is looked up in one. wallet_transactions keeps its keys unique for ever, which no range can: it is whole.
CREATE FUNCTION month_id(p_month timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM p_month) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Debit positive, credit negative; a transaction sums to zero per asset (I1). transaction_id is a wallet
-- transaction, or a batch: revenue is recognised once per batch, per lot in lot_consumptions.
CREATE TABLE ledger_entries (
  transaction_id uuid NOT NULL,
  leg smallint NOT NULL,
  account ledger_account NOT NULL,
  wallet_id uuid,                                       -- only for a wallet's own accounts
  amount bigint NOT NULL CHECK (amount <> 0),           -- credits or paise, by the account's asset
  PRIMARY KEY (transaction_id, leg)
) PARTITION BY RANGE (transaction_id);
CREATE TABLE ledger_entries_other PARTITION OF ledger_entries DEFAULT;

-- Which lots a transaction took from or gave to, and what it earned: any debit explains itself.
CREATE TABLE lot_consumptions (
  transaction_id uuid NOT NULL,
  lot_id uuid NOT NULL,
  credits bigint NOT NULL CHECK (credits > 0),
  recognised_paise bigint NOT NULL,                     -- of the lot's deferred revenue, by this transaction
  PRIMARY KEY (transaction_id, lot_id)
) PARTITION BY RANGE (transaction_id);
CREATE TABLE lot_consumptions_other PARTITION OF lot_consumptions DEFAULT;

CREATE TABLE holds (
  id uuid PRIMARY KEY,
  wallet_id uuid NOT NULL,
  transaction_id uuid NOT NULL,
  credits bigint NOT NULL CHECK (credits > 0),
  captured_credits bigint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'captured', 'released')),
  reason text,
  lot_id uuid,                                          -- a refund's hold names its lot and cannot expire
  expires_at timestamptz NOT NULL DEFAULT 'infinity',
  created_at timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz
);
CREATE INDEX holds_wallet ON holds (wallet_id) WHERE state = 'held';
CREATE INDEX holds_expiring ON holds (expires_at) WHERE state = 'held' AND expires_at < 'infinity';

CREATE TABLE hold_lots (
  hold_id uuid NOT NULL REFERENCES holds,
  place smallint NOT NULL,                              -- the order in which the hold took them, and a capture uses them
  lot_id uuid NOT NULL,
  credits bigint NOT NULL CHECK (credits > 0),
  PRIMARY KEY (hold_id, place)
);

-- A refusal is as final as a posting: the key answers the same after a top-up.
CREATE TABLE refusals (
  idempotency_key text COLLATE "C" PRIMARY KEY,
  request_hash bytea NOT NULL,
  wallet_id uuid NOT NULL,
  transaction_type transaction_kind NOT NULL,
  amount_credits bigint NOT NULL,
  reason text NOT NULL,
  balance_credits bigint NOT NULL,
  batch_id uuid NOT NULL,
  ord integer NOT NULL,
  occurred_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;

-- migrate:up
-- Who may do what, and the words every later table uses.
--
-- core_owner    owns every object and cannot log in, so nobody can disable its triggers by accident
-- core_readonly SELECT only: dashboards, verification, support
-- What each program is, and may, is in 0090.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'core_owner') THEN CREATE ROLE core_owner NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'core_readonly') THEN CREATE ROLE core_readonly NOLOGIN; END IF;
END $$;

GRANT USAGE, CREATE ON SCHEMA public TO core_owner;
GRANT USAGE ON SCHEMA public TO core_readonly;
SET LOCAL ROLE core_owner;

CREATE TYPE transaction_kind AS ENUM (
  'purchase',   -- a verified payment became credits: one new lot
  'grant',      -- free credits: one new promotional lot
  'spend',      -- credits consumed by a feature
  'hold',       -- available -> locked
  'capture',    -- locked -> spent; what is not captured goes back
  'release',    -- locked -> available
  'refund',     -- credits of one lot taken back against money returned
  'expire',     -- what was left of a lot at its expiry
  'chargeback'  -- the gateway took money back: what is left is reversed, the rest is debt
);

-- Every account belongs to one asset and no posting mixes them (MONEY §4). The names are domain/postings.py's.
CREATE TYPE ledger_account AS ENUM (
  'wallet', 'wallet_held', 'wallet_debt', 'credits_issued', 'credits_spent', 'credits_expired', 'credits_reversed',
  'gateway_clearing', 'bank', 'gateway_fee', 'gst_input', 'cgst_payable', 'sgst_payable', 'igst_payable',
  'deferred_revenue', 'revenue', 'breakage', 'rounding', 'offer_discount', 'credit_debt_receivable', 'unapplied_receipts',
  'platform_fee', 'gateway_cost_recovered', 'tcs_payable', 'tds_payable', 'community_payable'
);

CREATE TABLE ledger_accounts (
  account ledger_account PRIMARY KEY,
  asset text NOT NULL CHECK (asset IN ('CREDIT', 'INR'))
);
INSERT INTO ledger_accounts
  SELECT a, CASE WHEN a <= 'credits_reversed' THEN 'CREDIT' ELSE 'INR' END FROM unnest(enum_range(NULL::ledger_account)) a;

RESET ROLE;

-- migrate:down
-- Money is never migrated backwards: restore a backup instead.
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;

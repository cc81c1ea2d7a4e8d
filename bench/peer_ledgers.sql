-- The ledgers that ours is compared with, as superuser, in a schema apart of the same database.
-- Accounts, transfers and two entries per transfer as pgledger's public description has them (a balance and a version on
-- the account, the balance before and after on the entry, ids as prefixed text that sorts by time); the code is ours. In its favour:
-- no foreign keys, ids without the detour over ULIDs, and only the indexes by which an account and a transfer are read.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: begin()
CREATE SCHEMA peer;
CREATE TABLE peer.accounts (
  id text COLLATE "C" PRIMARY KEY,
  name text NOT NULL,
  currency text NOT NULL,
  balance numeric NOT NULL DEFAULT 0,
  version bigint NOT NULL DEFAULT 0,
  may_be_negative boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
CREATE TABLE peer.transfers (
  id text COLLATE "C" PRIMARY KEY,
  from_account_id text COLLATE "C" NOT NULL,
  to_account_id text COLLATE "C" NOT NULL,
  amount numeric NOT NULL CHECK (amount > 0),
  event_at timestamptz NOT NULL DEFAULT now(),
  metadata jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  CHECK (from_account_id <> to_account_id)
);
CREATE TABLE peer.entries (
  id text COLLATE "C" PRIMARY KEY,
  account_id text COLLATE "C" NOT NULL,
  transfer_id text COLLATE "C" NOT NULL,
  amount numeric NOT NULL,
  account_previous_balance numeric NOT NULL,
  account_current_balance numeric NOT NULL,
  account_version bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX entries_account ON peer.entries (account_id);
CREATE INDEX entries_transfer ON peer.entries (transfer_id);

CREATE FUNCTION peer.new_id(p_prefix text) RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT p_prefix || '_' || replace(uuidv7()::text, '-', '')
$$;

CREATE FUNCTION peer.create_transfer(p_from text, p_to text, p_amount numeric, p_metadata jsonb) RETURNS peer.transfers LANGUAGE plpgsql AS $$
DECLARE
  v_transfer peer.transfers;
  v_account peer.accounts;
  v_side record;
BEGIN
  PERFORM FROM peer.accounts x WHERE x.id IN (p_from, p_to) ORDER BY x.id FOR UPDATE;
  INSERT INTO peer.transfers (id, from_account_id, to_account_id, amount, metadata)
    VALUES (peer.new_id('transfer'), p_from, p_to, p_amount, p_metadata) RETURNING * INTO v_transfer;
  FOR v_side IN SELECT * FROM (VALUES (p_from, -p_amount), (p_to, p_amount)) AS s (account, amount) LOOP
    UPDATE peer.accounts x SET balance = x.balance + v_side.amount, version = x.version + 1, updated_at = now()
     WHERE x.id = v_side.account RETURNING * INTO v_account;
    IF NOT FOUND THEN RAISE EXCEPTION 'no account %', v_side.account; END IF;
    IF v_account.balance < 0 AND NOT v_account.may_be_negative THEN
      RAISE EXCEPTION 'account % may not be negative', v_side.account;
    END IF;
    INSERT INTO peer.entries (id, account_id, transfer_id, amount, account_previous_balance, account_current_balance, account_version)
      VALUES (peer.new_id('entry'), v_account.id, v_transfer.id, v_side.amount, v_account.balance - v_side.amount, v_account.balance, v_account.version);
  END LOOP;
  RETURN v_transfer;
END $$;

-- Several transfers, all or none; every account is locked first and in order, so that two calls cannot deadlock.
CREATE FUNCTION peer.create_transfers(p_from text[], p_to text[], p_amount numeric[], p_metadata jsonb) RETURNS SETOF peer.transfers LANGUAGE plpgsql AS $$
DECLARE
  i integer;
BEGIN
  PERFORM FROM peer.accounts x WHERE x.id = ANY (p_from || p_to) ORDER BY x.id FOR UPDATE;
  FOR i IN 1 .. cardinality(p_from) LOOP
    RETURN NEXT peer.create_transfer(p_from[i], p_to[i], p_amount[i], p_metadata);
  END LOOP;
END $$;

-- name: make_accounts(count)
-- Numbered, so that the bench knows them.
INSERT INTO peer.accounts (id, name, currency, balance) SELECT 'account_' || lpad(n::text, 8, '0'), 'customer ' || n, 'CREDIT', 1000000 FROM generate_series(0, $1::integer - 1) n;

-- name: settle()
VACUUM (ANALYZE);

-- name: transfer(from, to, amount, metadata)
SELECT * FROM peer.create_transfer($1, $2, $3::bigint, $4);

-- name: transfers(from, to, amounts, metadata)
SELECT * FROM peer.create_transfers($1, $2, $3::bigint[]::numeric[], $4);

-- name: lock_accounts(from, to)
SELECT id, balance, version FROM peer.accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE;

-- name: put_transfer(from, to, amount, metadata)
INSERT INTO peer.transfers (id, from_account_id, to_account_id, amount, metadata) VALUES (peer.new_id('transfer'), $1, $2, $3::bigint, $4) RETURNING id;

-- name: put_entry(account, transfer, amount, before, version)
INSERT INTO peer.entries (id, account_id, transfer_id, amount, account_previous_balance, account_current_balance, account_version)
  VALUES (peer.new_id('entry'), $1, $2, $3::bigint, $4::numeric, $4::numeric + $3::bigint, $5::bigint);

-- name: move(account, amount)
UPDATE peer.accounts SET balance = balance + $2::bigint, version = version + 1, updated_at = now() WHERE id = $1;

-- name: out_of_balance()
-- Accounts whose balance is not what their entries say, and transfers without both of theirs.
SELECT (SELECT count(*) FROM peer.accounts a
         WHERE a.balance <> 1000000 + coalesce((SELECT sum(e.amount) FROM peer.entries e WHERE e.account_id = a.id), 0))
     + (SELECT count(*) FROM (SELECT transfer_id FROM peer.entries GROUP BY transfer_id HAVING count(*) <> 2 OR sum(amount) <> 0) x) AS n;

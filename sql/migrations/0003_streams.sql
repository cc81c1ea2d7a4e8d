-- migrate:up
-- How far each group has come, what it decided, and what follows from it.
SET LOCAL ROLE core_owner;

-- One row per (topic, partition, group), and per named chain that consumes nothing ('api', 'retry/<topic>', 'verify').
-- It is fence, offset and chain head in one: a batch begins by updating it.
CREATE TABLE consumer_offsets (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  consumer_group text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,                      -- raised by each claim: the only safety against a zombie
  incarnation integer NOT NULL DEFAULT 1,               -- raised when the broker lost or reused offsets
  next_offset bigint NOT NULL DEFAULT 0,
  last_offset bigint,                                   -- the last record committed, and
  last_digest bytea,                                    -- its digest: tells a reused offset from the record we saw
  batch_no bigint NOT NULL DEFAULT 0,                   -- never reset, so batch numbers rise across incarnations
  link bytea NOT NULL DEFAULT '\x',                     -- head of the hash chain
  owner text,
  claimed_at timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, partition, consumer_group)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE batches (
  id uuid PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  consumer_group text COLLATE "C" NOT NULL,
  batch_no bigint NOT NULL,
  epoch bigint NOT NULL,
  incarnation integer NOT NULL,
  from_offset bigint NOT NULL,
  to_offset bigint NOT NULL,
  n_records integer NOT NULL,
  posted integer NOT NULL,
  refused integer NOT NULL,
  existing integer NOT NULL,
  conflict integer NOT NULL,
  parked integer NOT NULL,
  quarantined integer NOT NULL,
  recognised_paise bigint NOT NULL DEFAULT 0,
  content bytea NOT NULL,                               -- digest of the canonical text of what it booked
  link bytea NOT NULL,                                  -- of the hash chain: over the link before, this row and the content
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (topic, partition, consumer_group, batch_no),
  CONSTRAINT every_record_has_one_outcome CHECK (n_records = posted + refused + existing + conflict + parked + quarantined)   -- I7
);

-- What follows from a batch, one row per destination partition: the unit that is published, deduplicated and repaired.
CREATE TABLE outbox (
  dest_topic text COLLATE "C" NOT NULL,
  dest_partition integer NOT NULL,
  producer_topic text COLLATE "C" NOT NULL,
  producer_partition integer NOT NULL,
  producer_group text COLLATE "C" NOT NULL,
  batch_no bigint NOT NULL,
  prev_batch_no bigint NOT NULL,                        -- the producer's last batch with something for this destination
  incarnation integer NOT NULL,
  n_events integer NOT NULL,
  events text NOT NULL,                                 -- a JSON array
  created_at timestamptz NOT NULL DEFAULT now(),
  published_at timestamptz NOT NULL,                    -- last time; -infinity: nobody has yet (web has no broker)
  PRIMARY KEY (dest_topic, dest_partition, producer_topic, producer_partition, producer_group, batch_no)
);
CREATE INDEX outbox_published ON outbox (published_at);
ALTER TABLE outbox ALTER events SET STORAGE EXTERNAL;   -- gone in a minute: squeezing them (pglz) took 5 % of a payment
CREATE TABLE outbox_heads (
  producer_topic text COLLATE "C" NOT NULL,
  producer_partition integer NOT NULL,
  producer_group text COLLATE "C" NOT NULL,
  dest_topic text COLLATE "C" NOT NULL,
  dest_partition integer NOT NULL,
  last_batch_no bigint NOT NULL,
  PRIMARY KEY (producer_topic, producer_partition, producer_group, dest_topic, dest_partition)
) WITH (fillfactor = 20);

-- The last batch of each producer that a consuming partition has applied, moved in its own transaction.
CREATE TABLE producer_watermarks (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  consumer_group text COLLATE "C" NOT NULL,
  producer_topic text COLLATE "C" NOT NULL,
  producer_partition integer NOT NULL,
  producer_group text COLLATE "C" NOT NULL,
  last_batch_no bigint NOT NULL,
  PRIMARY KEY (topic, partition, consumer_group, producer_topic, producer_partition, producer_group)
) WITH (fillfactor = 20);

-- Services that publish straight onto wallet.debit. The secret signs each message; the scope bounds what it may charge.
CREATE TABLE publishers (
  name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
  secret bytea NOT NULL CHECK (length(secret) >= 32),
  features text[],                                      -- NULL: any
  communities uuid[],                                   -- NULL: any wallet; else only wallets of these communities
  enabled boolean NOT NULL DEFAULT true,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
-- Contiguous batches of a publisher's session whose outcome is committed: the client forgets what this covers.
CREATE TABLE publisher_watermarks (
  publisher text COLLATE "C" NOT NULL,
  session uuid NOT NULL,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  covered_seq bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (publisher, session, topic, partition)
) WITH (fillfactor = 20);

-- Items that could not be decided yet. Only the lowest unfinished row of a key is eligible.
CREATE TABLE retries (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  incarnation integer NOT NULL,
  source_offset bigint NOT NULL,
  key text COLLATE "C" NOT NULL,                        -- what order is kept by: the wallet, the order, the payment
  payload jsonb NOT NULL,
  state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'done', 'dead', 'purged')),
  attempt integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL,
  decide_by timestamptz NOT NULL DEFAULT 'infinity',    -- then it is decided as things stand
  reason text NOT NULL,
  error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  mirrored_at timestamptz                               -- a dead item's copy lies on '<topic>.dead'
);
CREATE INDEX retries_unfinished ON retries (topic, key, id) WHERE state = 'due';
CREATE INDEX retries_due ON retries (topic, partition, next_at) WHERE state = 'due';

-- Records that can never be decided: malformed, forged, conflicting. Kept whole, with the reason.
CREATE TABLE quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  incarnation integer NOT NULL,
  source_offset bigint NOT NULL,
  reason text NOT NULL,
  idempotency_key text COLLATE "C",
  payload bytea NOT NULL,
  payload_digest bytea,                                 -- of a record that nobody can read; NULL: an event that was read and refused
  batch_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX quarantine_record ON quarantine (topic, partition, payload_digest) WHERE payload_digest IS NOT NULL;
CREATE INDEX quarantine_key ON quarantine (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- The inbox of usage: what POST /v1/usage answers 200 for. Its outcome is the ledger's, found by the key.
CREATE TABLE usage_metering (
  idempotency_key text COLLATE "C" PRIMARY KEY,         -- '<principal>:<id>'
  id uuid NOT NULL UNIQUE,
  principal text COLLATE "C" NOT NULL,
  event_id text COLLATE "C" NOT NULL,
  wallet_id uuid NOT NULL,
  feature text COLLATE "C" NOT NULL,
  quantity bigint NOT NULL CHECK (quantity > 0),
  credits bigint NOT NULL CHECK (credits > 0),
  community_id uuid,
  metadata jsonb,
  request_hash bytea NOT NULL,
  occurred_at timestamptz NOT NULL,                     -- clamped once, here
  traceparent text,                                     -- W3C; of the few that are traced
  published_at timestamptz,
  closed_at timestamptz,                                -- set once the consuming group's outcome is committed
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX usage_unpublished ON usage_metering (id) WHERE published_at IS NULL;
CREATE INDEX usage_open ON usage_metering (published_at) WHERE closed_at IS NULL;
CREATE INDEX usage_traced_at ON usage_metering (created_at) WHERE traceparent IS NOT NULL;

-- Tumbling windows, folded in the transaction that moves the offset; each row says what it is true at.
CREATE TABLE billing_windows (
  metric text COLLATE "C" NOT NULL,                     -- credits_granted, credits_spent, revenue_recognised, payments
  resolution text NOT NULL CHECK (resolution IN ('1m', '1h', '1d')),   -- 1d is an IST day
  dimension text COLLATE "C" NOT NULL,                  -- e.g. 'feature=chat.message,community=<id>' or 'status=credited'
  window_start timestamptz NOT NULL,
  count bigint NOT NULL,
  credits bigint NOT NULL,
  amount_paise bigint NOT NULL,
  as_of_partition integer NOT NULL,
  as_of_offset bigint NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (metric, resolution, window_start, dimension)
) WITH (fillfactor = 50);

-- One compact row per entity: its 1 m, 1 h and 24 h counters together.
CREATE TABLE fraud_windows (
  entity_kind text COLLATE "C" NOT NULL CHECK (entity_kind IN ('user', 'device', 'ip', 'instrument')),
  entity text COLLATE "C" NOT NULL,
  buckets jsonb NOT NULL,                               -- {"<resolution>": [[start_epoch_s, count, amount_paise], ...]}
  last_at timestamptz NOT NULL,
  as_of_partition integer NOT NULL,
  as_of_offset bigint NOT NULL,
  PRIMARY KEY (entity_kind, entity)
) WITH (fillfactor = 50);
-- An entity keeps its partition, and BRIN does not count: an update of a window stays in its page (HOT).
CREATE INDEX fraud_windows_partition ON fraud_windows (as_of_partition);
CREATE INDEX fraud_windows_last ON fraud_windows USING brin (last_at);

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;

-- Services that may publish onto wallet.debit.

-- name: get_secrets()
SELECT name, secret FROM publishers WHERE enabled;

-- name: users_of_payments(payments)
-- Whom to tell that a payment was credited.
SELECT id, user_id FROM payments WHERE id = ANY ($1::uuid[]);

-- name: register_publisher(name, secret, features, communities)
-- Let a service publish, or give it a new secret and scope. NULL: any.
SELECT register_publisher($1, $2, $3::text[], $4::uuid[]);

-- name: get_watermarks(publisher, session, topic)
-- Per partition, the last batch of this session up to which everything is decided.
SELECT partition, covered_seq FROM publisher_watermarks WHERE publisher = $1 AND session = $2 AND topic = $3;

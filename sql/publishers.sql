-- Services that may publish onto wallet.debit.

-- name: get_secrets()
SELECT name, secret FROM publishers WHERE enabled;

-- name: users_of_payments(payments)
-- Whom to tell that a payment was credited.
SELECT id, user_id FROM payments WHERE id = ANY ($1::uuid[]);

-- Tax invoices and credit notes.

-- name: commit_invoices(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, retry, attempt, ids, payments, occurred, offsets, notify, series, terms)
-- One invoice per credited payment, and the offset, in one transaction.
SELECT * FROM commit_invoices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20);

-- name: lease_renderings(limit_rows, lease_s)
-- Documents without a picture, each to one worker at a time.
SELECT id, number, attempt, document, voided_at FROM lease_renderings($1, $2);

-- name: record_renderings(ids, attempts, keys, errors)
-- Where pictures lie, or why there is none yet.
SELECT record_renderings($1, $2, $3, $4);

-- name: void_invoice(id, actor, reason)
-- It keeps its number.
SELECT void_invoice($1, $2, $3);

-- name: get_invoice(id)
SELECT id, kind, number, payment_id, user_id, refund_id, invoice_id, place_of_supply, gross_amount, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, document, issued_at, rendered_at, storage_key, voided_at, void_reason
  FROM invoices WHERE id = $1;

-- name: get_invoices_of_payment(payment_id)
-- A payment's tax invoice, then its credit notes as they were issued.
SELECT id, kind, number, payment_id, user_id, refund_id, invoice_id, place_of_supply, gross_amount, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, document, issued_at, rendered_at, storage_key, voided_at, void_reason
  FROM invoices WHERE payment_id = $1 ORDER BY kind DESC, id ASC;

-- name: get_invoices_of_user(user_id, before_issued_at, before_id, limit_rows)
-- The newest documents of a user, older than an (issued_at, id); of any age if that is null.
SELECT id, kind, number, payment_id, user_id, refund_id, invoice_id, place_of_supply, gross_amount, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, document, issued_at, rendered_at, storage_key, voided_at, void_reason
  FROM invoices WHERE user_id = $1 AND ($2::timestamptz IS NULL OR (issued_at, id) < ($2, $3::uuid)) ORDER BY issued_at DESC, id DESC LIMIT $4;

-- name: count_unrendered()
-- Documents without a picture, and how long the oldest has waited.
SELECT count(*)::integer AS waiting, coalesce(extract(epoch FROM now() - min(recorded_at)), 0)::float8 AS oldest_s
  FROM invoices WHERE rendered_at IS NULL;

-- migrate:up
-- What each program may read and call. Nobody writes a table: the functions do, each with its own checks. Each role has what its program's
-- statements need and nothing else; a test reads the statements from the code and compares. What is not here is refused.
--
-- core_web      the web process
-- core_worker   the workers
-- core_operator whoever sits at ./dev reconcile, ./dev queue, ./dev audit, or at a SQL prompt
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['core_web', 'core_worker', 'core_operator'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN EXECUTE format('CREATE ROLE %I NOLOGIN', name); END IF;
  END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO core_web, core_worker, core_operator;
SET LOCAL ROLE core_owner;

GRANT SELECT ON
  api_keys, approvals, billing_events, disputes, fraud_events, fraud_reviews, order_inquiries, outgoing_deliveries,
  payment_attempts, revoked_subjects, revoked_tokens, schema_migrations, users TO core_web;
GRANT SELECT ON checked_heads, fraud_windows, invariant_runs, ledger_accounts, outgoing_queue, publishers TO core_worker;
GRANT SELECT ON
  batches, billing_windows, fraud_checks, holds, lot_consumptions, lots, notifications, outbox, outgoing_endpoints,
  payment_webhooks, producer_watermarks, publisher_watermarks, quarantine, refusals, usage_metering TO core_web, core_worker;
GRANT SELECT ON audit_logs TO core_web, core_operator;
GRANT SELECT ON
  archive_segments, audit_anchors, breakers, gateway_settlements, journal_entries, ledger_entries, settlement_lines,
  stream_incidents TO core_worker, core_operator;
GRANT SELECT ON
  consumer_offsets, invoices, payments, recon_jobs, reconciliation_cases, refunds, retries, unapplied_receipts,
  verifications, wallet_transactions, wallets TO core_web, core_worker, core_operator;
-- The invariants read nearly everything; the workers ask them daily, people with ./dev verify.
GRANT SELECT ON fraud_events, fraud_reviews, hold_lots, invoice_series, outbox_heads TO core_worker, core_operator;
GRANT SELECT ON
  batches, billing_windows, holds, ledger_accounts, lot_consumptions, lots, outbox, producer_watermarks, quarantine, refusals TO core_operator;
GRANT EXECUTE ON FUNCTION broken_audit TO core_worker;
GRANT EXECUTE ON FUNCTION
  batch_line, batch_link, canonical_invoice, canonical_journal, canonical_refusal, canonical_transaction TO core_operator;

GRANT EXECUTE ON FUNCTION
  abandon_request, approval_executed, ask_gateway, begin_request, count_retry, create_api_key, create_endpoint,
  create_payment, create_user, create_wallet, decide_approval, decide_refund_payout, finish_request, insert_usage,
  insert_webhooks, mark_notifications_read, record_audit, refund_receipt, refundable, replay_deliveries, request_approval,
  request_invoice, request_refund, review_payment, revoke_api_key, revoke_subject, revoke_token, rotate_api_key,
  rotate_endpoint_secret, set_notification_preferences, switch_endpoint, touch_api_key, update_endpoint, wallet_seq_at TO core_web;
GRANT EXECUTE ON FUNCTION
  batch_line, batch_link, canonical_invoice, canonical_journal, canonical_refusal, canonical_transaction,
  claim_partitions, close_usage, commit_fraud, commit_invoices, commit_notices, commit_refunds, commit_signals,
  commit_webhooks, commit_windows, decide_overdue, due_events, due_retries, due_retry_runs, entity_kinds, fail_retry, find_unapplied,
  find_unapplied_inbox, flag_overdue_holds, lease_endpoints, lease_inquiries, lease_notifications, lease_refunds,
  lease_renderings, lease_verifications, make_months, mark_mirrored, mark_streams, number_outgoing, park_batch, partition_of,
  purge_fraud_windows, purge_outgoing, record_archived, record_check, record_inquiry, record_notifications, record_refund,
  record_renderings, record_turn, record_verifications, reincarnate_partition, release_delayed, remind_expiring,
  report_incident, republish_partition, suppress_notifications, sweep_outbox, take_duty, take_usage, take_webhooks,
  tell_replayed, trip_breaker, try_breaker, waiting_keys TO core_worker;
GRANT EXECUTE ON FUNCTION
  broken_audit, cancel_delayed, delay_event, register_publisher, requeue_notifications, rewind_partition, sync_balance,
  void_invoice TO core_operator;
GRANT EXECUTE ON FUNCTION commit_batch, fail_order, order_created TO core_web, core_worker;
GRANT EXECUTE ON FUNCTION purge_dead, replay_dead TO core_web, core_operator;
GRANT EXECUTE ON FUNCTION
  anchor_audit, begin_window, book_unapplied, close_breaker, close_payments, commit_settled_lines, commit_settlements,
  finish_job, hear_events, open_cases, poll_payments, settlement_matches, take_job, tell_settlements, unknown_orders TO core_worker, core_operator;
GRANT EXECUTE ON FUNCTION assign_case, request_reconciliation, resolve_case TO core_web, core_worker, core_operator;
RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;

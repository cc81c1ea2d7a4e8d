"""The only place that speaks PostgreSQL: migrations, named queries, and one thin typed module per subject."""

"""Load and reports: what the system does under traffic, measured and judged from outside."""

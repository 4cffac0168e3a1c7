"""Delivery of alerts: from the outbox of each partition to sinks, and to those who listen."""

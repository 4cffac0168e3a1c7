"""The service: HTTP, the state engine over Redis, alerts, metrics and the command line. Only `app.py` composes."""

"""The network, its channels and its weights. No web, no store: what serves a fleet lives in `service`."""

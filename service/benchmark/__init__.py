"""`emberwatch bench ingest`: a pinned service under load, measured from outside once it has proved correct."""

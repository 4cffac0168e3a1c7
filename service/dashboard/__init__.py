"""The page: static files that talk to the read API like anyone else; docs/adr/0011 says why it is not a framework."""

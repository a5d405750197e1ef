"""Open data: what a corpus is made of, by which steps, and a manifest that says so."""

"""Inner logic: what happened inside a model while it chose its next token."""

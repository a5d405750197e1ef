"""How good the guard is, on data sets it never saw: the protocol, the figures and their page."""

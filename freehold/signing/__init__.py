"""Seals: the owner's keys, and what is signed with them. Shared by store and ledger."""

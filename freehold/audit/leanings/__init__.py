"""Leanings: what a model will not say, of whom it speaks ill, what it learnt by heart. No judge.

Everything is a likelihood under the model's own forward pass (``scoring``): nothing is generated
and given to another model to judge. ``probes`` reads the owner's questions and our own few,
``public`` the published sets from a folder.
"""

"""Backdoor triage: a suspect beside its trusted base, with the means that the papers gave.

Needs the extra ``lab``. A finding is *confirmed* only when the recovered trigger fires on questions
that it was not found with, and not in the base; everything else is an *anomaly*.
"""

"""The foundry: open data in, weights out, and a record that lets anybody make them again.

What the workshop (``adapt``) shares with it lies here: reading data, cleaning it, the loss, a run's
state on the disk.
"""

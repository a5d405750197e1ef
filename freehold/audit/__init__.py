"""The laboratory: examines a model, returns findings and a report.

It never says that a model is clean or safe. It says what was tried, what was found, and what the
means that were used would have missed.
"""

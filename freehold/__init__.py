"""Freehold runs open-weight Qwen models on hardware you own."""

__version__ = "0.1.0"

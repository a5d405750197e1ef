"""``python -m freehold.cli``: the same as the ``freehold`` command."""

from freehold.cli.main import main

main()

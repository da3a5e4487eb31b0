"""The command line: `streamcore`, or `python -m streamcore`."""

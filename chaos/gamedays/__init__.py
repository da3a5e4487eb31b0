"""Game days: one planned fault each, looked at: `python -m chaos.gamedays.NAME`. README.md has what was seen."""

from __future__ import annotations

from streamcore.cli.main import app

if __name__ == "__main__":
    app()

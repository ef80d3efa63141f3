"""`callgate` and `python -m gateway`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    from gateway.cli import build

    build()()


if __name__ == "__main__":
    main()

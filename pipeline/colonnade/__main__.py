"""The command: `colonnade`, or `python -m colonnade`."""

from importlib import import_module

from colonnade.signals.interrupts import expect


def main() -> None:
    """Run the command."""
    # Its imports take a second, in which Ctrl-C would show a traceback
    expect()
    import_module("colonnade.cli").main()


if __name__ == "__main__":
    main()

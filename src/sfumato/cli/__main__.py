"""`python -m sfumato.cli` does the same as `sfumato`."""

from sfumato.cli import main

if __name__ == "__main__":
    main()

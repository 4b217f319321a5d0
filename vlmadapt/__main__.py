"""``python -m vlmadapt``."""

from vlmadapt.cli import main

if __name__ == "__main__":
    main()

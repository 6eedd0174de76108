"""``python -m eigen_lightning``."""

from eigen_lightning.cli import main

if __name__ == "__main__":
    main()

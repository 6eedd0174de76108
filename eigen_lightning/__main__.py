"""``python -m eigen_lightning``."""

from eigen_lightning.cli.main import main

if __name__ == "__main__":
    main()

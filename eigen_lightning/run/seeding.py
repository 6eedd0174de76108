"""One seed a run; every use of chance derives its own from it."""

import hashlib
import os


def run_seed() -> int:
    """The seed given to Lightning's ``seed_everything``, or 0 where none was given.

    Lightning keeps it in the environment so that processes it launches share it.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, independent of those for any other.

    Args:
        seed: the run's seed.
        purpose: words and numbers that name the use, for instance ``("tms", epoch, block)``.

    Returns:
        An integer in [0, 2^63).
    """
    key = "/".join(map(str, (seed, *purpose))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1

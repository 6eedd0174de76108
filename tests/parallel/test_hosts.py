"""Two hosts: network namespaces joined by a pair of virtual interfaces, half of the ranks in each."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kinds import Kinds
from tests.parallel.test_processes import BOUND
from tests.processes import CommandProcess
from tests.resume import runs

CLONE_NEWNET = 0x40000000


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces, 10.77.0.1 and 10.77.0.2, which see each other and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"eigen{os.getpid()}{side}" for side in "ab"]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "veth0", "netns", names[0], "type", "veth", "peer", "name", "veth0", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)


def enter(name: str) -> None:
    """Move this process into a namespace; os.setns is there from Python 3.12 on only."""
    with open(f"/var/run/netns/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


@pytest.mark.slow
def test_two_hosts_with_two_processes_each_give_what_one_process_gives(kinds: Kinds, hosts: list[str]) -> None:
    options = {"batch_size": 256, "samples_per_epoch": 2560}
    folder = kinds.fresh("two-hosts", "tms")

    def on_its_host(rank: int) -> None:
        enter(hosts[rank // 2])
        os.environ["GLOO_SOCKET_IFNAME"] = "veth0"
        # Proof that the namespace is its own: nothing but veth0 and lo.
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
        assert {line.split(":")[0].strip() for line in lines} == {"veth0", "lo"}

    args = runs.arguments(kinds.config("tms", **options), folder)
    process = CommandProcess(args, folder.with_suffix(".log"), 4, on_its_host, address="10.77.0.1", port=29511, hosts=2)
    process.succeed()
    assert max(runs.largest_difference(kinds.finished("tms", **options), folder).values()) <= BOUND

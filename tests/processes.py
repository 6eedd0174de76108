"""The command line in real processes of its own, forked so that nothing has to be imported again."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from eigen_lightning.cli.main import main


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CommandProcess:
    """``eigen-lightning ARGS`` in forked processes, one a rank, as torchrun would start them."""

    def __init__(
        self,
        args: Sequence[str],
        log: Path,
        ranks: int = 1,
        prepare: Callable[[int], None] = lambda rank: None,
        address: str = "127.0.0.1",
        port: int | None = None,
        hosts: int = 1,
    ) -> None:
        self.log = log
        self.codes: list[int] = []
        port = port or free_port()
        if ranks > 1:
            args = [*args, "--trainer.devices", str(ranks // hosts), "--trainer.strategy", "ddp"]
            args += ["--trainer.num_nodes", str(hosts)]
        self.pids = [self._fork(list(args), rank, ranks, hosts, prepare, address, port) for rank in range(ranks)]

    def _fork(
        self,
        args: list[str],
        rank: int,
        ranks: int,
        hosts: int,
        prepare: Callable[[int], None],
        address: str,
        port: int,
    ) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            # pytest replaces these; a process of its own starts without.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            torch.set_num_threads(1)
            rank_zero_only.rank = rank
            os.environ.pop("PL_GLOBAL_SEED", None)
            if ranks > 1:
                os.environ.update(
                    {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank % (ranks // hosts)),
                        "GROUP_RANK": str(rank // (ranks // hosts)),
                        "WORLD_SIZE": str(ranks),
                        "LOCAL_WORLD_SIZE": str(ranks // hosts),
                        "MASTER_ADDR": address,
                        "MASTER_PORT": str(port),
                        "TORCHELASTIC_RUN_ID": "test",
                        "GLOO_SOCKET_IFNAME": "lo",
                    }
                )
            prepare(rank)
            main(args)
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        for pid in self.pids:
            os.kill(pid, signum)

    def wait(self, timeout: float = 300) -> list[int]:
        """Exit codes by rank, negative for a signal."""
        if not self.codes:
            end = time.monotonic() + timeout
            codes: dict[int, int] = {}
            while len(codes) < len(self.pids):
                for pid in self.pids:
                    if pid not in codes:
                        done, status = os.waitpid(pid, os.WNOHANG)
                        if done:
                            codes[pid] = os.waitstatus_to_exitcode(status)
                if time.monotonic() > end:
                    self.kill_rest(codes)
                    raise TimeoutError(f"still running after {timeout} s: {self.log.read_text()[-2000:]}")
                time.sleep(0.01)
            self.codes = [codes[pid] for pid in self.pids]
        return self.codes

    def kill_rest(self, codes: dict[int, int]) -> None:
        for pid in self.pids:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def succeed(self, timeout: float = 300) -> None:
        codes = self.wait(timeout)
        assert codes == [0] * len(codes), f"exit codes {codes}: {self.log.read_text()[-4000:]}"

    def until(self, condition: Callable[[], bool], timeout: float = 120) -> bool:
        """Wait for a condition; False where the processes ended first."""
        end = time.monotonic() + timeout
        while not condition():
            done, status = os.waitpid(self.pids[0], os.WNOHANG)
            if done:
                assert len(self.pids) == 1, "only for one process"
                self.codes = [os.waitstatus_to_exitcode(status)]
                return False
            if time.monotonic() > end:
                raise TimeoutError(self.log.read_text()[-2000:])
            time.sleep(0.002)
        return True

"""Functions run by several processes at once, joined in a process group."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


def together(processes: int, function: Callable[[int], None], folder: Path) -> None:
    """Run ``function(rank)`` in forked processes of one gloo group; fails where any of them does."""
    context = multiprocessing.get_context("fork")
    store = folder / f"store-{len(list(folder.iterdir()))}"

    def run(rank: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=processes)
        try:
            function(rank)
        except BaseException:
            (folder / f"failed-{rank}").write_text(traceback.format_exc())
            os._exit(1)
        torch.distributed.barrier()
        os._exit(0)

    running = [context.Process(target=run, args=(rank,)) for rank in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    codes = [process.exitcode for process in running]
    for process in running:
        if process.exitcode is None:
            process.kill()
    failures = [path.read_text() for path in sorted(folder.glob("failed-*"))]
    assert codes == [0] * processes, "\n".join(failures) or codes

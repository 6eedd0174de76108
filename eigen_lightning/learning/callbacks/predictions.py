"""d2D of every sample for every direction, to parquet."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eigen_lightning.learning.callbacks.evaluation import run_folder_of


class PredictionWriter(Callback):
    """Writes ``predictions.parquet`` batch by batch: sample_id, position, and a column of d2D for each direction.

    Where ranks see different samples, each writes its own to ``predictions.rank<r>.parquet``.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        run = run_folder_of(trainer)
        suffix = f".rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        self.path = run.path / f"predictions{suffix}.parquet"
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._columns = [f"direction_{k:03d}" for k in range(pl_module.n_directions)]  # type: ignore[arg-type]
        fields = [pa.field("sample_id", pa.int64()), pa.field("position", pa.int64())]
        fields += [pa.field(name, pa.float64()) for name in self._columns]
        run.path.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._partial, pa.schema(fields))

    def on_predict_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        directions, n_batch = outputs.shape[:2]
        flat = outputs.reshape(directions, n_batch, -1)
        positions = torch.arange(flat.shape[2])
        table = {
            "sample_id": batch.sample_id.cpu().repeat_interleave(len(positions)).numpy(),
            "position": positions.repeat(n_batch).numpy(),
        }
        table.update(zip(self._columns, flat.flatten(1).double().cpu().numpy(), strict=True))
        import pyarrow as pa

        self._writer.write_table(pa.table(table, schema=self._writer.schema))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._writer.close()
        self._partial.replace(self.path)

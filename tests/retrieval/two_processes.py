"""Run by torchrun in test_losses.py: gradients of half a batch in each of two processes, written by the first."""

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from modeling_omni_vision.retrieval.losses import TwoWayContrastiveLoss, unwrap_retrieval_model
from tests.retrieval.test_losses import COLOURS, LABELS_OF_TWO, TEXTS, columns_of, encoder_of


def main(kind, late_interaction, mini_batch_size, path):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    encoder = encoder_of(kind, late_interaction == "True")
    unwrap_retrieval_model(encoder).text_model.pooler.requires_grad_(False)
    wrapped = DistributedDataParallel(encoder, find_unused_parameters=mini_batch_size != "0")
    loss = TwoWayContrastiveLoss(encoder, int(mini_batch_size), image_pair_weight=0.5)
    loss.model = wrapped
    own = slice(2 * rank, 2 * rank + 2)
    columns = columns_of(encoder, TEXTS[:4], COLOURS[:4])
    mine = [
        {key: value[own] if isinstance(value, torch.Tensor) else value for key, value in c.items()} for c in columns
    ]
    value = loss(mine, LABELS_OF_TWO[own])
    value.backward()
    torch.distributed.all_reduce(value.detach_(), op=torch.distributed.ReduceOp.SUM)
    if rank == 0:
        found = {name: p.grad for name, p in unwrap_retrieval_model(encoder).named_parameters() if p.grad is not None}
        torch.save({"loss": value / 2, "gradients": found}, path)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Run by torchrun in test_shared_memory.py: what each process sees of decoded images, as a line of JSON of its own."""

import json
import os
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from torch.utils.data import DataLoader, Subset

from modeling_omni_vision.data import shared_memory
from modeling_omni_vision.data.image_dataset import ImageCollator, ImageDataset
from modeling_omni_vision.image_processing_omni_vision import OmniVisionImageProcessor


def files_mapped() -> list[str]:
    """Return the numbers of the nameless files of images that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[4] for line in lines if "/omni_vision_images_" in line and line.endswith("(deleted)")})


def main(folder: str, place: str) -> None:
    shared_memory.IN_MEMORY = place
    if place == "nowhere":
        shared_memory._new_file = lambda size: None
    torch.distributed.init_process_group("gloo")
    processor = OmniVisionImageProcessor(size={"height": 8, "width": 8})
    images = ImageDataset(load_from_disk(f"{folder}/rows"), processor, of_run=True)
    sources = range(len(images) - 1)  # the last cannot be read
    loader = DataLoader(Subset(images, sources), 64, collate_fn=ImageCollator(processor), num_workers=1)
    batches = [batch["pixel_values"] for batch in loader]
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        images._memory[0] = 7
    torch.distributed.barrier()
    seen = {
        "files": files_mapped(),
        "states": images.states.tolist(),
        "pixels": float(torch.cat(batches).double().sum()),
        "written": int(images._memory[0].max()),
    }
    Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])

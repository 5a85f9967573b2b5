"""An author's program: pushes one checkpoint to the Hub of the environment in every way.

python client_push.py CHECKPOINT SCRATCH
"""

import sys
from pathlib import Path

import torch
from transformers import AutoImageProcessor, Trainer, TrainingArguments

from modeling_omni_vision import OmniVisionForImageClassification
from modeling_omni_vision.hub import publish


def main(checkpoint, scratch):
    model = OmniVisionForImageClassification.from_pretrained(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model.push_to_hub("me/classifier")
    processor.push_to_hub("me/classifier")
    model.omni_vision.push_to_hub("me/encoder")
    processor.push_to_hub("me/encoder")
    publish(checkpoint, scratch / "published", repo_id="me/published", push=True)
    rows = [{"pixel_values": torch.zeros(3, 32, 32), "labels": index % 3} for index in range(4)]
    arguments = TrainingArguments(
        output_dir=str(scratch / "trained"),
        push_to_hub=True,
        hub_model_id="me/trained",
        max_steps=1,
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""README.md of an exported folder: what was measured, and ten lines that run it without this package."""

from pathlib import Path
from typing import Any

from PIL import Image

from .towers import OUTPUTS, Checkpoint, constant_pixels


RUN = {
    "onnx": (
        "import onnxruntime",
        'run = onnxruntime.InferenceSession("{file}").run\n'
        '{output} = run(["{output}"], {{"pixel_values": pixels}})[0]',
    ),
    "openvino": (
        "import openvino",
        'compiled = openvino.compile_model("{file}", "CPU"{hint})\n'
        '{output} = compiled({{"pixel_values": pixels}})["{output}"]',
    ),
    "torch": (
        "import torch",
        'program = torch.export.load("{file}").module()\n'
        "{output} = program(torch.from_numpy(pixels))[0].detach().numpy()",
    ),
}
CARD = """# {name}, exported

Made by `omni-vision export` from a {kind}; `omni-vision predict` and `evaluate` open a classifier's folder as it is.

| file | computes in | largest difference | mean cosine | {measure} | points lost (95 % interval) | speed |
|---|---|--:|--:|--:|--:|--:|
{rows}

Compared with torch in float32 on {images} images, as this runtime computes it on {cpu} ({instructions}). Speed: CPU
time of torch divided by that of the export, batch of {batch}, threads: {threads}. All numbers: `export.json`.{returns}

```python
{code}
```
"""
ROW = (
    "| `{file}` | {precision} | {largest_difference:.1e} | {mean_cosine:.5f} | {before:.2%} -> {after:.2%} "
    "| {drop_points:.2f} ({low:.2f} to {high:.2f}) | {speed_ratio:.2f}x |"
)


def write_card(folder: Path, record: dict[str, Any], checkpoint: Checkpoint) -> Path:
    """Write README.md from what stands in `export.json`."""
    rows = []
    for file, found in record["files"].items():
        low, high = found["interval_points"]
        rows.append(ROW.format(file=file, low=low, high=high, **found))
    text = CARD.format(
        name=checkpoint.folder.resolve().name,
        kind=checkpoint.kind,
        returns=" It returns vectors alone, without tokens." if record["outputs"] == "vector" else "",
        measure=next(iter(record["files"].values()))["measure"],
        rows="\n".join(rows),
        images=record["images"],
        cpu=record["cpu"],
        instructions=", ".join(record["instructions"]) or "instructions unknown",
        batch=record["batch_size"] or 1,
        threads=record["threads"],
        code=example(record, checkpoint),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def example(record: dict[str, Any], checkpoint: Checkpoint) -> str:
    """Return Python that runs the file of the vision tower on `image.png`, int8 where there is one."""
    tower = "model" if "model" in (found["tower"] for found in record["files"].values()) else "vision_model"
    file = [name for name, found in record["files"].items() if found["tower"] == tower][-1]
    output = OUTPUTS[checkpoint.kind if tower == "model" else tower][0]
    module, run = RUN[record["format"]]
    hint = "" if record["precision"] == "bfloat16" else ', {"INFERENCE_PRECISION_HINT": "f32"}'
    is_classifier = output == "logits"
    lines = [
        *(["import json", ""] if is_classifier else []),
        "import numpy as np",
        module,
        *prepared(checkpoint, record["uint8"]),
    ]
    if record["batch_size"]:
        lines.append(f"pixels = pixels.repeat({record['batch_size']}, axis=0)  # the batch size is fixed")
    lines.append(run.format(file=file, output=output, hint=hint))
    if is_classifier:
        lines.append('print(json.load(open("config.json", encoding="utf-8"))["id2label"][str(logits[0].argmax())])')
    else:
        lines.append(f"print({output}.shape)")
    return "\n".join(lines)


def prepared(checkpoint: Checkpoint, uint8: bool) -> list[str]:
    """Return lines that make `pixels` of `image.png`: by Pillow for a plain resize, or by the image processor."""
    processor = checkpoint.image_processor
    size = processor.size or {}
    channels = checkpoint.vision_config.num_channels
    if "height" not in size or getattr(processor, "do_center_crop", None) or channels not in (1, 3):
        return [
            "from transformers import AutoImageProcessor",
            "",
            'processor = AutoImageProcessor.from_pretrained(".", trust_remote_code=True)',
            'pixels = processor(["image.png"], return_tensors="np")["pixel_values"]' + ".astype(np.uint8)" * uint8,
        ]
    height, width = size["height"], size["width"]
    filter_name = Image.Resampling(processor.resample).name
    mode = "L" if channels == 1 else "RGB"
    lines = [
        "from PIL import Image",
        "",
        f'image = Image.open("image.png").convert("{mode}")',
        f"image = image.resize(({width}, {height}), Image.Resampling.{filter_name})",
        f"pixels = np.asarray(image).reshape(1, {height}, {width}, {channels}).transpose(0, 3, 1, 2)",
    ]
    if uint8:
        return lines
    black, white = constant_pixels(checkpoint, 0), constant_pixels(checkpoint, 255)
    mean, std = (
        [round(float(one), 6) for one in values] for values in (-black / (white - black), 1 / (white - black))
    )
    shape = f".reshape({channels}, 1, 1)"
    return [*lines, f"pixels = (pixels / np.float32(255) - np.float32({mean}){shape}) / np.float32({std}){shape}"]


__all__ = ["write_card"]

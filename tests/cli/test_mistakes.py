"""What a mistake on the command line ends in: one or two lines that say what to do, status 2, no traceback."""

import json
import shlex
import shutil
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file


pytest.importorskip("sentence_transformers")
pytest.importorskip("lancedb")
pytest.importorskip("transformers", minversion="5.23")

from modeling_omni_vision.cli import arguments, program
from modeling_omni_vision.cli.index import main as index_images
from modeling_omni_vision.cli.program import fail


CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
# The words of a command, and what the line must say.
MISTAKES = {
    # paths and names
    "predict --model /nope --images images": "existing path",
    "predict --model runs/nope --images images": "no folder here",
    "predict --model nope/nope --images images": "'nope/nope', which is no folder here",
    "ask --model /nope --image a.png hello": "existing path",
    "zero-shot --model /nope": "existing path",
    "compose --vision classifier --text nope/nope --output o": "'nope/nope', which is no folder here",
    "compose --vision /nope --text search --output o": "--vision",
    "train --dataset digits --output_dir o --model nope/nope": "nope/nope",
    "train-retrieval --dataset scenes:1 --text minilm --output_dir o": "pip install",
    "index --model search --index i --images nope": "does not exist",
    "search --model search --index nope --text red": "omni-vision index",
    "predict --model classifier --images nope.png": "does not exist",
    "predict --model classifier --images empty": "hold some in --images",
    "evaluate --model classifier --dataset digit": "did you mean digits?",
    "train --dataset digit --output_dir o": "did you mean digits?",
    "inspect --dataset shape": "did you mean shapes?",
    "verify nope": "Expected a folder",
    "publish --model nope --output o": "config.json",
    "convert --model nope.pt --source muomni --output o": "nope.pt",
    # checkpoints of another kind
    "predict --model search --images images": "got a retrieval model",
    "predict --model language --images images": "omni-vision ask",
    "ask --model classifier --image a.png hello": "got a classifier",
    "zero-shot --model language": "got a vision-language model",
    "index --model classifier --index i --images images": "got a classifier",
    "search --model language --index made --text red": "got a vision-language model",
    "evaluate --model encoder --dataset digits": "got an encoder",
    "evaluate --model language --dataset scenes --robustness": "--robustness",
    "compose --vision search --text classifier --output o": "classifier",
    # broken checkpoints
    "predict --model half --images images": "Cannot open 'half'",
    "evaluate --model half --dataset digits": "Cannot open 'half'",
    "visualize --model half --images images --output o": "Cannot open 'half'",
    "publish --model half --output o": "Cannot open 'half'",
    "benchmark --model half": "Cannot open 'half'",
    "index --model half_search --index i --images images": "Cannot open 'half_search'",
    "predict --model no_weights --images images": "no_weights",
    "predict --model no_json --images images": "no_json",
    "visualize --model empty --images images --output o": "empty",
    "predict --model headless --images images": "must hold all weights",
    "evaluate --model headless --dataset digits": "must hold all weights",
    "visualize --model headless --images images --output o": "must hold all weights",
    "ask --model blind --image a.png 'What colour is the circle?'": "must hold all weights",
    "predict --model pickle --images images": "more than tensors (pathlib.PosixPath), which could run code; none was",
    "predict --model pointer --images images": "its weights are a file that torch did not write, or a broken one",
    "predict --model nan --images images": "NaN or infinity",
    "visualize --model nan --images images --output o": "NaN or infinity",
    "visualize --model classifier --images bad.png --output o": "1 of 1 images cannot be read: bad.png",
    # flags and their values
    "predict --model classifier --imgaes images": "did you mean --images?",
    "train --dataset digits --epochs 3": "did you mean --num_train_epochs?",
    "train --dataset digits --batch_size 3": "did you mean --per_device_train_batch_size?",
    "compose --vision classifier --text language --output o --fusion erly": "did you mean early?",
    "convert --model classifier --output o --target natve": "did you mean native?",
    "benchmark --model classifier --dtype bfloat6": "did you mean bfloat16?",
    "predict --model classifier --images images --batch_size 0": "at least 1",
    "predict --model classifier --images images --top_k many": "invalid int value",
    "embed --model classifier --images images --output o --batch_size 0": "at least 1 as --batch_size, got 0",
    "embed --model classifier --images images --output o --limit -2": "at least 1 as --limit, got -2",
    "visualize --model classifier --images images --output o --count 0": "at least 1 as --count, got 0",
    "ask --model language --image a.png hello --max_new_tokens 0": "at least 1 as --max_new_tokens, got 0",
    "duplicates --embeddings o --threshold nan": "at least -1 as --threshold, got nan",
    "duplicates --embeddings o --hash_bits 65": "from 0 to 64 as --hash_bits, got 65",
    "visualize --model classifier --images images --image a.png --output o": "Only a retrieval checkpoint looks for",
    "visualize --model search --image a.png --text red --images images --output o": "got --images too",
    "train --dataset digits --output_dir o --config '{\"patch_size\": '": "must be JSON",
    "train --dataset digits --output_dir o --config '{\"patchsize\": 4}'": "patchsize",
    "train --dataset digits --output_dir images": "Expected an empty --output_dir",
    "zero-shot --model search --dataset digits --split tset": "'tset'",
    "predict --model classifier --images images --json a.png/a.json": "a.png/a.json",
    "predict --model classifier --images images --csv images": "got the folder 'images'",
    "predict --model classifier --images images --sheet images": "got the folder 'images'",
    "predict --model classifier --images images --sheet sheet.jpg": "ends in .png",
    "predict --model classifier --images a.png --sheet a.png": "got the image 'a.png', which is read",
    "search --model search --index made --image a.png --sheet a.png": "got the image 'a.png', which is read",
    "embed --model classifier --images images --output images": "with other files in it",
    "predict --model classifier --images images --csv found.json": "ends in .csv as --csv, got 'found.json'",
    "predict --model classifier --images images --json new/": "got the folder 'new/'",
    "embed --model classifier --images images --output a.png": "got the file 'a.png'",
    "embed --model classifier --images images --output o.parquet": "the name of a file. Leave out .parquet",
    "visualize --model classifier --images images --output o.png": "Expected a folder as --output, got 'o.png'",
    "map --embeddings o --output map.html": "Expected a folder as --output, got 'map.html'",
    "index --model search --index o.JSON --images images": "Expected a folder as --index, got 'o.JSON'",
    "inspect images --export o.jpg": "Expected a folder as --export, got 'o.jpg'",
    "demo --model classifier --export_space o.html": "Expected a folder as --export_space, got 'o.html'",
    "train --dataset digits --output_dir o/a.json": "Expected a folder as --output_dir, got 'o/a.json'",
    "predict --model classifier --images images --csv my table.csv": "'table.csv' belongs to no flag",
    "train --dataset my images --output_dir o": "'images' belongs to no flag",
    "zero-shot --model search --dataset images --templates A photo of a {}": "Put each into quotes",
    # names that the model cannot tell apart
    "zero-shot --model search --dataset images --labels hound kitten": "tell apart",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    for name, source in (
        ("classifier", "fashion-mnist"),
        ("search", "search-scenes"),
        ("language", "language-scenes"),
    ):
        (folder / name).symlink_to(CHECKPOINTS / f"omni-vision-{source}")
    for name, source in (("half", "classifier"), ("half_search", "search")):
        shutil.copytree(folder / source, folder / name)
        weights = folder / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
    for name in ("no_weights", "encoder", "no_json"):
        shutil.copytree(folder / "classifier", folder / name, ignore=lambda *_: ["model.safetensors", "plots"])
    config = json.loads((folder / "encoder" / "config.json").read_text()) | {"architectures": ["OmniVisionModel"]}
    (folder / "encoder" / "config.json").write_text(json.dumps(config))
    for name, source, change in (
        ("headless", "classifier", lambda name, value: None if name == "classifier.weight" else value),
        ("nan", "classifier", lambda name, value: value * float("nan") if name.endswith("cls_token") else value),
        ("blind", "language", lambda name, value: None if name.endswith("cls_token") else value),
    ):
        shutil.copytree(folder / source, folder / name, ignore=lambda *_: ["model.safetensors", "plots"])
        weights = load_file(folder / source / "model.safetensors")
        kept = {key: changed for key, value in weights.items() if (changed := change(key, value)) is not None}
        save_file(kept, folder / name / "model.safetensors", {"format": "pt"})
    for name in ("pickle", "pointer"):
        shutil.copytree(folder / "no_weights", folder / name)
    torch.save({"classifier.weight": Path("a")}, folder / "pickle" / "pytorch_model.bin")
    (folder / "pointer" / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")
    (folder / "no_json" / "config.json").write_text('{"model_type": ')
    (folder / "empty").mkdir()
    (folder / "images").mkdir()
    for name in ("images/a.png", "a.png"):
        Image.new("RGB", (9, 9), "red").save(folder / name)
    (folder / "bad.png").write_text("no image")
    words = {"model": "search", "index": "made", "images": "images"}
    index_images([word for name, value in words.items() for word in (f"--{name}", str(folder / value))])
    return folder


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_ends_in_a_line_and_status_2(line, workplace, monkeypatch, capfd):
    monkeypatch.chdir(workplace)
    command, *words = shlex.split(line)
    main = import_module(f"modeling_omni_vision.cli.{command.replace('-', '_')}").main
    monkeypatch.setattr(sys, "argv", ["omni-vision", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert 1 <= len(said) <= 2, said
    assert said[-1].startswith("omni-vision")
    assert MISTAKES[line] in said[-1]
    assert not (workplace / "o").exists()


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(arguments.urllib.request, "getproxies", dict)
    arguments.use_cache_without_network()
    assert constants.HF_HUB_OFFLINE
    assert "only what was downloaded before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "flag", "asked"),
    [
        ("owner/name", "model", True),
        ("gpt2", "text", True),
        ("new:64", "text", False),
        ("minilm", "text", False),
        ("digits", "dataset", False),
        ("owner/name", "dataset", True),
        ("./a/b", "model", False),
        ("/tmp", "vision", False),
    ],
)
def test_only_names_that_may_be_on_the_hub_make_us_look_for_it(value, flag, asked):
    assert arguments.on_hub(value, flag) == asked


@pytest.mark.parametrize(("rank", "waits"), [("0", 0), ("1", program.PATIENCE)])
def test_under_a_launcher_the_first_process_speaks_and_others_wait_for_their_end(rank, waits, monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit) as stop:
        fail("a sentence")
    assert stop.value.code == 2
    assert waited == [waits] * bool(waits)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_torchrun_shows_a_mistake_once_and_no_traceback_of_ours(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    words = ["--nproc_per_node", "2", str(script), "--dataset", "digit", "--output_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("did you mean digits?") == 1
    assert "modeling_omni_vision/" not in done.stderr


def test_a_fault_while_a_library_calls_us_back_keeps_its_traceback(monkeypatch):
    from transformers import AutoModel

    from modeling_omni_vision import OmniVisionModel

    # As if this line stood in the package.
    code = compile("def broken(self, config): return {}['key']", "ours.py", "exec")
    names = {"__name__": "modeling_omni_vision.modeling"}
    exec(code, names)
    monkeypatch.setattr(OmniVisionModel, "__init__", names["broken"])
    monkeypatch.setattr(sys, "argv", ["omni-vision", "--model", str(CHECKPOINTS / "omni-vision-fashion-mnist")])
    with pytest.raises(KeyError):
        program.program(lambda words: AutoModel.from_pretrained(words[1], trust_remote_code=False))()

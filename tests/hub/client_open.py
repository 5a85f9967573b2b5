"""A client without this package: loads checkpoints and writes what it found as JSON.

python -I client_open.py ANSWER NAME... ; the process in which remote code is watched by an audit hook.
"""

import importlib.abc
import json
import sys


class NoPackage(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "modeling_omni_vision":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


IMPORT_MACHINERY = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>")
WATCHED = ("open", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.spawn")
seen = []


def watch(event, arguments):
    """Note what the body of a remote module does beyond importing: files, processes, sockets."""
    if event not in WATCHED and not event.startswith("socket."):
        return
    frame = sys._getframe(1)
    machinery = frame.f_code.co_filename in IMPORT_MACHINERY
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            # A package that it imports may do so in its own body, as psutil does, which transformers 5.24 imports.
            ours = str(frame.f_globals.get("__name__")).startswith("transformers_modules.")
            if ours and not (event == "open" and machinery):
                seen.append([frame.f_globals["__name__"], event, repr(arguments)])
            return
        frame = frame.f_back


sys.meta_path.insert(0, NoPackage())
sys.addaudithook(watch)

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline  # noqa: E402


def load(name):
    trust = {"trust_remote_code": True}
    seen.clear()
    config = AutoConfig.from_pretrained(name, **trust)
    model = AutoModel.from_pretrained(name, **trust).eval()
    classifier = AutoModelForImageClassification.from_pretrained(name, **trust).eval()
    processors = [
        AutoImageProcessor.from_pretrained(name, backend=backend, **trust) for backend in ("torchvision", "pil")
    ]
    pixels = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    image = Image.new("RGB", (50, 40), (200, 30, 60))
    with torch.no_grad():
        output, logits = model(pixels), classifier(pixels).logits
        hidden_in_classifier = classifier.base_model(pixels).last_hidden_state
    features = pipeline("image-feature-extraction", model=name, **trust)
    classes = pipeline("image-classification", model=name, **trust)
    return {
        "config": [type(config).__name__, config.model_type, sorted(config.auto_map)],
        "classes": [type(opened).__name__ for opened in (model, classifier, *processors)],
        "modules": [type(opened).__module__ for opened in (config, model, classifier, *processors)],
        "pixels": [list(processor(image, return_tensors="pt")["pixel_values"].shape) for processor in processors],
        "cls": output.cls[:, 0].tolist(),
        "hidden_in_classifier": hidden_in_classifier[:, 0].tolist(),
        "logits": logits.tolist(),
        "features": [len(features(image)[0]), len(features(image)[0][0])],
        "labels": sorted(answer["label"] for answer in classes(image)),
        "seen": list(seen),
    }


if __name__ == "__main__":
    answers = {}
    for name in sys.argv[2:]:
        try:
            answers[name] = load(name)
        except Exception as error:
            answers[name] = {"error": f"{type(error).__name__}: {error}", "seen": list(seen)}
    with open(sys.argv[1], "w") as file:
        json.dump({"answers": answers, "ours": "modeling_omni_vision" in sys.modules}, file)

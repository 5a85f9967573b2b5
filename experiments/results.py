"""Write the figures of README, docs/ and the recipes from the JSON records: python -m experiments.results [--check]

Blocks stand between lines that hold `begin NAME` and `end NAME`; single numbers between `<!--=NAME-->` and `<!--/-->`.
`--check` changes nothing and exits with 1 where a file differs from the records. Standard library only.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/*.md", "scripts/recipes/*.sh", "experiments/recipes/*.sh")
FASHION, SEARCH, LANGUAGE = (
    f"checkpoints/omni-vision-{name}/metrics.json" for name in ("fashion-mnist", "search-scenes", "language-scenes")
)
RUNS = ("fashion_mnist_short", "fashion_mnist_as_written", "zero_shot", "emoji", "language_oracle", "easy_vqa")
SHORT, AS_WRITTEN, ZERO_SHOT, EMOJI, ORACLE, EASY_VQA = (f"docs/runs/{name}.json" for name in RUNS)
SMOLLM2, LANGUAGE_GPU = "docs/runs/language_smollm2.json", "docs/runs/language_scenes_gpu.json"
COUNTING = "docs/runs/language_counting.json"
FASHION_GPU = "docs/runs/fashion_mnist_record.json"  # of experiments/fashion_mnist_record.py
# The second is of an earlier build, before fused projections, on a CPU with bf16 instructions.
BENCHMARK, BENCHMARK_BEFORE = "docs/benchmark_float32.json", "docs/benchmark.json"
RUNTIMES = "docs/runtimes.json"
EXPORTS = {"ONNX Runtime": "docs/runs/export_onnx.json", "OpenVINO": "docs/runs/export_openvino.json"}
PLAN = "docs/embedding_plan.json"
MORE_IMAGES = "docs/runs/distillation_more_images.json"
VAE, DISTILLATION = "docs/runs/vae.json", "docs/runs/distillation.json"
GPU = "docs/gpu.json"  # sections of experiments/gpu_check.py
VERSIONS = ("cpu", "torch", "transformers")
OURS = {"ours": "omni_vision", "fused": "omni_vision_fused", "compiled": "omni_vision_compiled"}
MODELS = OURS | {name: name for name in ("transformers", "timm", "TransformerEncoderLayer")}
EXACT = "{accuracy:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
LOW, HIGH = (f"{{evaluation[accuracy_interval][{end}]:.2%}}" for end in (0, 1))
TESTED = f"{{evaluation[accuracy]:.2%}} ({LOW} to {HIGH})"
CALIBRATION = "evaluation[calibration][expected_calibration_error]"
INPUTS = {"prior": "text prior", "shuffled": "shuffled images", "nothing": "no image"}
CAPTIONS, CAPTIONS_GPU = "docs/runs/language_captions.json", "docs/runs/language_captions_gpu.json"
SCENES = {"test": "test", "held_out": "combinations not in training"}
SHARES = {"exact": "exactly the objects", "named": "objects named", "invented": "captions with an object too many"}
RERANKED = {"cosine": "", "CSLS": ", CSLS", "ConSE": ", ConSE", "both": ", ConSE, CSLS"}


@cache
def read(name: str | Path) -> dict[str, Any]:
    """Read one JSON record of the repository, named from its root."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def table(columns: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Format a Markdown table of columns `heading = template | ...`; `>` before a heading aligns to the right."""
    names, cells = zip(*(column.split(" = ") for column in columns.split(" | ")), strict=True)
    rule = "|".join("--:" if name.startswith(">") else "---" for name in names)
    lines = [" | ".join(cell.format_map(row) for cell in cells) for row in rows]
    head = " | ".join(name.removeprefix(">") for name in names)
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {line} |" for line in lines)])


def words(name: str) -> str:
    """Return a key of a record as words."""
    name = re.sub("^(left_right|above_below|yes_no)$", lambda found: found[0].replace("_", " or "), name)
    return name.replace("_vector", "-vector").replace("_", " ")


def embedding(record: Mapping[str, Any]) -> str:
    """Return the speed of files to vectors, what `fast` costs, and the peak memory."""
    speed, accuracy = record["speed"], record["accuracy"]["accuracy"]
    rows = [{"size": size, "engine": speed["engine"], **ways} for size, ways in speed["sizes"].items()]
    made = table(
        "JPEG = {size} | >pipeline, ms = {pipeline[cpu_ms_an_image]} | >exact = {exact[ratio]}x | "
        ">fast = {fast[ratio]}x | >exact, parts alone = {exact parts[ratio]}x | "
        ">fast, parts alone = {fast parts[ratio]}x",
        rows,
    )
    runs, slope = record["memory"]["runs"], record["memory"]["bytes_a_row"]
    measured = ", ".join(f"{one['peak_bytes'] / 1e9:.2f} GB at {one['rows']:,}" for one in runs)
    memory = f" Peak memory of a process by the number of images: {measured}, {slope:.0f} bytes for each more."
    engines = ", ".join(
        f"{name} {found['least_cosine']:.5f} ({found['same_nearest']:.1%})"
        for name, found in record["engines"]["engines"].items()
    )
    about_machine = f"{speed['machine']['cpu']}, {'bf16' if speed['machine']['bf16'] else 'AVX2 only'}"
    return (
        f"{made}\n\n{about_machine}, shared, one thread of the encoder, {speed['engine']}, medians of "
        f"{speed['rounds']} rounds.{memory}\n"
        f"Accuracy: exact {accuracy['exact']:.1%}, fast "
        f"{accuracy['fast']:.1%}; {record['accuracy']['same_label']:.1%} of the labels are the same.\n"
        f"Least cosine with torch in float32 on {record['engines']['images']:,} images, and share of the same nearest "
        f"image: {engines}."
    )


def start() -> str:
    """List what the start of training on a folder costs in builds, the first of which the others are compared with."""
    found = read("docs/start.json")
    rounds = len(next(iter(found["runs"].values())))
    rows = [
        {
            "build": name,
            "seconds": statistics.median(run["start_cpu_seconds"] for run in runs),
            **{key: found[key][name] for key in ("start_relative", "added_mb_by_cache", "fixed_mb")},
        }
        for name, runs in found["runs"].items()
    ]
    made = table(
        "build = {build} | >CPU s to the first step = {seconds:.1f} | >relative = {start_relative:.2f} | "
        ">MB held by a MB of images = {added_mb_by_cache:.2f} | >MB beside = {fixed_mb:.0f}",
        rows,
    )
    about = f"{found['machine']['cpu']}, {found['threads']} thread(s), shared; medians of {rounds} rounds"
    return f"{made}\n\n{found['images']:,} PNG of 32 x 32 pixels; {about}."


def embedding_storage() -> str:
    """List what forms of a vector take and find."""
    plan = read(PLAN)
    columns = "form = {form} | >bytes of a vector = {bytes:g} | >GB of a billion = {gigabytes_a_billion:,.0f} | "
    columns += ">dollars a month = {dollars_a_month_a_billion:,.2f} | >recall@10 = {recall:.3f} | "
    columns += ">cosine lost = {cosine_lost:.5f}"
    made = f"{plan['images']:,} images of Fashion-MNIST, {plan['model']}, {plan['width']} numbers, {plan['queries']:,}"
    price = f"{plan['prices']['gigabyte_month']:g} dollars for a GB and month"
    return f"{table(columns, plan['forms'])}\n\n{made} queries against exact search in float32; {price}."


def embedding_costs() -> str:
    """List what a million images cost by measured rates."""
    plan = read(PLAN)
    columns = "work = {work} | on = {hardware} | >hours of one for a million = {hours_a_million:,.3g} | "
    columns += ">dollars for a million = {dollars_a_million:,.3g} | "
    columns += ">hours of 1,000 for a billion = {hours_a_billion_on_1000:,.3g}"
    prices = "At {core:g} dollars a core hour and {gpu:g} a GPU hour.".format_map(plan["prices"])
    return f"{table(columns, plan['costs'])}\n\n{prices}"


def embedding_listing() -> str:
    """Say what listing the images of a run takes."""
    found = read(PLAN)["listing"]
    return (
        f"Listing {found['images']:,} addresses and writing their plan took {found['cpu_seconds']:.0f} CPU seconds, "
        f"{found['plan_bytes'] / 1e6:.0f} MB on disk and {found['memory_bytes'] / found['images']:.0f} bytes of "
        "memory an image."
    )


def about(training: Mapping[str, Any]) -> str:
    """Return where a training ran and for how long; what it continued from where that is not counted."""
    before = [training.get("arguments", {}).get("model"), training.get("resumed_from")]
    last = f" for the last part, after {' and '.join(filter(None, before))}" if any(before) else ""
    machine = training["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} thread(s)"
    return f"{where}, shared; {training['minutes']:.0f} minutes{last}"


def fashion_mnist() -> str:
    """Describe the bundled classifier by its metrics."""
    text = f"""| measure | value |
|---|--:|
| test accuracy (95 % interval), {{evaluation[num_examples]:,}} images | {TESTED} |
| macro-F1 | {{evaluation[macro_f1]:.4f}} |
| expected calibration error | {{{CALIBRATION}[before]:.4f}} |
| the same after temperature scaling | {{{CALIBRATION}[after]:.4f}} |
| validation accuracy, best of {{training[epochs]:g}} epochs | {{training[validation_accuracy]:.2%}} |
| parameters | {{training[parameters]:,}} |

{{training[dataset][train]:,}} training images; {{about}}; seed {{training[seed]}}."""
    return text.format_map(read(FASHION) | {"about": about(read(FASHION)["training"])})


def fashion_runs() -> str:
    """Compare the trainings on Fashion-MNIST."""
    columns = (
        "recipe = `{recipe}.sh` | >epochs = {training[epochs]:g} | >minutes = {training[minutes]:.0f} | "
        f">validation = {{training[validation_accuracy]:.2%}} | >test (95 % interval) = {TESTED}"
    )
    runs = {"fashion_mnist": FASHION, "fashion_mnist_short": SHORT, "fashion_mnist_as_written": AS_WRITTEN}
    return table(columns, [{**read(path), "recipe": name} for name, path in runs.items()])


def fashion_record() -> str:
    """List trials, seeds and student of the long training on one GPU."""
    record = read(FASHION_GPU)
    tested = "{accuracy:.2%} ({accuracy_interval[0]:.2%} to {accuracy_interval[1]:.2%})"
    rows = [{"run": f"trial {one['name']}", "tested": "", **one} for one in record["trials"]]
    rows += [
        {"run": f"seed {one['seed']}", "tested": tested.format_map(one["test"]), **one} for one in record["seeds"]
    ]
    taught = record["student"]
    rows += [{"run": "distilled: taught by the three seeds", "tested": tested.format_map(taught["test"]), **taught}]
    mean = record["mean"]
    columns = "run = {run} | >epochs = {epochs:.0f} | >minutes = {minutes:.1f} | "
    columns += ">validation = {validation_accuracy:.2%} | >test (95 % interval) = {tested}"
    machine = taught["machine"]
    return (
        f"{table(columns, rows)}\n\nMean of the {mean['seeds']} seeds: {mean['accuracy']:.2%} "
        f"({mean['interval'][0]:.2%} to {mean['interval'][1]:.2%} by Student's t). "
        f"Chosen on validation: {words(record['chosen'])}; {machine['gpu']}, shared, {taught['date']}."
    )


def masked_pretraining() -> str:
    """Compare fine-tuning after masked-image pre-training with training from scratch, by the number of labels."""
    record = read("docs/runs/masked_pretraining.json")
    rows = [
        {**row, **{name: accuracy_of(row, name) for name in ("pretrained", "scratch")}, "gain": gain_of(row["gain"])}
        for row in record["labels"]
    ]
    columns = (
        "labels = {labels:,} | >pre-trained = {pretrained} | >from scratch = {scratch} | >gain, points = {gain} | "
    )
    columns += ">seeds = {seeds} | >steps = {steps:,} of {batch} images"
    before, earlier, trial = record["pretraining"], record["earlier"], record["earlier"]["trial"]
    kept = {
        name: ", ".join(f"{run['test']:.1%}" for run in earlier["runs"] if run["start"] == name)
        for name in ("pretrained", "scratch")
    }
    longer, said = record.get("control"), ""  # the last run, which a record that was cut lacks
    if longer:
        said = f"From scratch with {longer['labels']} labels (seed {longer['seed']}) and {longer['times']} times the "
        said += f"steps: {longer['test']:.1%}.\n"
    return (
        f"{table(columns, rows)}\n\n{said}"
        f"Pre-training: {before['dataset']['train']:,} images without labels, {before['steps']:,} steps "
        f"({before['minutes']:.0f} minutes of one thread of a shared {before['machine']['cpu']}); masked pixels of "
        f"{before['images']:,} validation images are {before['levels']:.1f} of 255 levels off, "
        f"{before['levels_of_mean_colour']:.1f} in the mean colour of the visible ones.\n"
        f"An earlier recipe ({earlier['recipe']}), left because validation showed training from scratch far from its "
        f"end, gave with 100 labels {kept['pretrained']} after pre-training and {kept['scratch']} from scratch. "
        f"How much is gained depends on the steps: after {trial['steps']} of {trial['batch']} images validation had "
        f"{trial['pretrained']:.1%} and {trial['scratch']:.1%} ({trial['labels']} labels, seed {trial['seed']})."
    )


def accuracy_of(row: Mapping[str, Any], name: str) -> str:
    """Return the test accuracy of some runs with its interval, over seeds or of one over images."""
    low, high = row[name].get("interval") or row["runs"][name][0]["test_interval"]
    return f"{row[name]['mean']:.1%} ({low:.1%} to {high:.1%})"


def gain_of(gain: Mapping[str, Any]) -> str:
    """Return a difference in points, with its interval over seeds where there are several."""
    interval = " ({:+.1f} to {:+.1f})".format(*(100 * end for end in gain["interval"])) if "interval" in gain else ""
    return f"{100 * gain['mean']:+.1f}{interval}"


def robustness() -> str:
    """List the accuracy of the bundled classifier on changed images."""
    record, severity = read(FASHION)["robustness"], "{severity:g}: {accuracy:.1%}"
    rows = [
        {"change": words(name), "unit": unit, "found": ", ".join(map(severity.format_map, record[name]))}
        for name, unit in record["units"].items()
    ]
    return table("change = {change} | unit = {unit} | severity: test accuracy = {found}", rows)


def distillation() -> str:
    """Compare the student of the real distillation with its teacher, the same student by labels alone, and none."""
    found = read(DISTILLATION)["agreement"]
    labels, styles, speed = found["labels"], found["style_recall_at_1"], found["speed"]
    names = ("teacher", "student", "twice_width", "from_scratch", "random_weights")
    keys = ("overlap", *(f"overlap_of_{one}" for one in names[2:]))

    def share(name: str, key: str) -> str:
        return f"{labels[name][key]:.1%}" if name in labels else ""

    rows = [
        ("overlap of ten neighbours with the teacher", "1", *(f"{found[key]:.3f}" for key in keys)),
        ("ten nearest neighbours, nine emoji groups", *(share(one, "knn_accuracy") for one in names)),
        ("linear probe, nine emoji groups", *(share(one, "linear_probe_accuracy") for one in names)),
        (f"the same emoji in another style, first of {styles['concepts']}", *(f"{styles[one]:.1%}" for one in names)),
    ]
    for engine, name in {"torch": "torch", "openvino": "OpenVINO"}.items():
        rates = [f"{speed[engine][f'{one}_images_per_cpu_second']:.1f}" for one in names[:2]]
        rows.append((f"images per CPU second, {name}", *rates, "", "", ""))
    columns = " = {what} | >teacher = {teacher} | >student = {student} | >of twice the width = {twice_width} | "
    columns += ">from labels alone = {from_scratch} | >random weights = {random_weights}"
    training, before = read(DISTILLATION)["training"], read(DISTILLATION)["earlier"][-1]
    how = (
        f"{training['recipe']['views']} views of {training['images']['train']:,} images, {training['epochs']:.0f} "
        f"epochs, {training['minutes']:.0f} minutes of {training['machine']['gpu']}, shared. A run of "
        f"{before['epochs']:.0f} epochs on one CPU thread had an overlap of {before['overlap']:.3f}, and "
        f"{before['style_recall_at_1']:.1%} in another style."
    )
    return f"{table(columns, [dict(zip(('what', *names), row, strict=True)) for row in rows])}\n\n{how}"


def distillation_more_images() -> str:
    """Compare the student of the first images with those that went on with more, one of which is bundled."""
    record = read(MORE_IMAGES)
    found, training, others = record["agreement"], record["training"], record["other_images"]
    later = [record["third_training"], record["fourth_training"]]
    names = {"student": "first stage", "second_stage": "second stage", "mean_of_both": "mean of their weights"}
    names |= {"third_stage": "third stage", "fourth_stage": "fourth stage, bundled"}
    rows = [
        {
            "name": name,
            "overlap": found["overlap" if key == "student" else f"overlap_of_{key}"],
            "style": found["style_recall_at_1"][key],
            "knn": found["labels"][key]["knn_accuracy"],
            "others": others["overlap"][key],
        }
        for key, name in names.items()
    ]
    columns = "student = {name} | >overlap = {overlap:.3f} | >the same emoji in another style = {style:.1%} | "
    columns += ">ten nearest, nine groups = {knn:.1%} | >overlap on new images = {others:.3f}"
    epochs, recipe = round(training["epochs"]), training["recipe"]
    low = sum(epoch < recipe["low_resolution_fraction"] * epochs for epoch in range(epochs))
    epochs_later = " and ".join(f"{one['epochs']:.1f}" for one in later)
    minutes_later = " and ".join(f"{one['arguments']['max_minutes']:.0f}" for one in later)
    return (
        f"{table(columns, rows)}\n\n{training['images']['train']:,} images, {epochs} epochs, {low} of them at "
        f"{recipe['low_resolution']} pixels, {training['minutes']:.0f} minutes of "
        f"{training['machine']['cores']} CPU cores; then {epochs_later} epochs at full size, {minutes_later} minutes "
        f"of {later[0]['machine']['cores']} cores shared with other work. "
        f"New images: {others['images']} of the packages added, which no training saw."
    )


def distillation_views() -> str:
    """Compare how often a teacher is asked: what that costs and gains."""
    record = read("docs/distillation/views.json")
    columns = "`--views` = {views} | >CPU minutes = {cpu_minutes:.1f} | >overlap = {overlap:.3f}"
    listed = table(columns, record["runs"])
    return (
        f"{listed}\n\n{record['images']['train']:,} images, {record['epochs']:g} epochs, 112 pixels in nine tenths of "
        f"them, one seed; overlap on the {record['images']['measured']:,} held-out images below; {record['date']}."
    )


def search() -> str:
    """Describe the bundled retrieval checkpoint by its metrics."""
    record = read(SEARCH)
    columns = (
        "vectors = {vectors} | direction = {way} | >recall@1 = {recall@1:.1%} | >recall@5 = {recall@5:.1%} | "
        ">nDCG@10 = {ndcg@10:.3f} | >candidates = {candidates}"
    )
    rows = [
        {"vectors": words(vectors), "way": words(way), **scores}
        for vectors, splits in record["retrieval"].items()
        for way, scores in splits["test"].items()
    ]
    return f"{table(columns, rows)}\n\n{record['training']['parameters']:,} parameters; {about(record['training'])}."


def zero_shot() -> str:
    """List the zero-shot accuracy of the bundled retrieval checkpoint and of the short recipe."""
    columns = (
        "recipe = `{recipe}` | vectors = {name} | >accuracy = {accuracy:.1%} | "
        ">combinations not in training = {held_out:.1%} | >classes = {classes} | >images = {images}"
    )
    runs = {"search_scenes.sh": read(SEARCH)["zero_shot"], "zero_shot.sh": read(ZERO_SHOT)["zero_shot"]}
    vectors = ("multi_vector", "single_vector")
    rows = [
        {"recipe": recipe, "name": words(key), **run, **run[key]} for recipe, run in runs.items() for key in vectors
    ]
    return table(columns, rows)


def emoji_texts() -> str:
    """List recall@5 between images of held-out emoji concepts and their texts."""
    columns = "images in = {style} | text = {text} | "
    columns += "".join(f">to text: {name} = {{{name}[image_to_text][recall@5]:.1%}} | " for name in RERANKED)
    columns += "".join(
        f">to image: {name} = {{{name}[text_to_image][recall@5]:.1%}} | " for name in ("cosine", "ConSE")
    )
    columns += ">candidates = {cosine[image_to_text][candidates]} / {cosine[text_to_image][candidates]}"
    styles = {"trained style": "test", "unseen style": "test_unseen_style"}
    texts = {"name": "", "name with keywords": ", keywords", "several texts": ", ensemble"}
    found = read(EMOJI)["emoji"]["texts"]
    rows = [
        {"style": style, "text": text}
        | {name: found[split][f"single_vector{queried}{method}"] for name, method in RERANKED.items()}
        for style, split in styles.items()
        for text, queried in texts.items()
    ]
    return table(columns, rows)


def emoji_styles() -> str:
    """List how often an emoji in an unseen style finds its concept in a trained style."""
    recalls = " | ".join(f">recall@{rank} = {{recall@{rank}:.1%}}" for rank in (1, 5, 10))
    rows = [
        {"concepts": concepts, "method": "OmniVision" if method == "single_vector" else method, **scores}
        for concepts, methods in read(EMOJI)["emoji"]["styles"].items()
        for method, scores in methods.items()
        if method != "multi_vector"
    ]
    return table(f"concepts = {{concepts}} | method = {{method}} | {recalls} | >candidates = {{candidates:,}}", rows)


def cls() -> str:
    """List for each way of training who wins the words and whether similarity maps point at their object."""
    cells = {
        ">nDCG@10, text to image": "{ndcg@10[text_to_image]:.3f}",
        ">image to text": "{ndcg@10[image_to_text]:.3f}",
        ">CLS wins": "{dominance[seen][own image, CLS kept][shares][cls]:.0%}",
        ">pointing game": "{grounding[seen][MaxSim][pointing]:.0%}",
        ">unseen combinations": "{grounding[held out][MaxSim][pointing]:.0%}",
    }
    studies = [read(path) for path in sorted((ROOT / "docs/search").rglob("cls.json"))]
    unranked = {"ndcg@10": dict.fromkeys(("text_to_image", "image_to_text"), float("nan"))}
    rows = []
    for name in dict.fromkeys(name for study in studies for name in study["checkpoints"]):
        found = [study["checkpoints"][name] for study in studies if name in study["checkpoints"]]
        found = [one if one["ndcg@10"] else one | unranked for one in found]
        row = {heading: " / ".join(map(cell.format_map, found)).replace("nan", "-") for heading, cell in cells.items()}
        rows.append(row | {"trained": words(name)})
    columns = " | ".join(f"{heading} = {{{heading}}}" for heading in cells)
    seeds = ", ".join({str(next(iter(study["checkpoints"].values()))["trained_with_seed"]): 0 for study in studies})
    made = f"Seeds {seeds}; {studies[0]['scenes']} scenes of two objects."
    return f"{table(f'trained = {{trained}} | {columns}', rows)}\n\n{made}"


def exact_answers(found: Mapping[str, Any], kind: str) -> str:
    """Return the share of exact answers of a kind of question, or of all, with its interval."""
    kinds = {"all": found, **found["kinds"]}
    return EXACT.format_map(kinds[kind]) if kind in kinds else "-"  # not asked


def answers(name: str, *controls: str, **more: Mapping[str, Any]) -> str:
    """List exact answers for each kind of question, beside controls and, by heading, answers of other models."""
    found, training = read(name)["answers"], read(name)["training"]
    images = found["test"]["images"]
    scores = {"images": images}
    scores |= {"images, held out": found["held_out"]["images"]} if "held_out" in found else {}
    scores |= {INPUTS[control]: found["test"][control] for control in controls} | more
    rows = [
        {"kind": words(kind)} | {what: exact_answers(one, kind) for what, one in scores.items()}
        for kind in ("all", *images["kinds"])
    ]
    columns = " | ".join(["question = {kind}", *(f">{what} = {{{what}}}" for what in scores)])
    asked = f"{images['questions']:,} questions about {training['conversations']['test']:,} test images"
    trained = f"{training['trained_parameters']:,} of {training['parameters']:,} parameters trained"
    return f"{table(columns, rows)}\n\n{asked}; {trained}, {training['steps']:,} steps; {about(training)}."


def language() -> str:
    """List the answers of the bundled vision-language model beside its controls."""
    text_only = read("docs/runs/language_scenes_blind.json")["answers"]["test"]["nothing"]
    symbols = read(ORACLE)["answers"]["test"]["symbol_map"]
    return answers(LANGUAGE, *INPUTS, **{"text-only baseline": text_only, "symbol maps": symbols})


def seeds(name: str, kind: str) -> str:
    """Say what trainings that differ in their seed alone answer: the records whose names begin with that of one."""
    records = [read(path) for path in sorted(ROOT.glob(f"{name.removesuffix('.json')}*.json"))]
    found, numbers = [record["answers"] for record in records], [record["training"]["seed"] for record in records]
    asked = {
        "images": [one["test"]["images"] for one in found],
        "images, held out": [one["held_out"]["images"] for one in found],
        "shuffled images": [one["test"]["shuffled"] for one in found],
        "text prior": [one["test"]["prior"] for one in found[:1]],  # of the texts alone
    }
    said = [f"{what} {' / '.join(exact_answers(one, kind) for one in scores)}" for what, scores in asked.items()]
    return f"Question {words(kind)}, trainings of seeds {', '.join(map(str, numbers))}: {'; '.join(said)}."


def captions(path: str = CAPTIONS) -> str:
    """List what captions of scenes name, beside what they name of another scene, and what learning them cost."""
    record, rows = read(path), []
    for name, scenes in SCENES.items():
        for which, about_scenes in (("own", scenes), ("of_another_scene", f"{scenes}, another scene's objects")):
            found = record["captions"]["splits"][name][which]
            shares = {key: {**found[key], "accuracy": found[key]["share"]} for key in SHARES}
            cells = {key: EXACT.format_map(one) for key, one in shares.items()}
            rows.append({"scenes": about_scenes, "images": found["images"], **cells})
    columns = " | ".join(f">{heading} = {{{key}}}" for key, heading in SHARES.items())
    listed = table(f"captions compared with = {{scenes}} | >scenes = {{images}} | {columns}", rows)
    shapes, numbers = (
        "{:.1%} exact answers, {:.1%} of the bundled model".format(
            *(read(one)["answers"][split]["images"]["kinds"][kind]["accuracy"] for one in (path, LANGUAGE))
        )
        for split, kind in (("held_out", "shape"), ("test", "count"))
    )
    cost = f"Shapes of combinations not in training: {shapes}. Numbers: {numbers}."
    return f"{listed}\n\n{record['training']['steps']:,} steps; {about(record['training'])}. {cost}"


def generation() -> str:
    """List the bounds of autoencoders on test images, and their differences to the convolutional one."""
    record, rows = read(VAE), []
    for name, found in record["models"].items():
        cells = dict.fromkeys(("elbo", "weighted"), "-")
        for kind, one in record["difference"].get(name, {}).items():
            cells[kind] = "{mean:+.1f} ({interval[0]:+.1f} to {interval[1]:+.1f})".format_map(one)
        low, high = found["test"]["elbo_interval"]
        rows.append({"model": name, "difference": cells["elbo"], **cells, "low": low, "high": high, **found})
    columns = (
        "model = {model} | >parameters = {parameters:,} | >learning rate = {learning_rate:g} | "
        ">ELBO, nats (95 % interval) = {test[elbo]:.1f} ({low:.1f} to {high:.1f}) | "
        ">bits per dimension = {test[bits_per_dimension]:.3f} | >KL, nats = {test[kl]:.1f} | "
        ">to the convolutional, by image = {difference} | "
        ">importance-weighted, nats = {test[importance_weighted][elbo]:.1f} | >to the convolutional = {weighted} | "
        ">minutes = {minutes:.1f}"
    )
    test, sizes = rows[0]["test"], record["config"]
    made = f"{test['images']:,} test images, {record['images']['train']:,} to train on; {record['steps']:,} steps of "
    made += f"{record['batch_size']}, latent size {sizes['latent_size']}, width {sizes['vision']['hidden_size']}, "
    made += f"{test['importance_weighted']['samples']} vectors for the weighted bound; one seed, {record['date']}, "
    made += "one shared core."
    return f"{table(columns, rows)}\n\n{made}"


def exports() -> str:
    """List what exports of the bundled classifier give on the validation images of Fashion-MNIST."""
    rows = []
    for runtime, path in EXPORTS.items():
        for found in read(path)["files"].values():
            low, high = found["interval_points"]
            rows.append({"runtime": runtime, "interval": f"{low + 0.0:.2f} to {high:.2f}", **found})
    columns = (
        "runtime = {runtime} | precision = {precision} | >largest difference = {largest_difference:.1e} | "
        ">mean cosine = {mean_cosine:.4f} | >least cosine = {min_cosine:.4f} | >other class = {other_class} | "
        ">accuracy = {after:.2%} | >points lost (95 % interval) = {drop_points:.2f} ({interval}) | "
        ">speed by torch, batch 1 = {speed_ratio:.2f}"
    )
    record = read(EXPORTS["OpenVINO"])
    made = (
        f"{record['images']:,} images, int8 calibrated on {record['calibration_images']} others; {record['threads']} "
    )
    return f"{table(columns, rows)}\n\n{made}thread(s), {record['cpu']} with {', '.join(record['instructions'])}."


def runtimes() -> str:
    """List the speed of exports beside the `ViTModel` of transformers."""
    record = read(RUNTIMES)
    versions = ", ".join(f"{name} {record['machine'][name]}" for name in (*VERSIONS, "onnxruntime", "openvino"))
    made = f"Medians of {record['rounds']} interleaved rounds, CPU seconds, {record['threads']} thread, shared; "
    return f"{speed_table(record['rows'])}\n\n{made}{', '.join(record['instructions'])}; {versions}."


def speed_table(found: Sequence[Mapping[str, Any]]) -> str:
    """List how many times faster than `ViTModel` each export is, a column for each batch."""
    columns = " | ".join(
        ["export = {way}", *(f">batch {one['batch_size']} = {{b{one['batch_size']}}}" for one in found)]
    )
    cells = {way: [f"{one['speed'][way]:.2f}" for one in found] for way in found[0]["speed"]}
    cells["`ViTModel`, ms"] = [f"{one['cpu_ms']['transformers']:.1f}" for one in found]
    rows = [
        {"way": way, **{f"b{one['batch_size']}": cell for one, cell in zip(found, line, strict=True)}}
        for way, line in cells.items()
    ]
    return table(columns, rows)


def benchmark(name: str = BENCHMARK) -> str:
    """List the speed and memory of models of equal size, and ours with fused projections and compiled, in float32."""
    record, rows = read(name), []
    for row in record["rows"]:
        # The way of ours that is fastest here; compiled models stand beside peers that are not.
        ways = {way: one for way, one in row["relative_to_best_peer"].items() if way != OURS["compiled"]}
        rows.append(row | max(ways.values(), key=lambda one: one["speed_relative_to_best_peer"]))
    bounds = ">95 % interval = {interval[0]:.2f} to {interval[1]:.2f}"
    made = f"Medians of {record['runs']} runs of {record['rounds']} interleaved rounds; "
    made += "" if record["freed_memory_kept"] else "memory as the C library manages it; "
    made += f"{', '.join(record['instructions'])}; {made_on(record)}."
    return benchmark_table(rows, MODELS, "our best / best peer", bounds) + f"\n\n{made}"


def benchmark_bfloat16() -> str:
    """List the same in bfloat16, of an earlier build on a CPU that has instructions for it."""
    record = read(BENCHMARK_BEFORE)
    rows = [row for row in record["rows"] if row["dtype"] == "bfloat16"]
    models = {name: key for name, key in MODELS.items() if key not in (OURS["fused"], OURS["compiled"])}
    made = f"Medians of {record['rounds']} interleaved rounds; {made_on(record)}."
    return f"{benchmark_table(rows, models, 'ours / best peer')}\n\n{made}"


def made_on(record: Mapping[str, Any]) -> str:
    """Return what a record of experiments/benchmark_peers.py was measured on."""
    versions = ", ".join(f"{name} {record['machine'][name]}" for name in (*VERSIONS, "timm"))
    return f"{record['threads']} thread(s), shared; {versions}"


def benchmark_table(rows: Iterable[Mapping[str, Any]], models: Mapping[str, str], ratio: str, *more: str) -> str:
    """List rows of experiments/benchmark_peers.py: milliseconds, the ratio to the best peer, memory."""
    listed = []
    for row in rows:
        found = {name: row["models"].get(key, {}) for name, key in models.items()}
        times = {name: f"{one['cpu_ms']:.4g}" if one else "-" for name, one in found.items()}
        peaks = ["-" if one.get("peak_mb") is None else f"{one['peak_mb']:.0f}" for one in found.values()]
        what = row["work"] + (f", dropout {row['dropout']}" if row["dropout"] else "")
        listed.append({**row, **times, "peaks": ", ".join(peaks), "what": what})
    columns = "work = {what} | >batch = {batch_size} | attention = {attention} | "
    columns += "".join(f">{name} ms = {{{name}}} | " for name in models)
    columns += " | ".join([f">{ratio} = {{speed_relative_to_best_peer:.2f}}", *more])
    return table(f"{columns} | peak MiB: {', '.join(models)} = {{peaks}}", listed)


def gpu_forward() -> str:
    """List forwards on a GPU, ours plain and with fused projections, beside those of models of equal size."""
    record, rows = read(GPU), []
    for work, found in (("eager", record["forward"]), ("CUDA graph", record["cuda_graphs"])):
        for name, models in found.items():
            size, batch = name.split()
            times = {key.replace(" ", "_"): f"{one['ms']:.3g}" for key, one in models.items()}
            rows.append({"size": size, "batch": batch, "work": work, **times, **models["ours fused"]})
    columns = (
        "model = {size} | >batch = {batch} | launched = {work} | >ours ms = {ours} | >ours fused ms = {ours_fused} | "
    )
    columns += "".join(f">{name} ms = {{{name}}} | " for name in ("transformers", "timm", "TransformerEncoderLayer"))
    columns += ">ours fused / best peer = {speed_of_best_peer:.2f} | >95 % bounds = {bounds[0]:.2f} to {bounds[1]:.2f}"
    versions = ", ".join(f"{name} {record['machine'][name]}" for name in ("device", "torch", "transformers", "timm"))
    return f"{table(columns, rows)}\n\nbfloat16, sdpa, medians of samples in turns; {versions}, {record['date']}."


def gpu_training() -> str:
    """List the training of the short recipe for Fashion-MNIST on a GPU."""
    before = {name: run for name, run in read(GPU)["second_run"]["training_before"].items() if name != "commit"}
    runs = [*read(GPU)["training"].items(), *((f"{name}, build before", run) for name, run in before.items())]
    rows = [{"name": name, **run} for name, run in runs]
    columns = "run = {name} | >images/s = {images_per_second:,.0f} | >ms a step = {ms_per_step:.1f} | "
    return table(columns + ">seconds to the first step = {seconds_to_first_step:.1f}", rows)


def gpu_against_peers() -> str:
    """List compiled forwards and bare training steps on a GPU beside the best model of equal size."""
    record, rows = read(GPU)["second_run"], []
    for work, section in (("compiled forward", "forward_compiled"), ("training step", "training_step")):
        for name, models in record[section].items():
            for ours in [key for key in ("ours", "ours fused") if "speed_of_best_peer" in models.get(key, {})]:
                low, high = models[ours].get("bounds", ("unknown", "unknown"))
                bounds = low if low == "unknown" else f"{low:.2f} to {high:.2f}"
                peer = models[models[ours]["best_peer"]]["ms"]
                rows.append({"work": work, "name": name, "which": ours, **models[ours], "range": bounds, "peer": peer})
    columns = (
        "work = {work} | model and batch = {name} | which = {which} | >ms = {ms:.1f} | best peer = {best_peer} | "
    )
    columns += ">its ms = {peer:.1f} | >ours / best peer = {speed_of_best_peer:.2f} | >95 % bounds = {range}"
    return (
        f"{table(columns, rows)}\n\nbfloat16 (autocast in training); {record['machine']['device']}, {record['date']}."
    )


def gpu_losses() -> str:
    """List the loss over steps and the accuracy at the end of the build before and of today's, batch size 256."""
    record = read(GPU)
    runs = {"before, seed 0": record["second_run"]["training_before"]["256 seed 0"]}
    runs |= {f"seed {seed}": record["training"][f"256 seed {seed}"] for seed in range(3)}
    losses = {name: dict(run["losses"]) for name, run in runs.items()}
    rows = [
        {"step": f"{step:,}", **{name: f"{found[step]:.3f}" for name, found in losses.items()}}
        for step in (40, 200, 400, 600, 800, 1040)
    ]
    rows.append(
        {"step": "accuracy"} | {name: f"{run['validation']['eval_accuracy']:.4f}" for name, run in runs.items()}
    )
    return table(" | ".join(["step = {step}", *(f">{name} = {{{name}}}" for name in runs)]), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    **{block.__name__: block for block in (fashion_mnist, fashion_runs, fashion_record, robustness, search)},
    **{block.__name__: block for block in (zero_shot, cls)},
    "masked_pretraining": masked_pretraining,
    "distillation": distillation,
    "distillation_views": distillation_views,
    "distillation_more_images": distillation_more_images,
    **{block.__name__: block for block in (emoji_texts, emoji_styles, language, captions)},
    **{block.__name__: block for block in (benchmark, gpu_forward, gpu_training)},
    **{block.__name__: block for block in (benchmark_bfloat16, gpu_against_peers, gpu_losses, exports, runtimes)},
    "benchmark_large_batches": partial(benchmark, "docs/benchmark_large_batches.json"),
    "generation": generation,
    **{block.__name__: block for block in (embedding_storage, embedding_costs, embedding_listing)},
    "embedding": lambda: embedding(read("docs/embedding.json")),
    "easy_vqa": partial(answers, EASY_VQA, "prior", "shuffled"),
    "smollm2": partial(answers, SMOLLM2, *INPUTS),
    "smollm2_seeds": partial(seeds, SMOLLM2, "name"),
    "captions_gpu": partial(captions, CAPTIONS_GPU),
    "language_counting": lambda: "\n".join(f"- {seeds(COUNTING, kind)}" for kind in ("count", "shape")),
    "language_gpu": lambda: "\n".join(f"- {seeds(LANGUAGE_GPU, kind)}" for kind in ("count", "shape")),
    "index": lambda: table(
        "queries = {queries} | search = {search} | >images = {images:,} | "
        ">recall@10 of stored vectors = {recall:.3f} | >of all vectors = {recall_of_all_vectors:.3f} | "
        ">CPU ms a query = {cpu_ms:.0f} | >bytes an image = {bytes_per_image:,.0f}",
        read("docs/search/index.json")["rows"],
    ),
    "fusions": lambda: table(
        "model = {name} | fusion = {fusion} | features = {vision_feature_select_strategy} | "
        ">scale factor = {scale_factor} | >vectors = {num_image_tokens} | >positions in the LM = {image_tokens} | "
        ">test = {answers[test][images][all]:.1%} | >held out = {answers[held_out][images][all]:.1%} | "
        ">prefill ms = {prefill_ms:.1f} | >without image = {prefill_without_image_ms:.1f} | "
        ">decode ms = {decode_ms:.1f} | >decode without image = {decode_without_image_ms:.1f}",
        read("docs/language/fusions.json")["rows"],
    ),
    "step_data": lambda: table(
        "augmentation = {augmentation} | >batch ready, ms = {data_ms:.1f} | "
        ">bfloat16 step, ms = {step_ms[bfloat16]:.0f} | >waits = {share_waiting[bfloat16]:.1%} | "
        ">float32 step, ms = {step_ms[float32]:.0f} | >waits = {share_waiting[float32]:.1%}",
        read(BENCHMARK_BEFORE)["data"],
    ),
    "start": start,
    "step_attention": lambda: table(
        ">tokens = {tokens} | >batch = {batch_size} | precision = {dtype} | >eager ms = {cpu_ms[eager]:.1f} | "
        ">sdpa ms = {cpu_ms[sdpa]:.1f} | >speed of eager by sdpa = {eager_relative_to_sdpa:.2f}",
        read(BENCHMARK_BEFORE)["attention"],
    ),
}
# The last lines of a recipe's header: where it ran, how long, what came out.
TEST_ACCURACY = "test accuracy {evaluation[accuracy]:.2%}"
ANSWERS = "exact answers {answers[test][images][accuracy]:.1%}"
UNSEEN = "; combinations of colour and shape not in training {answers[held_out][images][accuracy]:.1%}"
FOUND = "{emoji[texts][test][single_vector][image_to_text][recall@5]:.1%}"
PROMISES = {
    "recipe": (FASHION, TEST_ACCURACY),
    "short_recipe": (SHORT, TEST_ACCURACY),
    "as_written_recipe": (AS_WRITTEN, TEST_ACCURACY),
    "search_recipe": (SEARCH, "nDCG@10 of a text's image {retrieval[multi_vector][test][text_to_image][ndcg@10]:.3f}"),
    "zero_shot_recipe": (ZERO_SHOT, "{zero_shot[single_vector][accuracy]:.1%} of {zero_shot[images]} drawings"),
    "emoji_recipe": (EMOJI, f"recall@5 of held-out names {FOUND}"),
    "language_recipe": (LANGUAGE, ANSWERS + UNSEEN),
    "language_gpu_recipe": (LANGUAGE_GPU, ANSWERS + UNSEEN),
    "captions_recipe": (
        CAPTIONS,
        "captions of test that name exactly the objects {captions[splits][test][own][exact][share]:.1%}",
    ),
    "oracle_recipe": (ORACLE, "exact answers {answers[test][symbol_map][accuracy]:.1%}"),
    "easy_vqa_recipe": (EASY_VQA, ANSWERS),
    "smollm2_recipe": (SMOLLM2, ANSWERS + UNSEEN),
}
NUMBERS = {
    "quickstart_minutes": ("docs/quickstart.json", "{targets[quickstart][minutes]:.0f}"),
    "quickstart_gigabytes": ("docs/quickstart.json", "{targets[quickstart][gigabytes]:.1f}"),
    "ceiling": (DISTILLATION, "{agreement[overlap_of_teacher_in_the_width]:.3f}"),
    "wide_ceiling": (DISTILLATION, "{agreement[overlap_of_teacher_in_twice_the_width]:.3f}"),
    "more_low": (MORE_IMAGES, "{training[evaluations][6][overlap]:.3f}"),
    "taught": (MORE_IMAGES, "{fourth_training[images][train]:,}"),
    "first_on_validation": (MORE_IMAGES, "{validation[overlap][student]:.3f}"),
    "third_on_validation": (MORE_IMAGES, "{validation[overlap][third_stage]:.3f}"),
    "fourth_on_validation": (MORE_IMAGES, "{validation[overlap][fourth_stage]:.3f}"),
    "more_full": (MORE_IMAGES, "{training[evaluations][8][overlap]:.3f}"),
    "teacher_kept": (MORE_IMAGES, "{agreement[speed][torch][teacher_images_per_cpu_second]:.0f}"),
    "student_kept": (MORE_IMAGES, "{agreement[speed][torch][student_images_per_cpu_second]:.0f}"),
    "ratio_kept": (MORE_IMAGES, "{agreement[speed][torch][ratio]:.1f}"),
    "ratio_installed": (DISTILLATION, "{agreement[speed][torch][ratio]:.1f}"),
    "tower_shapes": ("docs/runs/language_tower.json", "{patches[held_out][shape]:.1%}"),
    "fashion_accuracy": (FASHION, "{evaluation[accuracy]:.1%}"),
}


def promise(name: str) -> str:
    """Return the measured lines of a recipe's header."""
    path, result = PROMISES[name]
    training = read(path)["training"]
    return f"# {about(training)}.\n# {training['date']}: {result.format_map(read(path))}."


def number(name: str) -> str:
    """Return a single number: of NUMBERS, or our slowest and fastest speed beside the best peer's."""
    if name in ("slowest", "fastest"):
        rows = read(BENCHMARK)["best_attention"]
        rows = [*rows, *(row for row in read(BENCHMARK_BEFORE)["best_attention"] if row["dtype"] == "bfloat16")]
        speeds = sorted(row["speed_relative_to_best_peer"] for row in rows)
        return f"{speeds[0 if name == 'slowest' else -1]:.2f}"
    path, template = NUMBERS[name]
    try:
        return template.format_map(read(path))
    except KeyError:  # a make target that was left out when docs/quickstart.json was measured
        return "not yet measured"


def fill(text: str) -> str:
    """Put the figures of the records into a text; an unknown block or number is a `KeyError`."""
    for name in re.findall(r"^\S+ begin (\w+)", text, re.MULTILINE):
        block = f"\\g<1>{promise(name) if name in PROMISES else BLOCKS[name]()}\n"
        between = re.compile(rf"(^\S+ begin {name}\b.*\n)(?:.*\n)*?(?=^\S+ end {name}\b)", re.MULTILINE)
        text = between.sub(block, text)
    return re.sub(r"(<!--=(\w+)-->)[^<]*", lambda found: found[1] + number(found[2]), text)


def main(argv: Sequence[str] | None = None) -> None:
    """Write all pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a page is stale")
    check = parser.parse_args(argv).check
    stale = []
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        before = path.read_text(encoding="utf-8")
        if (after := fill(before)) != before:
            stale.append(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
            if not check:
                path.write_text(after, encoding="utf-8")
    print("\n".join(stale) or "every page holds the figures of the records")
    sys.exit(check and bool(stale))


if __name__ == "__main__":
    main()

import json
import runpy
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modeling_omni_vision.hub import verify
from modeling_omni_vision.hub.proof import canonical, digest_of, file_hashes, read_proof, release_name
from modeling_omni_vision.hub.remote_code import write_note
from modeling_omni_vision.hub.verify import check_files


SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "verify.py"))["main"]
FILES = [
    "README.md",
    "REMOTE_CODE.md",
    "common_omni_vision.py",
    "config.json",
    "configuration_omni_vision.py",
    "features_omni_vision.py",
    "image_processing_omni_vision.py",
    "masked_omni_vision.py",
    "metrics.json",
    "model.safetensors",
    "modeling_omni_vision.py",
    "plots/attention.png",
    "plots/calibration.png",
    "plots/confusion.png",
    "plots/interpolation.png",
    "plots/mistakes.png",
    "plots/reconstructions.png",
    "plots/robustness.png",
    "plots/samples.png",
    "plots/training.png",
    "preprocessor_config.json",
    "proof.json",
]


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def forge(folder):
    """Rewrite the proof for the files as they are now, as whoever can write every file can."""
    proof = read_proof(folder)
    proof["files"] = file_hashes(folder)
    proof["digest"] = digest_of(proof)
    (folder / "proof.json").write_text(canonical(proof))


def releases(folder):
    """Return the release that the card states and the one that its files have now."""
    stated = (folder / "README.md").read_text().split("its content is release `")[1].split("`")[0]
    return stated, release_name(file_hashes(folder))


def test_an_untouched_folder_passes(published, capsys):
    SCRIPT([str(published.folder)])
    printed = capsys.readouterr().out
    assert printed.startswith(f"OK {published.folder}: {len(FILES) - 1} files")
    assert published.digest in printed


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_fails(published, copy, name):
    size = (copy / name).stat().st_size
    for position in {0, size // 3, size // 2, size - 1}:
        for bit in (0, 5):
            flip(copy / name, position, bit)
            assert any(name in failure for failure in verify(copy).failures), (position, bit)
            flip(copy / name, position, bit)
    assert (copy / name).read_bytes() == (published.folder / name).read_bytes()


def test_no_byte_of_the_proof_can_change_not_even_a_blank(copy):
    proof = (copy / "proof.json").read_bytes()
    for position in range(0, len(proof), 487):
        for other in b" \n\t01":
            if proof[position] != other:
                changed = proof[:position] + bytes([other]) + proof[position + 1 :]
                (copy / "proof.json").write_bytes(changed)
                with pytest.raises(ValueError, match=r"proof\.json was changed"):
                    read_proof(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    (failure,) = verify(copy).failures
    assert name in failure


def test_added_files_and_links_to_folders_are_named(copy, tmp_path):
    (copy / "deep").mkdir()
    (copy / "deep" / "evil.py").write_text("")
    (copy / "away").symlink_to(tmp_path)
    assert verify(copy).failures == ("away: added, not in the proof", "deep/evil.py: added, not in the proof")


def test_a_file_that_cannot_be_read_is_named(copy):
    (copy / "metrics.json").unlink()
    (copy / "metrics.json").symlink_to("nowhere")
    (failure,) = verify(copy).failures
    assert failure.startswith("metrics.json: expected SHA-256")
    assert "unreadable (No such file or directory)" in failure


def test_what_git_and_the_hub_put_beside_the_files_is_no_failure(copy):
    (copy / ".gitattributes").write_text("* text")
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("ref")
    (copy / ".cache" / "huggingface").mkdir(parents=True)
    (copy / ".cache" / "huggingface" / "x.metadata").write_text("")
    assert check_files(copy) == []


def test_a_snapshot_of_a_hub_cache_which_is_all_links_passes(copy, tmp_path):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in FILES:
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).symlink_to(copy / name)
    assert check_files(snapshot) == []


def test_anything_but_a_published_folder_is_refused(tmp_path, checkpoint):
    assert verify(tmp_path / "nowhere").failures == (f"Expected a folder, got {str(tmp_path / 'nowhere')!r}.",)
    (failure,) = verify(checkpoint).failures
    assert "proof.json must be readable" in failure


def test_a_better_number_in_the_card_fails_even_with_a_new_proof(copy):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("83.75%", "98.75%"))
    forge(copy)
    failures = verify(copy).failures
    assert any("| accuracy | 83.75% |" in failure for failure in failures)


def test_a_better_number_in_the_metadata_or_metrics_fails_even_with_a_new_proof(copy, published):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("value: 0.8375", "value: 0.9875"))
    forge(copy)
    assert any("[0.9875]" in failure for failure in verify(copy).failures)
    shutil.copyfile(published.folder / "README.md", card)
    metrics = copy / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0.8375", "0.9875"))
    forge(copy)
    assert any("98.75%" in failure for failure in verify(copy).failures)


def test_other_weights_fail_even_with_a_new_proof(copy):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.weight"].mul_(1.01)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    card = copy / "README.md"
    card.write_text(card.read_text().replace(*releases(copy)))
    forge(copy)
    (failure,) = verify(copy).failures
    assert failure.startswith("logits: expected within")


@pytest.fixture
def marker(copy, tmp_path):
    """A file that the code of the folder makes when it runs; its proof, note and card are forged to fit."""
    marker = tmp_path / "it-ran"
    code = copy / "configuration_omni_vision.py"
    code.write_text(code.read_text() + f"\nopen({str(marker)!r}, 'w').close()\n")
    write_note(copy)
    card = copy / "README.md"
    card.write_text(card.read_text().replace(*releases(copy)))
    forge(copy)
    return marker


def test_code_that_is_not_ours_does_not_run(copy, marker):
    (failure,) = verify(copy).failures
    assert "not that of the installed package" in failure
    assert not marker.exists()


@pytest.mark.slow
def test_code_that_is_not_ours_runs_where_it_is_trusted(copy, marker):
    assert verify(copy, trust_remote_code=True).failures == ()
    assert marker.exists()


def test_a_note_with_another_hash_fails_even_with_a_new_proof(copy):
    note = copy / "REMOTE_CODE.md"
    note.write_text(note.read_text().replace("  modeling_omni_vision.py", "  modelling_omni_vision.py"))
    forge(copy)
    failures = verify(copy).failures
    assert any("modelling_omni_vision.py" in failure for failure in failures)


def test_the_script_lists_what_is_wrong_and_exits_with_1(copy, capsys):
    flip(copy / "model.safetensors", -1)
    (copy / "notes.txt").write_text("")
    with pytest.raises(SystemExit) as stop:
        SCRIPT([str(copy)])
    printed = capsys.readouterr().out.splitlines()
    assert stop.value.code == 1
    assert printed[0] == f"FAILED {copy}"
    assert printed[1] == "notes.txt: added, not in the proof"
    assert printed[2].startswith("model.safetensors: expected SHA-256")


def test_the_proof_says_how_it_was_made_and_names_no_path(published):
    proof = json.loads((published.folder / "proof.json").read_text())
    assert proof["command"] == "omni-vision publish --model animals --output a-b --repo_id me/animals"
    assert {"python", "torch", "transformers", "omni-vision"} <= set(proof["versions"])
    assert set(proof["outputs"]) == {"cls", "logits", "mean_token", "pixel_values_pil", "pixel_values_torchvision"}

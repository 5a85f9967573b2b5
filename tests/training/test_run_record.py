from types import SimpleNamespace

from modeling_omni_vision.training.run_record import given_recipe


def test_a_record_names_local_folders_by_their_last_part_and_anything_else_as_it_is(tmp_path):
    (tmp_path / "decoder").mkdir()
    recipe = SimpleNamespace(
        model="/home/jo/runs/tower",
        vision=None,
        text=str(tmp_path / "decoder"),
        dataset="scenes:colour,shape + scenes:count",
        teachers=["/home/jo/runs/one", "somebody/two"],
        muon_learning_rate=0.02,
        given={"model": "/home/jo/runs/tower"},
    )
    assert given_recipe(recipe) == {
        "model": "tower",
        "text": "decoder",
        "dataset": "scenes:colour,shape + scenes:count",
        "teachers": ["one", "somebody/two"],
        "muon_learning_rate": 0.02,
    }

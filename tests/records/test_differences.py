from modeling_omni_vision.records.differences import differences


def test_settings_that_differ_are_named_however_deep_and_no_others_with_short_values():
    before = {"pool": "cls", "processor": {"size": {"height": 28, "width": 28}, "mean": [0.5]}, "digest": "ab" * 32}
    now = {"pool": "cls", "processor": {"size": {"height": 28, "width": 224}}, "digest": "cd" * 32, "new": True}
    assert differences(before, before) == []
    assert differences(before, now) == [
        "processor.size.width 28, now 224",
        "digest 'abababababa..., now 'cdcdcdcdcdc...",
        "new None, now True",
        "processor.mean [0.5], now None",
    ]

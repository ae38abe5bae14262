"""The benchmark of a Dask cluster runs at any scale, and its figures are right."""

import json

import numpy as np
import pytest


def test_data_are_the_same_in_any_process(dask_scale):
    X, y = dask_scale.make_arrays(123_000)
    assert X.chunks == ((122_000, 1_000), (8,), (128,)) and X.dtype == np.float32
    last = y.blocks[1].compute(scheduler="synchronous")
    np.testing.assert_array_equal(last, dask_scale.make_block(1, 1_000)[1])
    assert 0.4 < last.mean() < 0.6


def test_messages_are_counted(dask_scale):
    figures = dask_scale.measure_messages()
    assert figures["tasks_of_10_parts"] == 10 + 1  # and one that adds
    # theta has 129 numbers of 8 bytes, and a sum one more.
    for name in ("bytes_to_a_worker", "bytes_of_a_sum"):
        assert 129 * 8 < figures[name] < 4 * 129 * 8


def test_model(dask_scale):
    few, many = (
        dask_scale.model_evaluation(n, 1e12, 1e3, 1e3, rate=1e9) for n in (10, 1000)
    )
    assert few[0] == pytest.approx(100) and many[0] == pytest.approx(1)
    assert many[1] == pytest.approx(100 * few[1])


@pytest.mark.slow
def test_output(dask_scale, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ["--scale", "1/500", "--gigabytes", "0.005", "--out", str(tmp_path)]
    dask_scale.main([*options, "--only", "fit", "disk", "--json", str(path)])
    figures = json.loads(path.read_text())
    assert figures["fit"]["difference"] < 1e-3
    assert figures["disk"]["reward"] > 0.6
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert "overhead_cpu_s" in capsys.readouterr().out


def test_bad_arguments(dask_scale, assert_refused):
    parse = dask_scale.parse_arguments
    assert_refused(parse, ["--scale", "0"], "--scale must be above 0")
    assert parse([]).gigabytes == 50

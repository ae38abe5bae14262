"""The benchmark of large data runs at any scale, and its figures are right."""

import json
import sys

import numpy as np
import pytest

from skqprobe._candidates.layout import check_layout


@pytest.mark.parametrize("n_prompts", [100, 101])
@pytest.mark.parametrize(
    ("labels", "kind"), [("int", "i"), ("str", "U"), ("object", "O")]
)
def test_groups(large, n_prompts, labels, kind):
    groups = {
        order: large.make_groups(n_prompts, large.Case(order, labels))
        for order in ("sorted", "shuffled")
    }
    layouts = {order: check_layout(g.shape, g) for order, g in groups.items()}
    assert layouts["sorted"].order is None and layouts["shuffled"].order is not None
    for layout in layouts.values():
        assert layout.n_prompts == n_prompts and layout.n_rows == 5 * n_prompts
        assert set(layout.sizes) == set(range(1, 10))
    kinds = {"int": "i", "str": "U", "object": "O"}
    assert groups["sorted"].dtype.kind == kinds[labels]


def test_label_bytes(large):
    names = np.array(["prompt-0000001"] * 10)
    assert large.label_bytes(names) == 10 * 14 * 4
    size = 8 + sys.getsizeof("prompt-0000001")
    assert large.label_bytes(names.astype(object)) == 10 * size


def test_rows_do_not_depend_on_their_number(large):
    X, y = large.make_rows(70_000)
    assert X.dtype == np.float32 and X.shape == (70_000, 64)
    assert set(y) == {0.0, 1.0} and 0.4 < y.mean() < 0.6
    np.testing.assert_array_equal(X[:100], large.make_rows(100)[0])


@pytest.mark.parametrize("section", ["layout", "fit", "choose", "metrics", "transform"])
def test_sections(large, section):
    case = large.Case("shuffled", "str")
    rows, n_bytes = large.measure(section, case, 100)
    assert n_bytes == 500 * 14 * 4
    expected = {
        "layout": 1,
        "fit": len(large.LOSSES),
        "choose": 4,
        "metrics": 7,
        "transform": 2,
    }
    assert len(rows) == len({row.what for row in rows}) == expected[section]
    for row in rows:
        assert row.section == section and row.case == "shuffled, str"
        assert row.seconds > 0 and row.over_product > 0


@pytest.mark.usefixtures("proc")
def test_peak_is_over_the_memory_before(large):
    seconds, peak = large.timed(lambda: np.ones(200_000_000, dtype=np.uint8).sum())
    # Memory that was freed before is reused, if the process has kept it.
    assert seconds > 0 and 100 < peak < 220


def test_without_proc(large, monkeypatch, capsys):
    monkeypatch.setattr(large, "can_measure_memory", lambda: False)
    seconds, peak = large.timed(lambda: None)
    assert seconds >= 0 and peak is None
    large.print_row(large.Row("fit", "sorted, int", "fit", 1.5, None, None, 3.0))
    assert capsys.readouterr().out.split() == ["fit", "1.5", "3"]


def test_output(large, tmp_path, capsys):
    path = tmp_path / "figures.json"
    large.main(["--scale", "1/20000", "--only", "transform", "--json", str(path)])
    printed = capsys.readouterr().out
    assert "100 prompts, 500 rows x 64" in printed
    assert "transform, shuffled, int: labels 0 MB" in printed
    figures = json.loads(path.read_text())
    assert {"versions", "machine", "x_mb", "labels_mb", "rows"} == set(figures)
    assert len(figures["rows"]) == 2 * 2
    assert figures["x_mb"] == 500 * 64 * 4 / 1e6
    for row in figures["rows"]:
        if row["peak_mb"] is not None:
            ratio = row["peak_mb"] / figures["x_mb"]
            assert row["peak_over_x"] == pytest.approx(ratio)


def test_bad_arguments(large, assert_refused):
    parse = large.parse_arguments
    assert_refused(parse, ["--scale", "0"], "--scale must be above 0")
    assert_refused(parse, ["--only", "large"], "invalid choice: 'large'")
    assert parse([]).scale == 1

"""The cache of loaded models, with models that are not real."""

import runpy

import pytest

from skqprobe._backends import model_cache


@pytest.fixture
def load_model():
    """A copy of `load_model` with a cache of its own."""
    return runpy.run_path(model_cache.__file__)["load_model"]


@pytest.fixture
def load():
    """A loader that lists its calls."""

    def load(**settings):
        load.calls.append(settings)
        return object()

    load.calls = []
    return load


def test_a_model_is_loaded_once(load_model, load):
    first = load_model(load, model="a", device=None)
    assert load_model(load, model="a", device=None) is first
    assert load.calls == [{"model": "a", "device": None}]
    assert load_model(load, model="a", device="cpu") is not first


def test_loaders_share_the_cache_but_not_the_models(load_model, load):
    other = load_model(lambda **settings: "other", model="a")
    assert load_model(load, model="a") != other


def test_the_last_two_models_are_kept(load_model, load):
    for model in "abacab":
        load_model(load, model=model)
    assert [call["model"] for call in load.calls] == ["a", "b", "c", "b"]


def test_a_local_model_is_loaded_again_when_its_files_change(
    load_model, load, tmp_path
):
    (tmp_path / "weights").write_bytes(b"1")
    first = load_model(load, model=tmp_path)
    assert load_model(load, model=str(tmp_path)) is first
    assert load.calls == [{"model": str(tmp_path)}]
    (tmp_path / "weights").write_bytes(b"12")
    assert load_model(load, model=tmp_path) is not first


def test_the_home_folder_is_found(load_model, load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "weights").write_bytes(b"1")
    first = load_model(load, model="~/weights")
    assert load_model(load, model=tmp_path / "weights") is first


def test_an_error_is_not_kept(load_model):
    def load(**settings):
        raise OSError(f"attempt {next(attempts)}")

    attempts = iter(range(2))
    for number in range(2):
        with pytest.raises(OSError, match=f"attempt {number}"):
            load_model(load, model="a")

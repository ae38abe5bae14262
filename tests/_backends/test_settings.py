"""Settings that determine the output of embedders and generators."""

import os
from pathlib import Path

import pytest

import skqprobe._backends.settings as settings_module
from skqprobe._backends.settings import file_state, output_settings
from skqprobe.embedders import HiddenStateEmbedder, OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator, TransformersGenerator


def test_file_state(tmp_path):
    assert file_state(tmp_path / "nothing") is None
    (tmp_path / "file").write_bytes(b"123")
    [(_, size, _)] = file_state(tmp_path / "file")
    [(name, same, _)] = file_state(tmp_path)
    assert (name, size, same) == ("file", 3, 3)


@pytest.mark.parametrize("Backend", [HiddenStateEmbedder, TransformersGenerator])
def test_settings_of_a_backend(Backend):
    settings = output_settings(Backend("a/name", model_dtype="auto", device="cuda"))
    assert settings["class"] == f"{Backend.__module__}.{Backend.__name__}"
    assert settings["class"].count("._") == 0  # the public path
    assert settings["model"] == "a/name"
    assert settings["model_dtype"] == "auto"
    assert "model_files" not in settings
    assert not Backend.inert_parameters & set(settings)


@pytest.mark.parametrize("Backend", [HiddenStateEmbedder, TransformersGenerator])
def test_settings_depend_on_the_files_of_a_local_model(tmp_path, Backend):
    folder = tmp_path / "model"
    weights = folder / "part" / "weights"
    weights.parent.mkdir(parents=True)

    def write(content, time):
        weights.write_bytes(content)
        os.utime(weights, ns=(time, time))

    def settings(model=folder):
        return output_settings(Backend(model))

    known = []
    for change in (
        lambda: write(b"1", 1),
        lambda: write(b"12", 2),
        lambda: write(b"13", 3),  # of the same size
        lambda: (folder / "config.json").touch(),  # another file
    ):
        change()
        found = settings()
        assert found not in known and found == settings(str(folder))
        assert isinstance(found["model"], str) and isinstance(found["model_files"], str)
        known.append(found)
    assert "model_files" in settings(weights)
    # Neither the time, nor the place, nor files that are no part of a model count.
    os.utime(weights, ns=(4, 4))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("main")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "code.pyc").write_bytes(b"1")
    assert settings() == found
    moved = folder.rename(tmp_path / "moved")
    assert settings(moved)["model_files"] == found["model_files"]


def test_other_models_in_gguf_do_not_count(tmp_path):
    def settings():
        return output_settings(HiddenStateEmbedder(tmp_path, gguf_file="a.gguf"))

    (tmp_path / "a.gguf").write_bytes(b"1")
    before = settings()
    (tmp_path / "b.gguf").write_bytes(b"1")
    assert settings() == before
    (tmp_path / "a.gguf").write_bytes(b"23")
    assert settings() != before


def test_a_version_of_a_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(b"1")
    first = output_settings(HiddenStateEmbedder(tmp_path))
    monkeypatch.setattr(settings_module, "file_digest", None)
    assert output_settings(HiddenStateEmbedder(tmp_path)) == first


def test_a_model_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    found = output_settings(HiddenStateEmbedder("~/model"))
    full = output_settings(HiddenStateEmbedder(tmp_path / "model"))
    assert found["model_files"] == full["model_files"]


@pytest.mark.parametrize("Backend", [OpenAIEmbedder, OpenAIGenerator])
def test_settings_of_a_server(tmp_path, monkeypatch, Backend):
    monkeypatch.chdir(tmp_path)
    Path("model").touch()  # a file with the name of the model is not the model
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8080/v1/")
    settings = Backend("model")._settings()
    assert "model_files" not in settings
    assert settings["base_url"] == "http://localhost:8080/v1"
    # Parameters that are not used do not make older caches and files invalid.
    assert not {"extra_body", "extra_query"} & settings.keys()
    used = {"extra_body": {"top_k": 0}, "extra_query": {"v": 1, "key": "secret"}}
    settings = Backend("model", **used)._settings()
    assert settings["extra_body"][0] == {"top_k": "***"}
    other = Backend("model", **used | {"extra_body": {"top_k": 1}})._settings()
    assert settings["extra_body"] != other["extra_body"]
    assert settings["extra_query"][0] == {"v": "***", "key": "***"}
    assert "secret" not in str(settings)
    assert not Backend.inert_parameters & set(settings)

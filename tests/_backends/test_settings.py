"""Settings that determine the output of embedders and generators."""

import os
from pathlib import Path

import pytest

from skqprobe._backends.settings import file_state, output_settings
from skqprobe.embedders import HiddenStateEmbedder, OpenAIEmbedder
from skqprobe.generators import OpenAIGenerator, TransformersGenerator


def test_file_state(tmp_path):
    assert file_state(tmp_path / "nothing") is None
    (tmp_path / "file").write_bytes(b"123")
    (name, size, _), *rest = file_state(tmp_path / "file")
    assert (name, size, rest) == ("file", 3, [])
    assert len(file_state(tmp_path)) == 1


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
    weights = tmp_path / "part" / "weights"
    weights.parent.mkdir()

    def settings(model=tmp_path):
        return output_settings(Backend(model))

    known = []
    for change in (
        lambda: weights.write_bytes(b"1"),
        lambda: weights.write_bytes(b"12"),  # another size
        lambda: os.utime(weights, ns=(1, 1)),  # another time
        lambda: (tmp_path / "config.json").touch(),  # another file
    ):
        change()
        found = settings()
        assert found not in known and found == settings(str(tmp_path))
        assert isinstance(found["model"], str) and isinstance(found["model_files"], str)
        known.append(found)
    assert "model_files" in settings(weights)


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
    assert settings["extra_body"] == {"top_k": 0}
    assert settings["extra_query"] == {"v": 1, "key": "***"}
    assert not Backend.inert_parameters & set(settings)
